/* The SQLite store: what was acknowledged. One writer thread takes queued writes in order and
 * commits many in one transaction (one fsync); a caller hears of its write only after that commit.
 */
#pragma once

#include <sqlite3.h>
#include <stdint.h>

#include "base/error.h"

struct store;

struct store *store_open(const char *state_dir, struct error *err);
void store_close(struct store *store); /* commits what is queued first */

/* One write: `apply` runs inside a savepoint on the writer thread (-1 with err set rolls just it
 * back); `done` runs on the writer thread after the commit, with NULL, or with why it was not
 * stored. */
struct store_write {
    int (*apply)(sqlite3 *db, void *context, struct error *err);
    void (*done)(void *context, const struct error *failure);
    void *context;
};
void store_submit(struct store *store, const struct store_write *write);
/* The same for a thread that may wait: returns after the commit, -1 with what was not stored. Never
 * from the writer's thread. */
int store_write_now(struct store *store,
                    int (*apply)(sqlite3 *db, void *context, struct error *err), void *context,
                    struct error *err);
/* `told` is called on the writer thread after each commit; one at a time (NULL: none). */
void store_tell(struct store *store, void (*told)(void *context), void *context);
/* Reads every row at start, before the writer runs anything. */
int store_read(struct store *store, int (*read)(sqlite3 *db, void *context, struct error *err),
               void *context, struct error *err);
/* Reads through a connection of its own, at any time and from any thread: what was committed, in
 * one transaction, without waiting for the writer's disk. */
int store_look(struct store *store, int (*read)(sqlite3 *db, void *context, struct error *err),
               void *context, struct error *err);
/* 0 when a write could be committed just now (for /readyz). Cheap; from any thread. */
int store_health(struct store *store, struct error *err);
