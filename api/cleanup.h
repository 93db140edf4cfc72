/* The cleanup plan: everything that deleting a bottle would remove, and, once carried out, what
 * became of each. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum cleanup_kind {
    CLEANUP_PROCESS,
    CLEANUP_SOCKET,
    CLEANUP_PORT,
    CLEANUP_DIRECTORY,
    CLEANUP_FILE,
    CLEANUP_MOUNT,
    CLEANUP_CGROUP,
    CLEANUP_RECORD,
    N_CLEANUP_KINDS
};
extern const char *const cleanup_kind_names[N_CLEANUP_KINDS];

struct cleanup_item {
    enum cleanup_kind kind;
    char *name;   /* path, "127.0.0.1:20001", "qemu (pid 12)", … owned */
    char *reason; /* why it is there; owned */
    char *action; /* "kill", "remove", "release", "delete"; owned */
    int64_t bytes;
    char *outcome; /* NULL until carried out: "removed", "gone", or "failed: …"; owned */
};

struct cleanup_plan {
    char slug[64];
    struct cleanup_item *items;
    size_t count, room;
};

/* Appends; copies the strings. -1 when memory is short. */
int cleanup_add(struct cleanup_plan *plan, enum cleanup_kind kind, const char *name,
                const char *reason, const char *action, int64_t bytes);
/* Moves all items of `more` to the end of `plan`. -1 when memory is short. */
int cleanup_append(struct cleanup_plan *plan, struct cleanup_plan *more);
/* Copies the words. */
void cleanup_outcome(struct cleanup_item *item, const char *outcome);
/* {slug, empty, total_bytes, items: [{id, kind, name, owner, reason, action, bytes, outcome?}]};
 * ids are stable: they come from kind and name. Caller owns. */
json_t *cleanup_encode(const struct cleanup_plan *plan);
/* Appends the items of what cleanup_encode() made, but those that are in `plan` by kind and name.
 * Of an outcome that is a failure nothing is kept: it is to be tried again. -1: it is no such
 * thing, or memory is short. */
int cleanup_decode(const json_t *json, struct cleanup_plan *plan);
/* ETag of what would be removed (not of outcomes, nor of byte counts): 16 hex digits and NUL. */
void cleanup_tag(const struct cleanup_plan *plan, char ret[17]);
void cleanup_free(struct cleanup_plan *plan);
