/* What the importer's files share. */
#pragma once

#include "base/argv.h"
#include "server/import.h"

#define JAIL_WORK "/work"
#define JAIL_TMP "/work/tmp"
#define JAIL_INPUT "/in"

enum { IMPORT_JSON_MAX = 4 * 1024 * 1024 };

/* One import under way. */
struct work {
    const struct import *import;
    struct image_reference reference;
    char *path;       /* the work folder */
    int fd;           /* the same */
    unsigned uid;     /* whose it is; 0: ours */
    int64_t began_ms; /* wall clock */
    int64_t until_ms; /* monotonic */
};

/* How a program is run in its jail. */
struct jailed {
    const char *step;        /* in words: "copying" */
    const char *const *argv; /* as in the jail */
    bool network;            /* the host's */
    bool reads_all;          /* may read any file that it sees */
    bool as_ourselves;       /* for a tree whose files are many users' */
    const char *input;       /* a directory of the host, read-only at JAIL_INPUT, or NULL */
    const char *const *env;  /* NAME, value, …, NULL; or NULL */
    const char *counted;     /* the folder in the work folder that the limits are for, or NULL */
    int64_t times;           /* how often the limits are granted for it */
};

/* To its end, under the limits. Its last line of output is in the words of a failure. `ret_output`
 * (may be NULL) is what it printed on stdout, at most IMPORT_JSON_MAX; the caller frees. */
int import_jailed(const struct work *work, const struct jailed *jailed, char **ret_output,
                  struct error *err);
/* A file below the work folder, no part of it a link, at most `limit` bytes; NULL with *err. The
 * caller frees. */
char *import_read(const struct work *work, const char *path, size_t limit, size_t *ret_length,
                  struct error *err);
/* The same as an open descriptor of a regular file, or -1. */
int import_open(const struct work *work, const char *path, struct error *err);
/* Bytes and entries below a folder of the work folder, as far as it can be read; -1: deeper than an
 * image may be. */
int import_count(const struct work *work, const char *path, int64_t *ret_bytes, int64_t *ret_files);
/* Copies the layout or archive into the work folder, bounded: "in" (a folder) or "in.tar". Links
 * are not followed but where the client's own path goes over them. */
int import_copy_input(const struct work *work, bool *ret_archive, struct error *err);
