/* A start as it goes, in lines of NDJSON: each state that the bottle comes to, what its command
 * prints, and last a line with exit_code. */
#pragma once

#include "api/problem.h"
#include "server/app.h"
#include "server/registry.h"
#include "server/request.h"

struct progress;

/* Begins to watch a bottle, and its log from here on: before it is started. `wait`: the states that
 * end it, a bit each (those at rest end it anyway); `until_ms`: by the monotonic clock. NULL:
 * *problem says why. */
struct progress *progress_new(struct app *app, const struct snapshot *bottle, unsigned wait,
                              int64_t until_ms, struct problem *problem);
/* Says a state of which nothing was seen: the one in which the bottle was made or found. */
void progress_begin(struct progress *progress, struct snapshot *snapshot);
/* The body; takes the progress over. */
struct stream progress_stream(struct progress *progress);
/* One that became no body; NULL: nothing. */
void progress_free(struct progress *progress);
/* The last lines of a bottle's console. The caller owns. */
json_t *console_tail(const struct app *app, const char *slug);
