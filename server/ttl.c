/* A bottle's time to live.
 *
 * It counts from the bottle's making, and anew from each PATCH of it, on the host's clock
 * (server/host_clock.h), in every state, also while the bottle is paused, stopped, or bottled is
 * down. When it is over the bottle is stopped as a client would stop it, and once it is at rest it
 * is deleted with all that it has. Nothing of that is kept: a daemon that starts finds the time
 * over and the bottle there, and goes on with what is left to do. A PATCH that comes before the
 * delete has begun keeps the bottle. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "server/engine_internal.h"
#include "server/events.h"
#include "server/host_clock.h"
#include "server/log.h"

enum {
    SHOWN_MS = 1000,  /* by how much what is shown may be wrong */
    RETRY_MS = 60000, /* after a delete that failed */
};

void ttl_begin(struct bottle_row *row, int64_t seconds)
{
    row->expires_clock_ms = seconds ? host_clock_ms() + seconds * 1000 : 0;
    row->expires_ms = seconds ? clock_wall_ms() + seconds * 1000 : 0;
}

bool ttl_is_over(const struct bottle_row *row)
{
    return row->expires_clock_ms && row->expires_clock_ms <= host_clock_ms();
}

static bool show(int64_t clock_ms, int64_t *wall_ms)
{
    int64_t now_ms = clock_ms ? host_clock_to_wall(clock_ms) : 0;

    if (llabs(now_ms - *wall_ms) <= SHOWN_MS)
        return false;
    *wall_ms = now_ms;
    return true;
}

bool clocks_show(struct bottle_row *row)
{
    bool end = show(row->expires_clock_ms, &row->expires_ms);

    return show(row->restart_clock_ms, &row->restart_ms) || end;
}

/* --- Its end ---------------------------------------------------------------------------------- */

struct expiry {
    struct engine *engine;
    char slug[SLUG_MAX + 1];
};

static void deleted(void *context, const struct cleanup_plan *plan, const struct problem *problem)
{
    struct expiry *expiry = context;

    (void)plan;
    if (problem && !expiry->engine->closing) {
        log_event(LEVEL_WARNING, "a bottle whose time is over stays",
                  LOG_TEXT("slug", expiry->slug), LOG_TEXT("detail", problem->detail));
        alarms_retry(expiry->engine, expiry->slug, RETRY_MS);
    }
    free(expiry);
}

/* Its stop is under way, or there was nothing to do. */
static void looked_at(void *context, struct snapshot *snapshot, const struct problem *problem)
{
    (void)snapshot, (void)problem;
    free(context);
}

void ttl_due(struct engine *engine, const char *slug)
{
    struct expiry *expiry = must_alloc(sizeof *expiry);
    struct op *op = op_new(slug, VERB_EXPIRE, expiry);

    expiry->engine = engine;
    (void)snprintf(expiry->slug, sizeof expiry->slug, "%s", slug);
    op->done = looked_at;
    op->automatic = true;
    op_submit(engine->app, op);
}

static void tell(struct runner *runner)
{
    struct event_list *list = NULL;

    if (!alarms_first_time(runner->engine, runner->slug))
        return;
    log_event(LEVEL_INFO, "a bottle's time is over", LOG_TEXT("slug", runner->slug));
    if ((list = event_list_new(runner->slug)))
        event_list_add(list, "bottle.expired", NULL);
    event_list_submit(list, runner->engine->app->store);
}

void expire_op(struct runner *runner, struct op *op)
{
    bool over = ttl_is_over(&runner->row); /* it may have been given more meanwhile */

    if (over && runner->phase != PHASE_DELETE)
        tell(runner);
    if (over && runner->phase == PHASE_LIVE) {
        runner->row.again = false;
        follow_request_stop(runner, STOP_GRACE_MS);
        op_answer_present(runner->engine, op);
    } else if (over) {
        op->done = NULL;
        op->cleaned = deleted;
        op->verb = VERB_DELETE;
        delete_op(runner, op);
    } else {
        op_answer_present(runner->engine, op);
    }
}
