/* A bottle plan as the client sent it: decoded by a table of fields, bounded, every fault reported
 * at once.
 *
 * The rows of the table also give GET /limits and are compared with openapi.yaml by a test. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/field.h"
#include "api/problem.h"
#include "renderers/config.h"
#include "renderers/render.h"

enum { SLUG_MAX = 63, MOUNTS_MAX = 8 };

struct rule_list {
    struct egress_rule *items; /* hosts are owned */
    size_t count;
};

/* Where a secret's value comes from: one of them, the other is NULL. */
struct secret_ref {
    char *from_file; /* absolute, normal */
    char *from_env;
};

/* A secret's value in bytes, and how many a plan may have (total: with their names). */
enum { DISK_MAX_MIB = 1024 * 1024 };
enum { SECRETS_MAX = 64, SECRET_VALUE_MAX = 65536, SECRETS_TOTAL_MAX = 262144 };

/* Whether and when the command is run again. */
struct restart_spec {
    char *policy;        /* "never", "on-failure", "always" */
    int64_t max_retries; /* in a row; 0: no end, -1: RESTART_RETRIES on-failure, else no end */
    int64_t backoff_seconds, backoff_max_seconds, healthy_seconds;
};
enum { RESTART_RETRIES = 10, TTL_SECONDS_MAX = 366 * 24 * 3600 };

/* A directory of the host. */
struct mount_spec {
    char *source, *target; /* absolute, normal */
    bool read_only;
};

struct spec {
    char *slug;    /* NULL: make one up */
    char *backend; /* "auto", "qemu", "smolmachines"; never NULL once decoded (defaults) */
    char *image;   /* "builtin:busybox" */
    struct string_list command; /* empty: the image's own */
    char *workdir;              /* absolute, normal; NULL: the image's own */
    struct string_map env;
    int64_t cpus, memory_mib;
    int64_t disk_mib;         /* 0: what the guest writes is in memory */
    struct string_list allow; /* the hosts as sent */
    struct rule_list rules;   /* the same, parsed */
    char *engine;             /* "auto" or a row of the engines' table (backends/engines.h) */
    bool git_gate, supervise;
    struct string_map labels;
    struct object_map secrets; /* of struct secret_ref */
    char *reload_signal;       /* as exec_signal_name has it; NULL: none */
    struct object_list mounts; /* of struct mount_spec, in the order that was sent */
    int64_t ttl_seconds;       /* 0: without end */
    struct restart_spec restart;
    json_t *json; /* the validated object, as sent; a copy */
};

/* Decodes and validates. 0 and *ret (release with spec_free), or -1 with every fault in *problem.
 */
int spec_decode(const json_t *body, struct spec *ret, struct problem *problem);
void spec_free(struct spec *spec);
/* The reference of that name, or NULL. */
const struct secret_ref *spec_secret(const struct spec *spec, const char *name);
/* [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])? */
bool slug_valid(const char *slug);
/* Is a normal path `folder` itself or something in it? */
bool path_below(const char *path, const char *folder);
/* The i-th mount that was sent. */
const struct mount_spec *spec_mount(const struct spec *spec, size_t i);
/* A pronounceable-enough fresh slug from random bytes ("bottle-3f9c2a7b"). */
void slug_make(char ret[64]);
/* "host", "*.suffix", "host:port", each lower-cased, trailing dot dropped. NULL, or what is wrong
 * with it (static text that ends a sentence). ret->host is owned by the caller. */
const char *egress_rule_parse(const char *text, struct egress_rule *ret);

/* One row of the plan's table, as GET /limits and the tests see it. */
struct spec_field {
    const char *pointer;       /* "/resources/cpus"; "*" stands for a name or an index */
    const char *type;          /* "string", "integer", "array", "object", … as in JSON Schema */
    int64_t minimum, maximum;  /* bytes of a string, members, or value, by type; -1: none */
    int64_t total;             /* bytes of a whole array or object; -1: no such bound */
    bool or_object;            /* of a string: an object may stand for it, its members follow */
    const char *pattern;       /* ECMA 262 pattern of a string, or NULL */
    const char *names;         /* pattern of an object's member names, or NULL: they are fixed */
    int64_t names_maximum;     /* bytes of such a name; -1: none */
    const char *const *values; /* the only ones allowed, NULL-terminated, or NULL */
    const char *fallback;      /* a string's default, or NULL */
    int64_t fallback_number;   /* an integer's default */
    bool required, unsupported;
    const char *doc;
};
/* Parents come before their members. */
const struct spec_field *spec_fields(size_t *ret_count);
/* The rows as JSON, for GET /limits: [{pointer, type, required, supported, description, …}], with
 * the bounds that a row has. Caller owns; NULL when memory is short. */
json_t *spec_fields_encode(void);
/* The same of an exec's. */
json_t *exec_fields_encode(void);
/* The table itself; the rows above are made from it. */
const struct field *spec_rows(size_t *ret_count);
