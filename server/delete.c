/* Deleting: the plan is made, `deleting` is stored with it, the supervisor is killed and its death
 * confirmed, then what is there is removed step by step, each step's outcomes on record before the
 * next, and the row last. A daemon that dies in between finds the row and goes on.
 *
 * Several requests to delete one bottle share one deletion and get the same answer. When something
 * can not be removed, the deletion rests (state `deleting`, outcomes in the answer) until somebody
 * deletes again or the daemon starts anew. */
#include <signal.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/process.h"
#include "base/util.h"
#include "server/cgroup.h"
#include "server/delete_record.h"
#include "server/engine_internal.h"
#include "server/etag.h"
#include "server/log.h"
#include "server/remains.h"
#include "server/stage.h"

struct deletion {
    struct job job;
    struct message erased;
    struct runner *runner;
    struct op *ops;
    struct bottle_row before; /* to go back to when `deleting` can not be stored */
    enum phase phase_before;
    struct remains remains;
    struct cleanup_plan plan;
    char tag[17];
    bool keep_logs;       /* one of the requests said so */
    bool removal_keeps;   /* so it was when `job` began to remove */
    bool collecting;      /* `job` is making the plan */
    bool marked;          /* `deleting` is stored */
    bool supervisor_gone; /* there is none, or its death was seen */
    bool removing;        /* `job` removes, or what comes after it is under way */
    bool resting;         /* failed; waits for another request */
    int result;
    struct error err;
};

/* --- What there is ---------------------------------------------------------------------------- */

static void add_process(struct remains *remains, const char *name, pid_t pid, uint64_t start_time)
{
    if (!pid || remains->n_processes == COUNT_OF(remains->processes))
        return;
    struct shim_process *process = &remains->processes[remains->n_processes++];
    *process = (struct shim_process){.pid = pid, .start_time = start_time};
    (void)snprintf(process->name, sizeof process->name, "%s", name);
}

/* From the row, and from the supervisor's last status where there is a runner. */
static void fill_remains(struct remains *ret, struct engine *engine, const struct bottle_row *row,
                         const struct runner *runner)
{
    const struct host *host = &engine->app->host;

    *ret =
        (struct remains){.allocation = row->allocation, .uid = stage_uid(host, &row->allocation)};
    (void)snprintf(ret->slug, sizeof ret->slug, "%s", row->slug);
    ret->run_dir = run_path(host, row->slug);
    ret->stage_dir = stage_path(host, row->slug);
    ret->cgroup = cgroup_path(host, ret->run_dir);
    if (!ret->run_dir || !ret->stage_dir ||
        asprintf(&ret->kept_dir, "%s/kept-logs/%s-%llu", host->state_dir, row->slug,
                 (unsigned long long)row->sequence) < 0)
        abort();
    if (row->shim_pid && shim_named(row->shim_pid))
        add_process(ret, "bottle-shim", row->shim_pid, row->shim_start_time);
    for (size_t i = 0; runner && i < runner->said.n_processes; i++)
        add_process(ret, runner->said.processes[i].name, runner->said.processes[i].pid,
                    runner->said.processes[i].start_time);
}

/* --- GET …/cleanup-plan ----------------------------------------------------------------------- */

struct listing {
    struct job job;
    struct op *op;
    struct remains remains;
    struct cleanup_plan plan;
    int result;
};

static void list_work(struct job *job)
{
    struct listing *listing = (struct listing *)job;

    listing->result = remains_list(&listing->remains, &listing->plan);
}

static void list_back(struct engine *engine, struct message *message)
{
    struct listing *listing = (struct listing *)message;

    engine->in_flight--;
    if (listing->result < 0)
        op_refuse(listing->op, NULL, "out of memory");
    else
        op_cleaned(listing->op, &listing->plan);
    cleanup_free(&listing->plan);
    remains_free(&listing->remains);
    free(listing);
}

void plan_op(struct engine *engine, struct op *op, struct snapshot *snapshot)
{
    struct listing *listing = must_alloc(sizeof *listing);
    const struct runner *runner = runner_find(engine, op->slug);
    struct bottle_row row;

    listing->job.work = list_work;
    listing->job.message.run = list_back;
    listing->op = op;
    if (!runner)
        snapshot_row(snapshot, &row);
    fill_remains(&listing->remains, engine, runner ? &runner->row : &row, runner);
    engine_work(engine, &listing->job);
}

/* --- The deletion's life ---------------------------------------------------------------------- */

static void add_op(struct deletion *deletion, struct op *op)
{
    op->next = deletion->ops;
    deletion->ops = op;
    deletion->keep_logs |= op->keep_logs;
}

static struct op *take_op(struct deletion *deletion)
{
    struct op *op = deletion->ops;

    if (op)
        deletion->ops = op->next;
    return op;
}

void delete_refuse(struct runner *runner)
{
    for (struct op *op; runner->deletion && (op = take_op(runner->deletion));)
        op_refuse(op, "shutting-down",
                  "bottled is ending; the delete of %s goes on when it is back", runner->slug);
}

void delete_forget(struct runner *runner)
{
    struct deletion *deletion = runner->deletion;

    if (!deletion)
        return;
    remains_free(&deletion->remains);
    cleanup_free(&deletion->plan);
    free(deletion);
    runner->deletion = NULL;
}

/* Everybody gets the problem, with the outcomes so far. */
static void refuse_ops(struct deletion *deletion, const struct error *err)
{
    struct problem problem = PROBLEM_INIT;

    problem_from_error(&problem, err);
    if (deletion->marked)
        problem_add_member(&problem, "cleanup", cleanup_encode(&deletion->plan));
    for (struct op *op; (op = take_op(deletion));)
        op_problem(op, &problem);
    problem_free(&problem);
}

static void rest(struct deletion *deletion, const struct error *err)
{
    log_event(LEVEL_ERROR, "a bottle could not be deleted",
              LOG_TEXT("slug", deletion->runner->slug), LOG_TEXT("detail", err->text));
    deletion->resting = true;
    deletion->removing = false;
    refuse_ops(deletion, err);
}

/* --- The row's end ---------------------------------------------------------------------------- */

static int erase_apply(sqlite3 *db, void *context, struct error *err)
{
    const struct deletion *deletion = context;
    const char *slug = deletion->runner->slug;

    if (row_delete(db, slug, err) < 0)
        return -1;
    return event_insert(db, clock_wall_ms(), slug, "cleanup.finished", NULL, err);
}

static void erase_done(void *context, const struct error *failure)
{
    struct deletion *deletion = context;

    deletion->result = failure ? -1 : 0;
    if (failure)
        deletion->err = *failure;
    (void)engine_post(deletion->runner->engine, &deletion->erased);
}

static void set_last_outcomes(struct cleanup_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        if (plan->items[i].kind == CLEANUP_PORT)
            cleanup_outcome(&plan->items[i], "released");
        if (plan->items[i].kind == CLEANUP_RECORD)
            cleanup_outcome(&plan->items[i], "deleted");
    }
}

static void erase_back(struct engine *engine, struct message *message)
{
    struct deletion *deletion =
        (struct deletion *)((char *)message - offsetof(struct deletion, erased));
    struct runner *runner = deletion->runner;

    engine->in_flight--;
    runner->writes--;
    if (deletion->result < 0) {
        rest(deletion, &deletion->err);
    } else {
        set_last_outcomes(&deletion->plan);
        registry_remove(engine->app->registry, runner->slug);
        waiters_gone(engine, runner->slug);
        alarms_forget(engine, runner->slug);
        for (struct op *op; (op = take_op(deletion));)
            op_cleaned(op, &deletion->plan);
        log_event(LEVEL_INFO, "bottle deleted", LOG_TEXT("slug", runner->slug));
        runner->gone = true;
    }
    runner_settle(runner);
}

static void erase(struct runner *runner)
{
    struct deletion *deletion = runner->deletion;

    deletion->erased.run = erase_back;
    runner->writes++;
    runner->engine->in_flight++;
    store_submit(runner->engine->app->store,
                 &(struct store_write){erase_apply, erase_done, deletion});
}

/* --- Removing --------------------------------------------------------------------------------- */

static int note(void *context, const struct cleanup_plan *plan, struct error *err)
{
    const struct deletion *deletion = context;

    return delete_record(deletion->runner->engine->app->store, deletion->runner->slug, plan, err);
}

static void remove_work(struct job *job)
{
    struct deletion *deletion = (struct deletion *)job;

    deletion->err = (struct error)ERROR_INIT;
    deletion->result = remains_remove(&deletion->remains, deletion->removal_keeps, &deletion->plan,
                                      note, deletion, &deletion->err);
}

static void remove_back(struct engine *engine, struct message *message)
{
    struct deletion *deletion = (struct deletion *)message;
    struct runner *runner = deletion->runner;

    (void)engine;
    runner_job_done(runner);
    if (deletion->result < 0)
        rest(deletion, &deletion->err);
    else
        erase(runner);
    runner_settle(runner);
}

/* Once `deleting` is stored, the supervisor is gone, and nothing that was begun before writes into
 * the bottle's directories or row any more. */
void delete_go_on(struct runner *runner)
{
    struct deletion *deletion = runner->deletion;

    if (deletion->collecting || deletion->removing || deletion->resting || !deletion->marked ||
        !deletion->supervisor_gone || runner->jobs > 0 || runner->writes > 0)
        return;
    deletion->removing = true;
    loop_timer_cancel(runner->engine->loop, &runner->save_again); /* the row goes */
    adoption_over(runner);
    runner_set_live(runner, false);
    if (runner->starter)
        op_refuse(runner->starter, "wrong-state", "%s is being deleted", runner->slug);
    runner->starter = NULL;
    deletion->removal_keeps = deletion->keep_logs;
    deletion->job = (struct job){.message.run = remove_back, .work = remove_work};
    runner_work(runner, &deletion->job);
}

void delete_supervisor_gone(struct runner *runner)
{
    runner->deletion->supervisor_gone = true;
    delete_go_on(runner);
}

/* --- Beginning -------------------------------------------------------------------------------- */

/* As if nobody had asked. */
static void unmark(struct runner *runner, const struct error *err)
{
    struct deletion *deletion = runner->deletion;
    bool ended = deletion->supervisor_gone && deletion->phase_before == PHASE_LIVE;

    refuse_ops(deletion, err);
    runner->row = deletion->before;
    runner->phase = deletion->phase_before;
    delete_forget(runner);
    runner_save_again(runner);
    if (ended)
        supervisor_ended(runner, "it ended by itself");
}

static void marked(struct runner *runner, const struct error *failure)
{
    struct deletion *deletion = runner->deletion;

    if (failure) {
        unmark(runner, failure);
        return;
    }
    deletion->marked = true;
    if (!deletion->supervisor_gone) {
        /* One that is not connected yet is told when it is: killed in the middle of its start it
         * could leave something behind. */
        runner->stop_requested = true;
        runner->stop_grace_ms = 0;
        follow_stop(runner, 0);
        follow_kill_at(runner, DELETE_MS, "the bottle is deleted");
    }
    delete_go_on(runner);
}

static void begin(struct runner *runner)
{
    struct deletion *deletion = runner->deletion;

    deletion->before = runner->row;
    deletion->phase_before = runner->phase;
    deletion->supervisor_gone = runner->phase == PHASE_REST;
    runner->phase = PHASE_DELETE;
    runner->row.state = STATE_DELETING;
    runner->row.keep_logs = deletion->keep_logs;
    runner_save(runner, SAVE_REQUIRED, true, true, marked);
    delete_record_begin(runner->engine->app->store, runner->slug, &deletion->plan);
}

static void collect_work(struct job *job)
{
    struct deletion *deletion = (struct deletion *)job;

    deletion->err = (struct error){.text = "out of memory"};
    deletion->result = remains_list(&deletion->remains, &deletion->plan);
    if (deletion->result == 0 && deletion->marked)
        deletion->result = delete_recall(deletion->runner->engine->app->store,
                                         deletion->runner->slug, &deletion->plan, &deletion->err);
    cleanup_tag(&deletion->plan, deletion->tag);
}

static bool tag_matches(const struct deletion *deletion, const struct op *op)
{
    return !op->if_match || etag_listed(op->if_match, deletion->tag, false);
}

static void refuse_tag(struct op *op)
{
    op_refuse(op, "precondition-failed",
              "the cleanup plan of %s is no longer the one in If-Match: look at it again",
              op->slug);
}

/* Requests that came while the plan was being made anew. */
static void judge_ops(struct deletion *deletion)
{
    struct op *all = deletion->ops;

    deletion->ops = NULL;
    for (struct op *op; (op = ops_take(&all));) {
        if (op->unjudged && !tag_matches(deletion, op))
            refuse_tag(op);
        else
            add_op(deletion, op);
    }
}

/* A first request: what was listed is pinned down, or not. */
static void collected_first(struct runner *runner)
{
    struct deletion *deletion = runner->deletion;

    if (deletion->result < 0) {
        refuse_ops(deletion, &(struct error){.text = "out of memory"});
        delete_forget(runner);
    } else if (!tag_matches(deletion, deletion->ops)) {
        refuse_tag(take_op(deletion));
        delete_forget(runner);
    } else {
        begin(runner);
    }
}

static void collect_back(struct engine *engine, struct message *message)
{
    struct deletion *deletion = (struct deletion *)message;
    struct runner *runner = deletion->runner;

    runner_job_done(runner);
    deletion->collecting = false;
    if (runner->phase == PHASE_DELETE) {
        if (deletion->result < 0)
            log_event(LEVEL_WARNING, "a delete goes on without its record",
                      LOG_TEXT("slug", runner->slug), LOG_TEXT("detail", deletion->err.text));
        judge_ops(deletion);
        delete_go_on(runner);
    } else if (engine->closing) {
        delete_refuse(runner);
        delete_forget(runner);
    } else if (runner_blocked(runner)) {
        /* Its supervisor ended meanwhile: once that is settled, from the beginning. */
        runner_defer(runner, take_op(deletion));
        delete_forget(runner);
    } else {
        collected_first(runner);
    }
    runner_settle(runner);
}

static void collect(struct runner *runner)
{
    struct deletion *deletion = runner->deletion;

    remains_free(&deletion->remains);
    cleanup_free(&deletion->plan);
    deletion->plan = (struct cleanup_plan){0};
    deletion->collecting = true;
    fill_remains(&deletion->remains, runner->engine, &runner->row, runner);
    deletion->job = (struct job){.message.run = collect_back, .work = collect_work};
    runner_work(runner, &deletion->job);
}

static struct deletion *deletion_new(struct runner *runner)
{
    struct deletion *deletion = must_alloc(sizeof *deletion);

    deletion->runner = runner;
    deletion->keep_logs = runner->row.keep_logs;
    runner->deletion = deletion;
    return deletion;
}

void delete_op(struct runner *runner, struct op *op)
{
    struct deletion *deletion = runner->deletion;

    if (!deletion) {
        add_op(deletion_new(runner), op);
        collect(runner);
        return;
    }
    if (deletion->collecting) { /* a tag is being made: judged by that */
        op->unjudged = true;
        op->next = deletion->ops;
        deletion->ops = op;
        return;
    }
    if (!tag_matches(deletion, op)) {
        refuse_tag(op);
        return;
    }
    add_op(deletion, op);
    if (deletion->resting) {
        deletion->resting = false;
        collect(runner);
    }
}

/* A row that says `deleting`, from an earlier daemon. Its supervisor, if it still is, gets no more
 * time. */
void delete_resume(struct runner *runner)
{
    struct deletion *deletion = deletion_new(runner);
    struct bottle_row *row = &runner->row;

    runner->phase = PHASE_DELETE;
    deletion->marked = true;
    if (!row->shim_pid && row->shim_token[0]) {
        CLEANUP_CLOSE int fd = shim_connect(runner->run_dir, &row->shim_pid, NULL);
        row->shim_start_time = fd < 0 ? 0 : process_start_time(row->shim_pid);
        if (fd < 0)
            row->shim_pid = 0;
    }
    int pidfd = row->shim_pid ? must_find_shim(row) : -1;
    if (pidfd >= 0) {
        runner_set_live(runner, true);
        follow_end(runner, pidfd);
        (void)pidfd_kill(pidfd, SIGKILL);
    } else {
        deletion->supervisor_gone = true;
    }
    collect(runner);
}
