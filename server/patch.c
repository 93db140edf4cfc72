/* PATCH /bottles/{slug}: labels, egress and time to live, also while the bottle runs.
 *
 *   resolve (job)   merge, decode, resolve and render the new plan
 *   store           at rest, or when the egress is the same: the new spec and its row; done
 *                   alive: the new spec, and the one before beside it (spec_before)
 *   wait            until the supervisor can be spoken to
 *   sent            it has the new egress and APPLY_MS to answer; a silent one is killed, so that
 *                   no bottle runs with an egress that nobody knows
 *   settle          it said yes: the new plan is published, the one before forgotten
 *   undo            it said no, so the old egress is in force: the spec before is stored again
 *
 * GET shows the old plan until the new one is in force. Were we killed in between, the row has a
 * spec before, and the next daemon sends the newest one again before it is ready; a supervisor that
 * ended meanwhile leaves the newest, which holds from the next start on. Other requests than PATCH
 * do not wait for the supervisor's answer. */
#include <stdio.h>

#include "api/patch.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/etag.h"
#include "server/images.h"
#include "server/log.h"

enum { APPLY_MS = 10000 };

enum patch_stage {
    PATCH_RESOLVE,
    PATCH_STORE, /* with what is stored: see `alive` */
    PATCH_WAIT,
    PATCH_SENT,
    PATCH_SETTLE,
    PATCH_UNDO,
};

struct patch {
    struct job job; /* also the message of a commit */
    struct runner *runner;
    struct op *op; /* NULL: resumed, or answered */
    enum patch_stage stage;
    const struct host *host;
    struct plan_ref *before, *after;
    json_t *body;
    char *spec_text, *labels_text; /* of `after`, or of `before` when that is stored again */
    bool same, egress_same;
    bool renews; /* the time to live begins anew; that before: */
    int64_t expires_clock_ms, expires_ms;
    bool alive;       /* stored for a supervisor */
    bool was_pending; /* an earlier one could not be undone in the store */
    bool gone;        /* the supervisor ended meanwhile */
    int result;       /* of the job or the commit */
    struct bottle_row row;
    struct problem problem;
    struct error err;
    int64_t id;
    struct loop_timer deadline;
};

static void patch_free(struct patch *patch)
{
    loop_timer_cancel(patch->runner->engine->loop, &patch->deadline);
    plan_ref_unref(patch->before);
    plan_ref_unref(patch->after);
    json_decref(patch->body);
    problem_free(&patch->problem);
    free(patch->spec_text);
    free(patch->labels_text);
    free(patch);
}

/* --- The end ---------------------------------------------------------------------------------- */

/* It is over: those behind it get their turn. */
static void leave(struct patch *patch)
{
    struct runner *runner = patch->runner;

    runner->patch = NULL;
    patch_free(patch);
    if (runner->heard)
        adoption_over(runner);
    for (struct op *op; !runner->patch && (op = ops_take(&runner->patches));)
        runner_dispatch(runner, op);
}

/* The new plan is in force and published: its files follow, then the answer. */
static void succeed(struct patch *patch)
{
    struct runner *runner = patch->runner;
    struct op *op = patch->op;

    if (runner->phase != PHASE_DELETE)
        runner_restage(runner);
    leave(patch);
    if (!op)
        return;
    op->verb = VERB_SHOW;
    runner_dispatch(runner, op);
}

static void take_plan(struct patch *patch)
{
    struct runner *runner = patch->runner;

    plan_ref_unref(runner->plan);
    runner->plan = plan_ref_ref(patch->after);
}

/* To be stored with the row. */
static void renew(struct patch *patch)
{
    const struct plan *plan = patch->renews ? plan_ref_get(patch->after, NULL) : NULL;
    struct bottle_row *row = &patch->runner->row;

    patch->expires_clock_ms = row->expires_clock_ms;
    patch->expires_ms = row->expires_ms;
    if (plan)
        ttl_begin(row, plan->spec.ttl_seconds);
}

static void fail(struct patch *patch, const struct problem *problem)
{
    if (patch->op)
        op_problem(patch->op, problem);
    patch->op = NULL;
    leave(patch);
}

static void fail_error(struct patch *patch, const struct error *err)
{
    struct problem problem = PROBLEM_INIT;

    problem_from_error(&problem, err);
    fail(patch, &problem);
    problem_free(&problem);
}

/* --- The store -------------------------------------------------------------------------------- */

static int store_apply(sqlite3 *db, void *context, struct error *err)
{
    const struct patch *patch = context;
    const char *slug = patch->runner->slug;
    bool keep = patch->stage == PATCH_STORE && patch->alive;

    if (row_set_spec(db, slug, patch->spec_text, patch->labels_text, keep, err) < 0)
        return -1;
    return patch->alive ? 0 : row_update(db, &patch->row, err);
}

static void store_done(void *context, const struct error *failure)
{
    struct patch *patch = context;

    patch->result = failure ? -1 : 0;
    if (failure)
        patch->err = *failure;
    (void)engine_post(patch->runner->engine, &patch->job.message);
}

static void store(struct patch *patch, void (*back)(struct engine *, struct message *))
{
    patch->job.message.run = back;
    patch->runner->writes++;
    patch->runner->engine->in_flight++;
    store_submit(patch->runner->engine->app->store,
                 &(struct store_write){store_apply, store_done, patch});
}

static void store_back(struct patch *patch)
{
    patch->runner->engine->in_flight--;
    patch->runner->writes--;
}

/* --- Undo ------------------------------------------------------------------------------------- */

static void refuse_not_applied(struct patch *patch)
{
    struct problem problem = PROBLEM_INIT;

    problem_set(&problem, "egress-not-applied",
                "%s runs on with its former egress; its supervisor did not take the new one: %s",
                patch->runner->slug, patch->problem.detail);
    fail(patch, &problem);
    problem_free(&problem);
}

static void undone(struct engine *engine, struct message *message)
{
    struct patch *patch = (struct patch *)message;
    struct runner *runner = patch->runner;

    (void)engine;
    store_back(patch);
    /* Not stored: the row keeps both, and the next daemon asks the supervisor again. */
    if (patch->result == 0)
        runner->row.egress_pending = false;
    refuse_not_applied(patch);
    runner_settle(runner);
}

/* The texts of the plan that is in force. */
static int write_texts(struct patch *patch, struct plan_ref *ref, struct error *err)
{
    const struct plan *plan = plan_ref_get(ref, err);
    const json_t *labels = plan ? json_object_get(plan->spec.json, "labels") : NULL;

    if (!plan)
        return -1;
    free(patch->spec_text);
    free(patch->labels_text);
    patch->spec_text = json_text(plan->spec.json);
    patch->labels_text = labels ? json_text(labels) : strdup("{}");
    return patch->spec_text && patch->labels_text ? 0 : error_set(err, NULL, "out of memory");
}

static void undo(struct patch *patch, const char *why)
{
    loop_timer_cancel(patch->runner->engine->loop, &patch->deadline);
    log_event(LEVEL_WARNING, "a supervisor did not take its bottle's new egress",
              LOG_TEXT("slug", patch->runner->slug), LOG_TEXT("detail", why));
    (void)snprintf(patch->problem.detail, sizeof patch->problem.detail, "%s", why);
    if (write_texts(patch, patch->before, &patch->err) < 0) {
        fail_error(patch, &patch->err);
        return;
    }
    patch->stage = PATCH_UNDO;
    store(patch, undone);
}

/* --- The supervisor --------------------------------------------------------------------------- */

static void on_silent(struct loop_timer *timer)
{
    struct patch *patch = timer->data;

    follow_kill_at(patch->runner, 0, "it did not say whether the new egress is in force");
}

static void send_egress(struct patch *patch)
{
    static int64_t last_id;
    struct runner *runner = patch->runner;
    const struct plan *plan = plan_ref_get(patch->after, &patch->err);
    CLEANUP_JSON json_t *egress = plan ? egress_change_encode(plan) : NULL;

    patch->id = ++last_id;
    if (runner->connection.fd < 0 || !egress ||
        shim_egress(runner->connection.fd, patch->id, egress, &patch->err) < 0) {
        undo(patch, patch->err.text[0] ? patch->err.text : "its socket is closed");
        return;
    }
    patch->stage = PATCH_SENT;
    patch->deadline.callback = on_silent;
    patch->deadline.data = patch;
    loop_timer_set(runner->engine->loop, &patch->deadline, clock_monotonic_ms() + APPLY_MS);
}

void patch_heard(struct runner *runner)
{
    struct patch *patch = runner->patch;

    /* Sent over a connection that is gone, its answer may be, too. */
    if (patch && (patch->stage == PATCH_WAIT || patch->stage == PATCH_SENT))
        send_egress(patch);
}

/* Sends it, or waits until that is possible. */
static void ready_to_send(struct patch *patch)
{
    struct runner *runner = patch->runner;

    if (patch->gone || runner->phase != PHASE_LIVE) {
        take_plan(patch);
        runner->row.egress_pending = false;
        renew(patch);
        runner_save(runner, SAVE_FOLLOW, true, false, NULL);
        succeed(patch);
        return;
    }
    patch->stage = PATCH_WAIT;
    if (runner->heard)
        send_egress(patch);
}

static void settled(struct runner *runner, const struct error *failure)
{
    struct patch *patch = runner->patch;
    bool first = patch && patch->stage == PATCH_SETTLE;

    (void)failure; /* it is in force all the same */
    if (first)
        take_plan(patch);
    runner_publish(runner, &runner->row);
    if (first)
        succeed(patch);
}

void patch_applied(struct runner *runner, const json_t *packet)
{
    struct patch *patch = runner->patch;
    const json_t *error = json_object_get(packet, "error");

    if (!patch || patch->stage != PATCH_SENT ||
        json_member_integer(packet, "applied", 0) != patch->id)
        return;
    if (error && !json_is_null(error)) {
        undo(patch, json_is_string(error) ? json_string_value(error) : "it did not say why");
        return;
    }
    loop_timer_cancel(runner->engine->loop, &patch->deadline);
    patch->stage = PATCH_SETTLE;
    runner->row.egress_pending = false;
    renew(patch);
    runner_save(runner, SAVE_HOLD, true, false, settled);
}

/* What was stored holds from the next start on. The row's end is stored next, and forgets the spec
 * before. */
void patch_supervisor_gone(struct runner *runner)
{
    struct patch *patch = runner->patch;

    if (!patch)
        return;
    patch->gone = true;
    if (patch->stage != PATCH_WAIT && patch->stage != PATCH_SENT)
        return;
    take_plan(patch);
    runner->row.egress_pending = false;
    renew(patch); /* stored with the row's end */
    succeed(patch);
}

/* --- Store ------------------------------------------------------------------------------------ */

static void stored(struct engine *engine, struct message *message)
{
    struct patch *patch = (struct patch *)message;
    struct runner *runner = patch->runner;

    (void)engine;
    store_back(patch);
    if (patch->result < 0) {
        runner->row.egress_pending = patch->was_pending;
        if (!patch->alive) {
            runner->row.expires_clock_ms = patch->expires_clock_ms;
            runner->row.expires_ms = patch->expires_ms;
        }
        fail_error(patch, &patch->err);
    } else if (patch->alive) {
        ready_to_send(patch);
    } else {
        take_plan(patch);
        runner_publish(runner, &patch->row);
        succeed(patch);
    }
    runner_settle(runner);
}

static void submit(struct patch *patch)
{
    struct runner *runner = patch->runner;

    patch->stage = PATCH_STORE;
    patch->alive = runner->phase == PHASE_LIVE && !patch->egress_same;
    patch->was_pending = runner->row.egress_pending;
    if (patch->alive) {
        runner->row.egress_pending = true;
    } else {
        runner->row.generation++;
        runner->row.updated_ms = clock_wall_ms();
        (void)clocks_show(&runner->row);
        renew(patch);
    }
    patch->row = runner->row;
    store(patch, stored);
}

/* --- Resolve ---------------------------------------------------------------------------------- */

/* Decodes the merged plan and resolves it with what the bottle has; takes *merged's faults. */
static int resolve(struct patch *patch, const struct plan *old, const json_t *merged)
{
    const struct backend *backend = backend_find(patch->row.backend);
    CLEANUP_IMAGE struct image *image = NULL;
    struct spec spec = {0};

    if (patch->row.image[0] &&
        images_resolve(patch->host->images, patch->row.image, false, &image, &patch->err) < 0)
        return -1;
    const struct plan_dirs dirs = {patch->host->state_dir, patch->host->run_dir, image};
    if (spec_decode(merged, &spec, &patch->problem) < 0)
        return -1;
    if (patch->problem.type) {
        spec_free(&spec);
        return -1;
    }
    if (!spec.slug)
        spec.slug = strdup(old->spec.slug);
    struct plan *plan =
        spec.slug && backend ? plan_resolve(&spec, &old->allocation, &dirs, &patch->err) : NULL;
    spec_free(&spec);
    if (!plan)
        return -1;
    plan->backend = backend->name;
    plan->engine = old->engine; /* "auto" keeps what the bottle has */
    if (backend->prepare(patch->host, plan, &patch->err) < 0) {
        plan_free(plan);
        return -1;
    }
    patch->after = plan_ref_new(patch->host, &patch->row, plan);
    return patch->after ? write_texts(patch, patch->after, &patch->err)
                        : error_set(&patch->err, NULL, "out of memory");
}

static void resolve_work(struct job *job)
{
    struct patch *patch = (struct patch *)job;
    const struct plan *old = plan_ref_get(patch->before, &patch->err);

    patch->result = -1;
    if (!old)
        return;
    CLEANUP_JSON json_t *merged = spec_patch(old->spec.json, patch->body, &patch->problem);
    if (!merged || resolve(patch, old, merged) < 0)
        return;
    patch->renews = json_object_get(patch->body, "ttl_seconds") != NULL;
    patch->same = !patch->renews && json_equal(merged, old->spec.json);
    patch->egress_same =
        json_equal(json_object_get(merged, "egress"), json_object_get(old->spec.json, "egress")) ||
        (!json_object_get(merged, "egress") && old->spec.rules.count == 0);
    patch->result = 0;
}

/* The proxy's program is started with the bottle and stays as long as it runs. */
static bool engine_changes(const struct patch *patch)
{
    const struct plan *before = plan_ref_get(patch->before, NULL);
    const struct plan *after = plan_ref_get(patch->after, NULL);

    return before && after && before->engine && after->engine &&
           strcmp(before->engine, after->engine) != 0;
}

static void refuse_engine(struct patch *patch)
{
    problem_add_fault(
        &patch->problem, "/egress/engine", "immutable",
        "the proxy of a bottle that runs can't become another program: stop it first");
    fail(patch, &patch->problem);
}

static void resolved(struct engine *engine, struct message *message)
{
    struct patch *patch = (struct patch *)message;
    struct runner *runner = patch->runner;

    runner_job_done(runner);
    if (patch->result < 0 && patch->problem.type)
        fail(patch, &patch->problem);
    else if (patch->result < 0)
        fail_error(patch, &patch->err);
    else if (engine->closing || runner->phase == PHASE_DELETE)
        fail_error(patch, &(struct error){.kind = engine->closing ? "shutting-down" : "wrong-state",
                                          .text = "the bottle is going or bottled is ending"});
    else if (runner->phase == PHASE_LIVE && engine_changes(patch))
        refuse_engine(patch);
    else if (patch->same && !runner->row.egress_pending)
        succeed(patch);
    else
        submit(patch);
    runner_settle(runner);
}

static struct patch *patch_new(struct runner *runner)
{
    struct patch *patch = must_alloc(sizeof *patch);

    patch->runner = runner;
    patch->host = &runner->engine->app->host;
    patch->before = plan_ref_ref(runner->plan);
    patch->row = runner->row;
    runner->patch = patch;
    return patch;
}

static bool tag_matches(struct runner *runner, const struct op *op)
{
    struct registry *registry = runner->engine->app->registry;
    struct snapshot *snapshot = op->if_match ? registry_get(registry, runner->slug) : NULL;
    char tag[sizeof snapshot->etag] = "";

    if (!snapshot)
        return true;
    (void)snprintf(tag, sizeof tag, "%.*s", (int)strlen(snapshot->etag) - 2, snapshot->etag + 1);
    snapshot_release(snapshot);
    return etag_listed(op->if_match, tag, false);
}

void patch_op(struct runner *runner, struct op *op)
{
    struct op **last = &runner->patches;

    if (runner->phase == PHASE_DELETE) {
        op_refuse(op, "wrong-state", "%s is being deleted", op->slug);
        return;
    }
    if (runner->patch) {
        while (*last)
            last = &(*last)->next;
        op->next = NULL;
        *last = op;
        return;
    }
    if (!tag_matches(runner, op)) {
        op_refuse(op, "precondition-failed", "%s is no longer what If-Match says: look at it again",
                  op->slug);
        return;
    }
    struct patch *patch = patch_new(runner);
    patch->op = op;
    patch->body = json_incref(op->patch);
    patch->job = (struct job){.message.run = resolved, .work = resolve_work};
    runner_work(runner, &patch->job);
}

/* --- After a restart -------------------------------------------------------------------------- */

static void resume_work(struct job *job)
{
    struct patch *patch = (struct patch *)job;

    const struct plan *before = plan_ref_get(patch->before, NULL); /* for an undo, too */
    const struct plan *after = plan_ref_get(patch->after, &patch->err);

    patch->renews = before && after && before->spec.ttl_seconds != after->spec.ttl_seconds;
    patch->result = after ? 0 : -1;
}

static void resumed(struct engine *engine, struct message *message)
{
    struct patch *patch = (struct patch *)message;
    struct runner *runner = patch->runner;

    (void)engine;
    runner_job_done(runner);
    if (patch->result < 0) {
        follow_kill_at(runner, 0, "the egress that it is to have can not be resolved any more");
        patch->stage = PATCH_WAIT;
    } else {
        ready_to_send(patch);
    }
    runner_settle(runner);
}

void patch_resume(struct runner *runner, struct plan_ref *after)
{
    struct patch *patch = patch_new(runner);

    patch->after = plan_ref_ref(after);
    patch->alive = true;
    runner->row.egress_pending = true;
    patch->job = (struct job){.message.run = resumed, .work = resume_work};
    runner_work(runner, &patch->job);
}

/* --- Ending ----------------------------------------------------------------------------------- */

void patch_refuse(struct runner *runner)
{
    static const char words[] =
        "bottled is ending; whether the change was made shows once it is back";

    for (struct op *op; (op = ops_take(&runner->patches));)
        op_refuse(op, "shutting-down", words);
    if (runner->patch && runner->patch->op)
        op_refuse(runner->patch->op, "shutting-down", words);
    if (runner->patch)
        runner->patch->op = NULL;
}

void patch_forget(struct runner *runner)
{
    if (runner->patch)
        patch_free(runner->patch);
    runner->patch = NULL;
}
