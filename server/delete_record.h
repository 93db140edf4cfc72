/* The record of a delete that is under way: its cleanup plan, with the outcomes so far, in the
 * bottle's row. So a delete that was interrupted goes on where it was, and its answer tells of what
 * was removed before as well. */
#pragma once

#include "api/cleanup.h"
#include "server/store.h"

/* Queues the plan, right behind the row that says `deleting`. */
void delete_record_begin(struct store *store, const char *slug, const struct cleanup_plan *plan);
/* Stores the plan; returns once it is. Worker threads only. */
int delete_record(struct store *store, const char *slug, const struct cleanup_plan *plan,
                  struct error *err);
/* Adds what is on record to a plan that was just made; nothing where there is none. Worker threads
 * only. -1 with err. */
int delete_recall(struct store *store, const char *slug, struct cleanup_plan *plan,
                  struct error *err);
