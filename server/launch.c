/* Starting a bottle, up to the moment its supervisor exists.
 *
 * - check (job): plan, stage files, launch spec; what can fail without a trace fails here.
 * - mark (store): state `starting` with the token, no pid yet. Were we killed between here and the
 *   spawn, the next daemon looks for a supervisor that knows the token.
 * - spawn (job): run directory, then bottle-shim.
 * - note (store): its pid and start time; from then on follow.c.
 */
#include <stdio.h>

#include "backends/mounts.h"
#include "base/clock.h"
#include "base/util.h"
#include "server/cgroup.h"
#include "server/disk.h"
#include "server/engine_internal.h"
#include "server/log.h"
#include "server/secrets.h"
#include "server/stage.h"
#include "server/templates.h"

struct launch {
    struct job job;
    struct runner *runner;
    struct op *op;
    const struct host *host;
    struct plan_ref *plan;
    unsigned uid;
    char token[TOKEN_SIZE];
    char accelerator[16], engine[16];
    char backend_reason[REASON_SIZE];
    char template_key[SHA256_HEX_SIZE];
    struct templates *templates;
    json_t *spec;
    struct secret secrets;
    struct shim_spawned spawned;
    struct bottle_row before;
    struct error err;
    struct problem problem; /* in place of err where it has a type */
    int result;
};

static void launch_free(struct launch *launch)
{
    secret_free(&launch->secrets);
    problem_free(&launch->problem);
    json_decref(launch->spec);
    plan_ref_unref(launch->plan);
    free(launch);
}

/* Nothing has happened: the bottle is as it was. */
static void abandon(struct launch *launch, const struct error *err)
{
    struct runner *runner = launch->runner;

    runner->row = launch->before;
    runner->phase = PHASE_REST;
    runner_set_live(runner, false);
    runner_save_again(runner);
    runner_close(runner);
    if (launch->problem.type)
        op_problem(launch->op, &launch->problem);
    else
        op_error(launch->op, err);
    launch_free(launch);
}

/* --- Spawn ------------------------------------------------------------------------------------ */

static void spawn_work(struct job *job)
{
    struct launch *launch = (struct launch *)job;
    const struct plan *plan = plan_ref_get(launch->plan, &launch->err);
    CLEANUP_FREE char *binary = NULL;
    CLEANUP_FREE char *cgroup = plan ? cgroup_path(launch->host, plan->run_dir) : NULL;

    launch->result = -1;
    if (!plan || run_make(plan, launch->uid, &launch->err) < 0)
        return;
    if (cgroup && (cgroup_make(cgroup, launch->host, plan, &launch->err) < 0 ||
                   json_object_set_new(launch->spec, "cgroup", json_string(cgroup)) < 0))
        return;
    if (asprintf(&binary, "%s/bottle-shim", launch->host->libexec_dir) < 0) {
        error_set(&launch->err, NULL, "out of memory");
        return;
    }
    CLEANUP_CLOSE int log = stage_open_log(plan, "shim.log", launch->uid);
    CLEANUP_CLOSE int secrets = -1;
    if (launch->secrets.length && (secrets = secrets_memfd(&launch->secrets, &launch->err)) < 0)
        return;
    secret_free(&launch->secrets);
    launch->result = shim_spawn(binary, launch->spec, secrets, log, &launch->spawned, &launch->err);
}

static void failure_saved(struct runner *runner, const struct error *failure)
{
    (void)failure; /* published and tried again by itself */
    runner->phase = PHASE_REST;
    runner_set_live(runner, false);
    if (runner->starter)
        op_refuse(runner->starter, "boot-failed", "%s could not be started: %s", runner->slug,
                  runner->row.reason);
    runner->starter = NULL;
}

/* `starting` was stored, so this failure is the bottle's. */
static void spawn_failed(struct launch *launch)
{
    struct runner *runner = launch->runner;

    runner->row.state = STATE_FAILED;
    runner->row.finished_ms = clock_wall_ms();
    runner->row.shim_token[0] = '\0';
    reason_copy(runner->row.reason, launch->err.text);
    runner->starter = launch->op;
    runner_save(runner, SAVE_FOLLOW, true, true, failure_saved);
    launch_free(launch);
}

static void pid_saved(struct runner *runner, const struct error *failure)
{
    (void)failure; /* without it a next daemon finds the supervisor by its socket */
    runner->pid_saved = true;
    follow_answer_starter(runner);
}

static void spawned(struct engine *engine, struct message *message)
{
    struct launch *launch = (struct launch *)message;
    struct runner *runner = launch->runner;

    runner_job_done(runner);
    if (launch->result < 0) {
        spawn_failed(launch);
        runner_settle(runner);
        return;
    }
    log_event(LEVEL_INFO, "bottle starting", LOG_TEXT("slug", runner->slug),
              LOG_NUMBER("shim_pid", launch->spawned.pid));
    runner->row.shim_pid = launch->spawned.pid;
    runner->row.shim_start_time = launch->spawned.start_time;
    runner->phase = PHASE_LIVE;
    runner->starter = launch->op;
    memcpy(runner->template_key, launch->template_key, sizeof runner->template_key);
    follow_spawned(runner, launch->spawned.pidfd, launch->spawned.ready_fd);
    runner_save(runner, SAVE_FOLLOW, false, false, pid_saved);
    if (engine->closing)
        runner_refuse_all(runner);
    runner_close(runner);
    launch_free(launch);
    runner_settle(runner);
}

/* --- Mark ------------------------------------------------------------------------------------- */

/* The launch waits for its commit in here: one runner has one launch at a time. */
static void marked(struct runner *runner, const struct error *failure)
{
    struct launch *launch = runner->launch;

    runner->launch = NULL;
    if (failure) {
        abandon(launch, failure);
        return;
    }
    launch->job = (struct job){.message.run = spawned, .work = spawn_work};
    runner_work(runner, &launch->job);
}

static void mark(struct launch *launch)
{
    struct runner *runner = launch->runner;
    struct bottle_row *row = &runner->row;

    row->state = STATE_STARTING;
    row->reason[0] = '\0';
    row->has_exit_code = false;
    row->exit_code = 0;
    row->started_ms = row->finished_ms = row->boots = 0;
    row->shim_pid = 0;
    row->shim_start_time = 0;
    row->boot[0] = row->boot_reason[0] = '\0';
    row->egress = (struct egress_totals){0};
    row->restart_clock_ms = row->restart_ms = 0;
    row->again = false;
    if (!launch->op->automatic)
        row->restarts = row->retries = 0;
    else if (row->retries > 0) /* else a client had asked for it to be restarted */
        row->restarts++;
    memcpy(row->shim_token, launch->token, sizeof row->shim_token);
    memcpy(row->accelerator, launch->accelerator, sizeof row->accelerator);
    memcpy(row->backend_reason, launch->backend_reason, sizeof row->backend_reason);
    memcpy(row->engine, launch->engine, sizeof row->engine);
    runner->launch = launch;
    runner_save(runner, SAVE_REQUIRED, true, true, marked);
}

/* --- Check ------------------------------------------------------------------------------------ */

static void check_work(struct job *job)
{
    struct launch *launch = (struct launch *)job;
    const struct plan *plan = plan_ref_get(launch->plan, &launch->err);

    launch->result = -1;
    if (!plan || mounts_recheck(launch->host, &plan->spec, &launch->err) < 0 ||
        stage_ensure(plan, launch->uid, &launch->err) < 0 ||
        disk_ensure(launch->host, plan, launch->uid, &launch->err) < 0 ||
        shim_token(launch->token, &launch->err) < 0 ||
        secrets_read(launch->runner->engine->app->secrets, &plan->spec, &launch->secrets,
                     &launch->problem) < 0)
        return;
    (void)snprintf(launch->accelerator, sizeof launch->accelerator, "%s",
                   plan->accelerator ? plan->accelerator : "");
    backend_explain(launch->host, plan, launch->backend_reason, sizeof launch->backend_reason);
    (void)snprintf(launch->engine, sizeof launch->engine, "%s", plan->engine);
    launch->spec = launch_spec(launch->host, plan, launch->uid, launch->token, &launch->err);
    if (launch->spec && launch->secrets.length)
        (void)json_object_set_new(launch->spec, "secrets",
                                  json_integer((json_int_t)plan->spec.secrets.count));
    launch->result = launch->spec ? 0 : -1;
    if (launch->spec)
        templates_offer(launch->templates, plan, launch->spec, launch->template_key);
}

static void checked(struct engine *engine, struct message *message)
{
    struct launch *launch = (struct launch *)message;
    struct runner *runner = launch->runner;

    runner_job_done(runner);
    if (launch->result < 0)
        abandon(launch, &launch->err);
    else if (engine->closing)
        abandon(launch, &(struct error){.kind = "shutting-down",
                                        .text = "bottled is ending; start it again later"});
    else
        mark(launch);
    runner_settle(runner);
}

static void begin(struct runner *runner, struct op *op)
{
    struct launch *launch = must_alloc(sizeof *launch);
    struct app *app = runner->engine->app;

    launch->job = (struct job){.message.run = checked, .work = check_work};
    launch->runner = runner;
    launch->op = op;
    launch->host = &app->host;
    launch->templates = app->templates;
    launch->plan = plan_ref_ref(runner->plan);
    launch->uid = stage_uid(&app->host, &runner->row.allocation);
    launch->before = runner->row;
    runner->phase = PHASE_LAUNCH;
    runner_set_live(runner, true);
    loop_timer_cancel(runner->engine->loop, &runner->save_again);
    runner_work(runner, &launch->job);
}

void start_op(struct runner *runner, struct op *op)
{
    const struct state_row *state = &states[runner->row.state];
    struct engine *engine = runner->engine;
    size_t most = (size_t)engine->app->config.max_running;

    if (runner->row.state == STATE_STARTING || runner->row.state == STATE_RUNNING)
        op_answer_present(engine, op);
    else if (!state->can_start || runner->phase != PHASE_REST)
        op_refuse(op, "wrong-state",
                  runner->row.state == STATE_PAUSED
                      ? "%s is %s: resume it, or restart it"
                      : "%s is %s: it can be started once it is stopped",
                  op->slug, state->name);
    else if (engine->n_live >= most)
        op_refuse(
            op, "too-many-bottles",
            "%zu bottles run, as many as this daemon may have (max_running); stop some or raise "
            "the limit",
            most);
    else
        begin(runner, op);
}
