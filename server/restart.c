/* Starting bottles again: by their policy, and when a client asks for it.
 *
 * A bottle that has ended and is to be started again is `restarting`, with the moment of its next
 * start in its row, stored together with its end: so it survives a restart of bottled at any point.
 * The start itself is one as a client's, with a new boot of the machine: what a command leaves in
 * memory, in the guest's kernel or in a run of its programs does not reach the next run of it, and
 * a machine that broke is whole again.
 *
 * The wait before it doubles from one to the next up to a bound. A run that was healthy (long
 * enough, by the supervisor's clock) sets the wait and the count back. A start that is refused (no
 * room for another bottle, a secret that can't be read) counts as one that failed.
 *
 * A client's restart is a stop with a mark in the row, `again`: what the stop ends with is then
 * `restarting` too, at once. A client's stop takes the mark away, and the start with it. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "server/engine_internal.h"
#include "server/host_clock.h"

static const struct restart_spec *policy_of(struct runner *runner)
{
    const struct plan *plan = plan_ref_get(runner->plan, NULL);

    return plan ? &plan->spec.restart : NULL;
}

static bool wanted(const struct restart_spec *policy, const struct bottle_row *row)
{
    if (!policy || !policy->policy || strcmp(policy->policy, "never") == 0)
        return false;
    return strcmp(policy->policy, "always") == 0 || row->state == STATE_FAILED ||
           (row->has_exit_code && row->exit_code != 0);
}

static int64_t retries_max(const struct restart_spec *policy)
{
    if (policy->max_retries >= 0)
        return policy->max_retries;
    return strcmp(policy->policy, "always") == 0 ? 0 : RESTART_RETRIES;
}

/* What is waited before the n-th restart in a row, n from 1 on. */
static int64_t backoff_ms(const struct restart_spec *policy, int64_t n)
{
    int64_t seconds = policy->backoff_seconds;

    while (--n > 0 && seconds < policy->backoff_max_seconds)
        seconds *= 2;
    return (seconds < policy->backoff_max_seconds ? seconds : policy->backoff_max_seconds) * 1000;
}

static void set_moment(struct bottle_row *row, int64_t in_ms)
{
    row->state = STATE_RESTARTING;
    row->restart_clock_ms = host_clock_ms() + in_ms;
    row->restart_ms = clock_wall_ms() + in_ms;
}

static void set_reason(struct bottle_row *row, const char *more)
{
    char words[REASON_SIZE + 128], end[64];

    (void)snprintf(end, sizeof end, "the command ended with exit code %d", row->exit_code);
    (void)snprintf(words, sizeof words, "%s; %s", row->reason[0] ? row->reason : end, more);
    reason_copy(row->reason, words);
}

/* Plans the next start of one that has ended by itself, if there is to be one. */
static void plan_next(struct runner *runner)
{
    struct bottle_row *row = &runner->row;
    const struct restart_spec *policy = policy_of(runner);
    char words[96];

    if (!wanted(policy, row))
        return;
    int64_t most = retries_max(policy);
    if (most && row->retries >= most) {
        (void)snprintf(words, sizeof words,
                       "to start it again was tried %lld times in a row, as often as its plan "
                       "allows",
                       (long long)row->retries);
        set_reason(row, words);
        return;
    }
    row->retries++;
    set_reason(row, "it is started again");
    set_moment(row, backoff_ms(policy, row->retries));
}

/* How long the command ran. */
static int64_t ran_ms(const struct runner *runner)
{
    if (runner->has_final)
        return runner->said.ran_ms;
    return runner->running_ms ? clock_monotonic_ms() - runner->running_ms : 0;
}

void restart_decide(struct runner *runner)
{
    struct bottle_row *row = &runner->row;
    const struct restart_spec *policy;

    row->restart_clock_ms = row->restart_ms = 0;
    if (row->again) {
        row->again = false;
        row->restarts = row->retries = 0;
        set_moment(row, 0);
        return;
    }
    /* A client that has started it is told that it could not be: that is no end. */
    if (runner->stop_requested ||
        (runner->starter && !runner->starter->automatic && !runner->heard))
        return;
    policy = policy_of(runner);
    if (policy && ran_ms(runner) >= policy->healthy_seconds * 1000)
        row->retries = 0;
    plan_next(runner);
}

/* --- The start -------------------------------------------------------------------------------- */

struct restart {
    struct engine *engine;
    char slug[SLUG_MAX + 1];
};

/* The start was refused before anything ran. */
static void refused(struct runner *runner, const char *why)
{
    struct bottle_row *row = &runner->row;
    char words[REASON_SIZE + 64];

    row->state = STATE_FAILED;
    row->restart_clock_ms = row->restart_ms = 0;
    row->has_exit_code = false;
    (void)snprintf(words, sizeof words, "it could not be started again: %s", why);
    reason_copy(row->reason, words);
    plan_next(runner);
    runner_save(runner, SAVE_FOLLOW, true, true, NULL);
}

static void started(void *context, struct snapshot *snapshot, const struct problem *problem)
{
    struct restart *restart = context;
    struct runner *runner = problem ? runner_find(restart->engine, restart->slug) : NULL;

    (void)snapshot;
    if (runner && !restart->engine->closing && runner->phase == PHASE_REST &&
        (runner->row.state == STATE_RESTARTING || runner->row.state == STATE_FAILED))
        refused(runner, problem->detail);
    free(restart);
}

void restart_due(struct engine *engine, const char *slug)
{
    struct restart *restart = must_alloc(sizeof *restart);
    struct op *op = op_new(slug, VERB_AGAIN, restart);

    restart->engine = engine;
    (void)snprintf(restart->slug, sizeof restart->slug, "%s", slug);
    op->done = started;
    op->automatic = true;
    op_submit(engine->app, op);
}

void again_op(struct runner *runner, struct op *op)
{
    const struct bottle_row *row = &runner->row;

    if (runner->phase == PHASE_REST && row->state == STATE_RESTARTING &&
        row->restart_clock_ms <= host_clock_ms())
        start_op(runner, op);
    else
        op_answer_present(runner->engine, op);
}

/* --- Clients ---------------------------------------------------------------------------------- */

void restart_op(struct runner *runner, struct op *op)
{
    if (op->under_way) {
        op_answer_present(runner->engine, op);
        return;
    }
    if (runner->phase != PHASE_LIVE) {
        start_op(runner, op); /* which says so where it can't be */
        return;
    }
    bool stops = runner->stop_requested, was_again = runner->row.again;
    op->under_way = true;
    runner->row.again = true;
    follow_request_stop(runner, op->grace_ms);
    if (stops && !was_again)
        runner_save(runner, SAVE_FOLLOW, true, false, NULL);
    runner_dispatch(runner, op);
}

void restart_cancel(struct runner *runner)
{
    struct bottle_row *row = &runner->row;
    bool was_again = row->again, waits = row->state == STATE_RESTARTING;

    row->again = false;
    row->restart_clock_ms = row->restart_ms = 0;
    if (waits && runner->phase == PHASE_REST) {
        row->state = STATE_STOPPED;
        reason_copy(row->reason, "it was stopped before it was started again");
    }
    if (waits || was_again)
        runner_save(runner, SAVE_FOLLOW, true, waits, NULL);
}

static void cancel_one(struct engine *engine, const char *slug)
{
    struct snapshot *snapshot = registry_get(engine->app->registry, slug);

    if (snapshot && snapshot->bottle.state == STATE_RESTARTING) {
        struct runner *runner = runner_take(engine, snapshot);
        if (runner->phase == PHASE_REST)
            restart_cancel(runner);
        runner_settle(runner);
    }
    snapshot_release(snapshot);
}

void restarts_cancel(struct engine *engine)
{
    alarms_each(engine, cancel_one);
}
