/* The rows behind server/config.h: what flags, YAML keys, --help and --print-config are made from.
 */
#pragma once

#include <stddef.h>

#include "server/config.h"

enum config_type {
    CONFIG_PATH,     /* made absolute; "" is unset */
    CONFIG_PATHS,    /* DIR[:DIR…] */
    CONFIG_HOSTS,    /* NAME[:PORT][,…], in lower case */
    CONFIG_NAMES,    /* NAME[,NAME…] of environment variables */
    CONFIG_WORD,     /* a name, or "" */
    CONFIG_ORIGINS,  /* ORIGIN[,ORIGIN…] */
    CONFIG_CHOICE,   /* one of `choices` */
    CONFIG_INTEGER,  /* in [minimum, maximum] */
    CONFIG_DURATION, /* milliseconds in [minimum, maximum] */
    CONFIG_PORTS,    /* FIRST-LAST in [minimum, maximum], into two integers */
    CONFIG_BOOLEAN,
    CONFIG_LISTEN, /* ADDR:PORT; repeatable, a YAML list */
};

struct config_key {
    const char *name; /* the YAML key; the flag has dashes for its underscores */
    enum config_type type;
    size_t offset;       /* of the field in struct config */
    const char *initial; /* default, as one would write it; NULL: worked out by config.c */
    int64_t minimum, maximum;
    const char *choices; /* "error|warning|info|debug" */
    const char *words;   /* what stands for the value in --help */
    const char *doc;
    bool live; /* a changed value takes effect on SIGHUP; else it wants a restart */
};

extern const struct config_key config_keys[];
extern const size_t n_config_keys;

/* The row of that YAML key, or NULL. */
const struct config_key *config_key(const char *name);
/* Parses `value` and sets the field; a list grows by it. */
int config_set(struct config *config, const struct config_key *key, const char *value,
               struct error *err);
/* Sets what a YAML file holds: one mapping of keys to scalars (or lists, where repeatable). Faults
 * name file and line. */
int config_read_file(struct config *config, const char *path, struct error *err);
/* The same from text; `path` is for the words of faults. */
int config_read_text(struct config *config, const char *path, const char *text, size_t length,
                     struct error *err);
/* Have the two another value for that key? Also when memory is short. */
bool config_differs(const struct config *a, const struct config *b, const struct config_key *key);
/* YAML that loads back the same, with what each key means as a comment above it. Caller frees; NULL
 * when memory is short. */
char *config_text(const struct config *config);
