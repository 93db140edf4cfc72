/* Requests on their way through the engine: each is answered exactly once, and freed by that. */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/util.h"
#include "server/engine_internal.h"

static void op_free(struct op *op)
{
    if (op->stream >= 0)
        (void)close(op->stream);
    free(op->if_match);
    json_decref(op->patch);
    free(op);
}

void op_answer(struct op *op, struct snapshot *snapshot)
{
    op->done(op->context, snapshot, NULL);
    op_free(op);
}

void op_cleaned(struct op *op, const struct cleanup_plan *plan)
{
    op->cleaned(op->context, plan, NULL);
    op_free(op);
}

void op_reported(struct op *op, const json_t *report)
{
    op->reported(op->context, report, NULL);
    op_free(op);
}

void op_streams(struct op *op, int stream, const char *id)
{
    op->streams(op->context, stream, id, NULL);
    op_free(op);
}

struct op *ops_take(struct op **list)
{
    struct op *op = *list;

    if (op)
        *list = op->next;
    return op;
}

void op_problem(struct op *op, const struct problem *problem)
{
    if (op->cleaned)
        op->cleaned(op->context, NULL, problem);
    else if (op->reported)
        op->reported(op->context, NULL, problem);
    else if (op->streams)
        op->streams(op->context, -1, NULL, problem);
    else
        op->done(op->context, NULL, problem);
    op_free(op);
}

void op_refuse(struct op *op, const char *type, const char *format, ...)
{
    struct problem problem = PROBLEM_INIT;
    va_list args;

    va_start(args, format);
    problem_vset(&problem, type, format, args);
    va_end(args);
    op_problem(op, &problem);
    problem_free(&problem);
}

void op_error(struct op *op, const struct error *err)
{
    struct problem problem = PROBLEM_INIT;

    problem_from_error(&problem, err);
    op_problem(op, &problem);
    problem_free(&problem);
}

void op_refuse_unknown(struct op *op)
{
    op_refuse(op, "not-found", "there is no bottle named %s", op->slug);
}

static void refuse_ending(struct op *op)
{
    op_refuse(op, "shutting-down",
              "bottled is ending; the bottles run on: ask again once it is back");
}

void op_answer_present(struct engine *engine, struct op *op)
{
    struct snapshot *snapshot = registry_get(engine->app->registry, op->slug);

    if (snapshot)
        op_answer(op, snapshot);
    else
        op_refuse_unknown(op);
    snapshot_release(snapshot);
}

static void run_op(struct engine *engine, struct message *message)
{
    struct op *op = (struct op *)message;

    if (engine->closing) {
        refuse_ending(op);
        return;
    }
    struct snapshot *snapshot = registry_get(engine->app->registry, op->slug);
    if (!snapshot || (op->sequence && op->sequence != snapshot->sequence)) {
        op_refuse_unknown(op);
    } else if (op->verb == VERB_PLAN) {
        plan_op(engine, op, snapshot);
    } else {
        struct runner *runner = runner_take(engine, snapshot);
        runner_dispatch(runner, op);
        runner_settle(runner);
    }
    snapshot_release(snapshot);
}

struct op *op_new(const char *slug, enum verb verb, void *context)
{
    struct op *op = must_alloc(sizeof *op);

    op->message.run = run_op;
    op->verb = verb;
    op->stream = -1;
    op->context = context;
    (void)snprintf(op->slug, sizeof op->slug, "%s", slug);
    return op;
}

void op_submit(struct app *app, struct op *op)
{
    if (!engine_post(app->engine, &op->message))
        refuse_ending(op);
}

static void set_if_match(struct op *op, const char *if_match)
{
    size_t size = if_match ? strlen(if_match) + 1 : 0;

    if (!if_match)
        return;
    op->if_match = must_alloc(size);
    memcpy(op->if_match, if_match, size);
}

void engine_start_bottle(struct app *app, const char *slug, uint64_t sequence, engine_done *done,
                         void *context)
{
    struct op *op = op_new(slug, VERB_START, context);

    op->sequence = sequence;
    op->done = done;
    op_submit(app, op);
}

void engine_pause_bottle(struct app *app, const char *slug, bool pause, engine_done *done,
                         void *context)
{
    struct op *op = op_new(slug, pause ? VERB_PAUSE : VERB_RESUME, context);

    op->done = done;
    op_submit(app, op);
}

void engine_restart_bottle(struct app *app, const char *slug, int64_t grace_ms, engine_done *done,
                           void *context)
{
    struct op *op = op_new(slug, VERB_RESTART, context);

    op->done = done;
    op->grace_ms = grace_ms;
    op_submit(app, op);
}

void engine_stop_bottle(struct app *app, const char *slug, int64_t grace_ms, engine_done *done,
                        void *context)
{
    struct op *op = op_new(slug, VERB_STOP, context);

    op->done = done;
    op->grace_ms = grace_ms;
    op_submit(app, op);
}

void engine_cleanup_plan(struct app *app, const char *slug, engine_cleanup_done *done,
                         void *context)
{
    struct op *op = op_new(slug, VERB_PLAN, context);

    op->cleaned = done;
    op_submit(app, op);
}

void engine_delete(struct app *app, const char *slug, uint64_t sequence, const char *if_match,
                   bool keep_logs, engine_cleanup_done *done, void *context)
{
    struct op *op = op_new(slug, VERB_DELETE, context);

    op->sequence = sequence;
    op->cleaned = done;
    op->keep_logs = keep_logs;
    set_if_match(op, if_match);
    op_submit(app, op);
}

void engine_patch(struct app *app, const char *slug, json_t *patch, const char *if_match,
                  engine_done *done, void *context)
{
    struct op *op = op_new(slug, VERB_PATCH, context);

    op->done = done;
    op->patch = patch;
    set_if_match(op, if_match);
    op_submit(app, op);
}

void engine_report(struct app *app, const char *slug, engine_report_done *done, void *context)
{
    struct op *op = op_new(slug, VERB_REPORT, context);

    op->reported = done;
    op_submit(app, op);
}

void engine_reload(struct app *app, const char *slug, engine_report_done *done, void *context)
{
    struct op *op = op_new(slug, VERB_RELOAD, context);

    op->reported = done;
    op_submit(app, op);
}

void engine_exec(struct app *app, const char *slug, int theirs, engine_exec_done *done,
                 void *context)
{
    struct op *op = op_new(slug, VERB_EXEC, context);

    op->streams = done;
    op->stream = theirs;
    op_submit(app, op);
}

void engine_exec_result(struct app *app, const char *slug, const char *id,
                        const struct exec_note *note, engine_report_done *done, void *context)
{
    struct op *op = op_new(slug, VERB_EXEC_RESULT, context);

    op->reported = done;
    op->exec_note = *note;
    (void)snprintf(op->exec_id, sizeof op->exec_id, "%s", id);
    op_submit(app, op);
}
