/* The end of a supervisor, however it came: what the bottle's state is then, stored, then
 * published.
 *
 * Its last status decides, as it came over the socket or as it lies in the exit record. Without
 * either it was killed, and everything it had started died with it; that is made sure of before the
 * state is published, so that a bottle at rest has no process and no run directory. */
#include <stdio.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/log.h"
#include "server/stage.h"

enum { DEATH_MS = 10000 };

struct sweep {
    struct job job;
    struct runner *runner;
    char *run_dir;
    unsigned uid;
    struct shim_process processes[SHIM_PROCESSES_MAX];
    size_t n_processes;
    struct error err;
};

/* Publishes (unless done), answers, and lets requests in again. */
static void at_rest(struct runner *runner)
{
    struct op *op = runner->starter;

    runner->phase = PHASE_REST;
    runner_set_live(runner, false);
    adoption_over(runner);
    log_event(LEVEL_INFO, "bottle ended", LOG_TEXT("slug", runner->slug),
              LOG_TEXT("state", states[runner->row.state].name),
              LOG_NUMBER("exit_code", runner->row.has_exit_code ? runner->row.exit_code : -1),
              LOG_TEXT("reason", runner->row.reason));
    runner->starter = NULL;
    /* Once it was heard of it had been started, and what came after is its state. */
    if (op && !op->automatic && runner->row.state == STATE_FAILED && !runner->heard)
        op_refuse(op, "boot-failed", "%s could not be started: %s", runner->slug,
                  runner->row.reason);
    else if (op)
        op_answer_present(runner->engine, op);
    runner_close(runner);
}

static void sweep_work(struct job *job)
{
    struct sweep *sweep = (struct sweep *)job;

    if (processes_end(sweep->processes, sweep->n_processes, DEATH_MS) < 0 ||
        strays_end(sweep->run_dir, sweep->uid, DEATH_MS) < 0)
        (void)error_set(&sweep->err, NULL, "a process is alive after SIGKILL");
    else
        (void)directory_remove(sweep->run_dir, NULL, &sweep->err);
}

static void swept(struct engine *engine, struct message *message)
{
    struct sweep *sweep = (struct sweep *)message;
    struct runner *runner = sweep->runner;

    (void)engine;
    runner_job_done(runner);
    if (sweep->err.text[0])
        log_event(LEVEL_WARNING, "a run directory stays", LOG_TEXT("slug", runner->slug),
                  LOG_TEXT("detail", sweep->err.text));
    runner_publish(runner, &runner->row);
    at_rest(runner);
    free(sweep->run_dir);
    free(sweep);
    runner_settle(runner);
}

/* Not stored: the truth is published, and the run directory with the exit record stays until it is.
 */
static void end_saved(struct runner *runner, const struct error *failure)
{
    if (failure) {
        runner_publish(runner, &runner->row);
        if (runner->phase == PHASE_ENDING)
            at_rest(runner);
        return;
    }
    struct sweep *sweep = must_alloc(sizeof *sweep);
    runner->phase = PHASE_ENDING;
    sweep->job = (struct job){.message.run = swept, .work = sweep_work};
    sweep->runner = runner;
    sweep->run_dir = strdup(runner->run_dir);
    sweep->uid = stage_uid(&runner->engine->app->host, &runner->row.allocation);
    if (!sweep->run_dir)
        abort();
    memcpy(sweep->processes, runner->said.processes, sizeof sweep->processes);
    sweep->n_processes = runner->said.n_processes;
    runner_work(runner, &sweep->job);
}

/* What is known when the supervisor left no last status. */
static void write_lost_reason(const struct runner *runner, const char *how, char ret[REASON_SIZE])
{
    char words[REASON_SIZE + 192];

    if (runner->end_reason[0])
        (void)snprintf(words, sizeof words, "the supervisor failed: %s", runner->end_reason);
    else if (runner->killed)
        (void)snprintf(words, sizeof words, "the supervisor was killed: %s", runner->kill_reason);
    else
        (void)snprintf(
            words, sizeof words,
            "the supervisor was killed or is lost (%s), and the VM ended with it; start the "
            "bottle again",
            how);
    reason_copy(ret, words);
}

static void set_end(struct runner *runner, const char *how)
{
    struct bottle_row *row = &runner->row;
    const struct shim_status *said = &runner->said;

    row->has_exit_code = runner->has_final && said->has_exit_code;
    row->exit_code = row->has_exit_code ? said->exit_code : 0;
    row->finished_ms = runner->has_final && said->finished_ms ? said->finished_ms : clock_wall_ms();
    if (runner->has_final) {
        row->state = said->state;
        row->boots = said->boots;
        row->started_ms = said->started_ms;
        memcpy(row->reason, said->reason, sizeof row->reason);
        memcpy(row->boot, said->boot, sizeof row->boot);
        memcpy(row->boot_reason, said->boot_reason, sizeof row->boot_reason);
    } else {
        row->state = STATE_FAILED;
        write_lost_reason(runner, how, row->reason);
    }
    /* It was to be stopped, and it is. */
    if (runner->stop_requested && (row->state == STATE_EXITED || !runner->has_final))
        row->state = STATE_STOPPED;
    row->shim_pid = 0;
    row->shim_start_time = 0;
    row->shim_token[0] = '\0';
    restart_decide(runner);
}

void supervisor_ended(struct runner *runner, const char *how)
{
    struct error err = ERROR_INIT;

    runner_unfollow(runner);
    egress_flush(runner);
    sidecars_told(runner, false);
    report_end(runner, "wrong-state", "it ended while its confinement was being tried");
    reload_end(runner, "wrong-state", "it ended while its secrets were read again");
    exec_end(runner, "wrong-state", "it ended while it was being asked");
    pause_end(runner, "wrong-state", "it ended while it was being asked");
    patch_supervisor_gone(runner);
    if (runner->phase == PHASE_DELETE) {
        delete_supervisor_gone(runner);
        return;
    }
    if (!runner->has_final)
        runner->has_final = shim_exit_record(runner->run_dir, &runner->said, &err) == 0;
    runner->phase = PHASE_ENDING;
    set_end(runner, how);
    runner_save(runner, SAVE_HOLD, true, true, end_saved);
}
