/* Is gvproxy still itself?
 *
 * A guest can wedge gvproxy (a frame of fewer than six bytes leaves it alive and dead to the
 * network); of its services only /cam then gives no answer. So /cam is asked once a second over the
 * services socket. The bottle ends when two questions in a row get no answer in time.
 *
 * No false alarm: a machine that is slow is slow for us too. We measure how late our own timers
 * come; a question during which we were late ourselves does not count, up to a bound.
 *
 * The guest can't answer in gvproxy's place: the socket is held by its inode from before the guest
 * starts, so the question goes to the first one whatever lies at its path later. Another inode at
 * the path is itself a finding. */
#pragma once

#include <stdbool.h>

#include "base/loop.h"

struct health_owner {
    /* gvproxy is not what it was, in words. Called once; then the probing is over. */
    void (*lost)(void *context, const char *why);
    void *context;
};

struct health;

/* Begins to probe gvproxy by the sockets in `directory`, which are there. NULL on failure. */
struct health *health_new(struct loop *loop, const char *directory,
                          const struct health_owner *owner, struct error *err);
void health_free(struct health *health);
/* Asks no more for a while, or begins anew: one whose guest stands still may have to wait for it.
 */
void health_hold(struct health *health, bool hold);

enum { HEALTH_MISSES = 2, HEALTH_EXCUSED_MAX = 20 };

/* Judges one question that got no answer: are there now enough of them? `late_ms` is by how much
 * our own timers came late while it was open. The counters begin at 0; an answer sets them back. */
bool health_miss(int64_t late_ms, unsigned *misses, unsigned *excused);
