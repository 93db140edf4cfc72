/* Runners: one bottle that has something going on; its saves, its jobs, its deferred requests. */
#include <stdio.h>

#include "base/clock.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/log.h"
#include "server/stage.h"

enum { SAVE_AGAIN_MS = 1000 };

/* --- Life ------------------------------------------------------------------------------------- */

struct runner *runner_find(struct engine *engine, const char *slug)
{
    struct runner *runner;

    HASH_FIND_STR(engine->runners, slug, runner);
    return runner;
}

static void on_save_again(struct loop_timer *timer)
{
    struct runner *runner = timer->data;

    runner_save(runner, runner->save_again_mode, false, true, runner->save_again_then);
}

struct runner *runner_take(struct engine *engine, struct snapshot *snapshot)
{
    const struct host *host = &engine->app->host;
    struct runner *runner = runner_find(engine, snapshot->bottle.slug);

    if (runner)
        return runner;
    runner = must_alloc(sizeof *runner);
    runner->engine = engine;
    snapshot_row(snapshot, &runner->row);
    memcpy(runner->slug, snapshot->bottle.slug, sizeof runner->slug);
    runner->plan = plan_ref_ref(snapshot->plan);
    runner->run_dir = run_path(host, runner->slug);
    runner->stage_dir = stage_path(host, runner->slug);
    if (!runner->run_dir || !runner->stage_dir)
        abort();
    runner->pidfd = runner->ready_source.fd = runner->connection.fd = -1;
    runner->deferred_last = &runner->deferred;
    runner->save_again = (struct loop_timer){.callback = on_save_again, .data = runner};
    HASH_ADD_STR(engine->runners, slug, runner);
    return runner;
}

static void close_source(struct loop *loop, struct loop_source *source)
{
    loop_remove(loop, source);
    if (source->fd >= 0)
        (void)close(source->fd);
    source->fd = -1;
}

void runner_unfollow(struct runner *runner)
{
    struct loop *loop = runner->engine->loop;

    close_source(loop, &runner->ready_source);
    close_source(loop, &runner->connection);
    loop_remove(loop, &runner->end_source);
    if (runner->pidfd >= 0)
        (void)close(runner->pidfd);
    runner->pidfd = -1;
    loop_timer_cancel(loop, &runner->retry);
    loop_timer_cancel(loop, &runner->kill);
    loop_timer_cancel(loop, &runner->egress_save);
}

void runner_free(struct runner *runner)
{
    runner_refuse_all(runner);
    runner_unfollow(runner);
    loop_timer_cancel(runner->engine->loop, &runner->save_again);
    runner_set_live(runner, false);
    HASH_DEL(runner->engine->runners, runner);
    delete_forget(runner);
    patch_forget(runner);
    plan_ref_unref(runner->plan);
    free(runner->run_dir);
    free(runner->stage_dir);
    free(runner);
}

void runner_set_live(struct runner *runner, bool live)
{
    if (live && !runner->live)
        runner->engine->n_live++;
    if (!live && runner->live)
        runner->engine->n_live--;
    runner->live = live;
}

/* --- Requests --------------------------------------------------------------------------------- */

bool runner_blocked(const struct runner *runner)
{
    static const bool always[] = {
        [PHASE_LAUNCH] = true, [PHASE_ENDING] = true, [PHASE_DELETE] = false};

    if (runner->phase == PHASE_DELETE)
        return false;
    return always[runner->phase] || runner->writes > 0 || runner->jobs > 0;
}

void runner_defer(struct runner *runner, struct op *op)
{
    op->next = NULL;
    *runner->deferred_last = op;
    runner->deferred_last = &op->next;
}

static struct op *take_deferred(struct runner *runner)
{
    struct op *op = runner->deferred;

    if (op && !(runner->deferred = op->next))
        runner->deferred_last = &runner->deferred;
    return op;
}

static void show_op(struct runner *runner, struct op *op)
{
    op_answer_present(runner->engine, op);
}

static void run_now(struct runner *runner, struct op *op)
{
    static void (*const verbs[])(struct runner *, struct op *) = {
        [VERB_START] = start_op,   [VERB_STOP] = stop_op,
        [VERB_DELETE] = delete_op, [VERB_PATCH] = patch_op,
        [VERB_REPORT] = report_op, [VERB_SHOW] = show_op,
        [VERB_EXEC] = exec_op,     [VERB_EXEC_RESULT] = exec_result_op,
        [VERB_RELOAD] = reload_op, [VERB_RESTART] = restart_op,
        [VERB_PAUSE] = pause_op,   [VERB_RESUME] = pause_op,
        [VERB_EXPIRE] = expire_op, [VERB_AGAIN] = again_op};

    verbs[op->verb](runner, op);
}

void runner_dispatch(struct runner *runner, struct op *op)
{
    if (runner_blocked(runner))
        runner_defer(runner, op);
    else
        run_now(runner, op);
}

void runner_refuse_all(struct runner *runner)
{
    static const char words[] = "bottled is ending; the bottles run on: ask again once it is back";

    for (struct op *op; (op = take_deferred(runner));)
        op_refuse(op, "shutting-down", words);
    if (runner->starter)
        op_refuse(runner->starter, "shutting-down", words);
    runner->starter = NULL;
    patch_refuse(runner);
    report_end(runner, "shutting-down", words);
    reload_end(runner, "shutting-down", words);
    exec_end(runner, "shutting-down", words);
    pause_end(runner, "shutting-down", words);
    delete_refuse(runner);
}

/* Its resolved plan is no longer needed. */
static void rest(struct runner *runner)
{
    struct registry *registry = runner->engine->app->registry;
    struct snapshot *snapshot = registry_get(registry, runner->slug);
    struct plan_ref *plan = snapshot ? plan_ref_unresolved(snapshot->plan) : NULL;
    struct bottle_row row;

    if (plan) {
        snapshot_row(snapshot, &row);
        registry_publish(registry, must_snapshot(&row, plan));
    }
    plan_ref_unref(plan);
    snapshot_release(snapshot);
}

void runner_settle(struct runner *runner)
{
    while (runner->deferred && !runner_blocked(runner) && !runner->gone)
        run_now(runner, take_deferred(runner));
    if (runner->phase == PHASE_DELETE && !runner->gone)
        delete_go_on(runner);
    if (runner->gone)
        for (struct op *op; (op = take_deferred(runner));)
            op_refuse_unknown(op);
    bool idle =
        runner->phase == PHASE_REST && !runner_blocked(runner) && !runner->save_again.active;
    if (idle && !runner->gone)
        rest(runner);
    if (runner->gone || idle)
        runner_free(runner);
}

/* --- Saving ----------------------------------------------------------------------------------- */

struct change {
    struct message message;
    struct runner *runner;
    struct bottle_row row;
    enum save_mode mode;
    bool event, failed;
    struct error failure;
    save_then *then;
};

static int change_apply(sqlite3 *db, void *context, struct error *err)
{
    const struct change *change = context;

    if (row_update(db, &change->row, err) < 0)
        return -1;
    return change->event ? event_insert_state(db, &change->row, err) : 0;
}

/* The store's thread. The engine does not end while a change is in flight, so posting works. */
static void change_done(void *context, const struct error *failure)
{
    struct change *change = context;

    change->failed = failure != NULL;
    if (failure)
        change->failure = *failure;
    (void)engine_post(change->runner->engine, &change->message);
}

static void note_unsaved(struct runner *runner, const struct change *change)
{
    runner->unsaved = true;
    runner->save_again_then = change->then;
    runner->save_again_mode = change->mode;
    log_event(LEVEL_ERROR, "a state could not be stored; trying again",
              LOG_TEXT("slug", runner->slug), LOG_TEXT("state", states[change->row.state].name),
              LOG_TEXT("detail", change->failure.text));
    runner_save_again(runner);
}

void runner_save_again(struct runner *runner)
{
    if (runner->unsaved && !runner->engine->closing)
        loop_timer_set(runner->engine->loop, &runner->save_again,
                       clock_monotonic_ms() + SAVE_AGAIN_MS);
}

static void change_back(struct engine *engine, struct message *message)
{
    struct change *change = (struct change *)message;
    struct runner *runner = change->runner;
    bool failed = change->failed;

    engine->in_flight--;
    runner->writes--;
    if (!failed)
        runner->unsaved = false;
    else if (change->mode != SAVE_REQUIRED)
        note_unsaved(runner, change);
    if (change->mode == SAVE_FOLLOW || (change->mode == SAVE_REQUIRED && !failed))
        runner_publish(runner, &change->row);
    if (change->then)
        change->then(runner, failed ? &change->failure : NULL);
    free(change);
    runner_settle(runner);
}

void runner_save(struct runner *runner, enum save_mode mode, bool visible, bool event,
                 save_then *then)
{
    struct change *change = must_alloc(sizeof *change);

    if (visible) {
        runner->row.generation++;
        runner->row.updated_ms = clock_wall_ms();
        (void)clocks_show(&runner->row);
    }
    loop_timer_cancel(runner->engine->loop, &runner->save_again);
    change->message.run = change_back;
    change->runner = runner;
    change->row = runner->row;
    change->mode = mode;
    change->event = event;
    change->then = then;
    runner->writes++;
    runner->engine->in_flight++;
    store_submit(runner->engine->app->store,
                 &(struct store_write){change_apply, change_done, change});
}

struct snapshot *must_snapshot(const struct bottle_row *row, struct plan_ref *plan)
{
    struct snapshot *snapshot = snapshot_new(row, plan);

    if (!snapshot) {
        log_event(LEVEL_ERROR, "out of memory: ending; the bottles run on",
                  LOG_TEXT("slug", row->slug));
        abort();
    }
    return snapshot;
}

void runner_publish_counters(struct runner *runner)
{
    struct registry *registry = runner->engine->app->registry;
    struct snapshot *present = registry_get(registry, runner->slug);

    if (!present)
        return;
    struct bottle_row row;
    snapshot_row(present, &row);
    row.egress = runner->row.egress;
    registry_publish(registry, must_snapshot(&row, present->plan));
    snapshot_release(present);
}

void runner_publish(struct runner *runner, const struct bottle_row *row)
{
    struct bottle_row shown = *row;

    shown.egress = runner->row.egress; /* they may have risen while the row was being stored */
    struct snapshot *snapshot = must_snapshot(&shown, runner->plan);

    registry_publish(runner->engine->app->registry, snapshot_ref(snapshot));
    waiters_notify(runner->engine, snapshot);
    alarms_follow(runner->engine, &shown);
    snapshot_release(snapshot);
}

/* --- Jobs ------------------------------------------------------------------------------------- */

void runner_work(struct runner *runner, struct job *job)
{
    runner->jobs++;
    engine_work(runner->engine, job);
}

void runner_job_done(struct runner *runner)
{
    runner->jobs--;
    runner->engine->in_flight--;
}
