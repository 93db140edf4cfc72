/* What the engine's files share. Everything here belongs to the engine's thread unless it says
 * otherwise.
 *
 * Theory of operation. A bottle that has anything going on – a start, a supervisor, a delete – has
 * a runner: its row as the engine knows it (which may be ahead of the database) and the descriptors
 * it follows. A runner is made from the published snapshot when it is needed and freed when nothing
 * is going on any more, so that resting bottles cost the engine nothing.
 *
 *   phase REST     no supervisor                        starts LAUNCH, DELETE
 *         LAUNCH   stage files, row, spawn              requests are deferred (milliseconds)
 *         LIVE     a supervisor exists, connected or not yet
 *         ENDING   it is gone: its end is being stored and its run directory removed; deferred
 *         DELETE   being deleted                        ends with the runner
 *
 * Three things happen elsewhere and come back as messages in the queue: commits (the store's
 * thread), jobs (worker threads: directories, rendering, spawning: whatever may wait for a disk),
 * and requests. A request for a bottle with a commit or a job in flight is deferred until that is
 * back, so that an answer never runs ahead of what GET says. What supervisors report is acted on at
 * once.
 *
 * Every change of a row is stored first and published after its commit. When the store can not be
 * written, what the processes did is published all the same (it is the truth) and stored later;
 * what clients ask for is refused. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

#include "base/loop.h"
#include "server/egress.h"
#include "server/engine.h"
#include "server/shim_client.h"
#include "server/store.h"

struct runner;

enum {
    WORKERS = 2,
    DELETE_MS = 5000, /* how long a supervisor that is to end at once may take over it */
};

/* --- Messages and jobs ------------------------------------------------------------------------ */

/* Embedded first in what is sent; `run` owns it. */
struct message {
    void (*run)(struct engine *engine, struct message *message);
    struct message *next;
};

/* `work` runs on a worker thread, then message.run on the engine's. */
struct job {
    struct message message;
    void (*work)(struct job *job);
};

struct queue {
    struct message *first, **last;
};

struct waiter;
struct alarms;

/* A message that comes back: a sign of life. */
struct beat {
    struct message message;
    atomic_bool under_way;
    atomic_ullong count;
};

struct engine {
    struct app *app;
    struct loop *loop;
    pthread_t thread;
    bool thread_runs;
    pthread_t workers[WORKERS];
    unsigned n_workers;

    /* Any thread, under `lock`. */
    pthread_mutex_t lock;
    pthread_cond_t settled; /* adopting or creating has become 0 */
    struct queue inbox;
    bool closed;       /* nobody reads the inbox any more */
    bool refusing;     /* no new creations */
    unsigned adopting; /* supervisors of an earlier daemon that were not heard of yet */
    unsigned creating; /* creations under way */

    /* Any thread, under `job_lock`. */
    pthread_mutex_t job_lock;
    pthread_cond_t job_wake;
    struct queue jobs;
    bool jobs_end;

    struct beat beat; /* any thread: one at a time asks */
    /* Any thread, under `watch_lock`. */
    pthread_mutex_t watch_lock;
    struct watcher *watchers;
    size_t n_watchers;

    /* The engine's thread. */
    int wake_fd;
    struct loop_source wake;
    struct runner *runners;
    struct waiter *waiters;
    struct loop_timer waiters_look;
    struct alarms *alarms;
    size_t n_waiters;
    unsigned in_flight; /* commits and jobs that will come back */
    size_t n_live;      /* runners with a supervisor, or about to */
    bool closing, stop_bottles;
    struct loop_timer closing_deadline;
};

/* engine.c: the engine without threads, in app->engine; then its threads. */
int engine_make(struct app *app, struct error *err);
int engine_run(struct engine *engine, struct error *err);
/* Memory for the engine's own bookkeeping, zeroed. Ends the daemon when there is none: the bottles
 * run on, and the next daemon adopts them, which is more than a half-done step would leave. */
void *must_alloc(size_t size);
/* From any thread. False: the engine has ended; the message is still the caller's. */
bool engine_post(struct engine *engine, struct message *message);
/* From the engine's thread: counted as in flight until message.run was called. */
void engine_work(struct engine *engine, struct job *job);

/* --- Requests --------------------------------------------------------------------------------- */

enum verb {
    VERB_START,
    VERB_STOP,
    VERB_DELETE,
    VERB_PLAN,
    VERB_PATCH,
    VERB_REPORT,
    VERB_SHOW,
    VERB_EXEC,
    VERB_EXEC_RESULT,
    VERB_RELOAD,
    VERB_RESTART,
    VERB_PAUSE,
    VERB_RESUME,
    VERB_EXPIRE, /* the engine's own: its time is over */
    VERB_AGAIN,  /* the engine's own: it is to be started again */
};

struct op {
    struct message message;
    struct op *next;
    enum verb verb;
    char slug[SLUG_MAX + 1];
    uint64_t sequence; /* of that bottle only; 0: whichever has the name */
    int64_t grace_ms;
    bool keep_logs, under_way;
    bool unjudged;  /* a DELETE whose tag is still to be compared */
    bool automatic; /* no client asked for it */
    char *if_match;
    engine_done *done;
    engine_cleanup_done *cleaned; /* of DELETE and PLAN */
    engine_report_done *reported; /* of REPORT, EXEC_RESULT and RELOAD */
    engine_exec_done *streams;    /* of EXEC */
    int stream;                   /* the supervisor's end; -1: it is still to be made */
    char exec_id[EXEC_ID_SIZE];
    struct exec_note exec_note;
    json_t *patch; /* of PATCH */
    void *context;
};

/* A new one; then by its thread's runner, as soon as nothing of the bottle is in flight. */
struct op *op_new(const char *slug, enum verb verb, void *context);
void op_submit(struct app *app, struct op *op);
/* Each answers and frees. */
void op_answer(struct op *op, struct snapshot *snapshot);
void op_answer_present(struct engine *engine, struct op *op); /* with what the registry has */
void op_cleaned(struct op *op, const struct cleanup_plan *plan);
void op_reported(struct op *op, const json_t *report);
void op_streams(struct op *op, int stream, const char *id);
void op_refuse(struct op *op, const char *type, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void op_refuse_unknown(struct op *op);
void op_problem(struct op *op, const struct problem *problem);
void op_error(struct op *op, const struct error *err);

/* --- Runners ---------------------------------------------------------------------------------- */

enum phase { PHASE_REST, PHASE_LAUNCH, PHASE_LIVE, PHASE_ENDING, PHASE_DELETE };

enum save_mode {
    SAVE_FOLLOW,   /* publish also when it could not be stored, and store it later */
    SAVE_REQUIRED, /* publish only what was stored */
    SAVE_HOLD,     /* as FOLLOW, but `then` publishes */
};

/* NULL failure: stored. */
typedef void save_then(struct runner *runner, const struct error *failure);

enum { N_GUEST_KINDS = 2 };

struct deletion;
struct launch;
struct patch;
struct reload;
struct report;
struct pausing;

struct runner {
    UT_hash_handle hh;
    struct engine *engine;
    char slug[SLUG_MAX + 1];
    struct bottle_row row;
    struct plan_ref *plan;
    char *run_dir, *stage_dir;
    enum phase phase;
    bool live; /* counted in n_live */
    unsigned writes, jobs;
    struct op *deferred, **deferred_last;

    /* The supervisor. */
    int pidfd; /* -1: not known (yet) */
    bool child;
    struct loop_source end_source, ready_source, connection; /* fd -1: none */
    char ready_line[256];
    size_t ready_length;
    bool heard;              /* it has sent a status over this connection */
    struct shim_status said; /* the last status */
    int64_t running_ms;      /* since when the command runs, monotonic; 0: not heard of */
    bool start_bound;        /* `kill` is the deadline of its coming up */
    bool has_final;          /* `said` is final */
    bool pid_saved;
    struct op *starter; /* waits for pid_saved and heard */
    bool adopting;      /* from an earlier daemon, not yet heard of */
    int64_t adopt_until_ms;
    bool stop_requested;
    int64_t stop_grace_ms;
    struct loop_timer retry; /* of connecting */
    struct loop_timer kill;  /* when the supervisor is killed, and why */
    char kill_reason[160];
    /* Over a connection that was made anew: when that was (0: it is the first), and the deadline
     * that held before (at_ms 0: none). */
    struct {
        int64_t made_ms, at_ms;
        char reason[160];
    } anew;
    bool killed;
    char end_reason[REASON_SIZE]; /* what is known of a failure before the end */

    bool unsaved; /* the database lacks what was published */
    struct loop_timer save_again;
    save_then *save_again_then;
    enum save_mode save_again_mode;

    struct egress_budget egress_budget;
    int64_t egress_lost, egress_lost_ms;   /* attempts that no event tells of yet */
    struct loop_timer egress_save;         /* when the counters are stored */
    bool sidecars_ready;                   /* what the last event of them said */
    struct patch *patch;                   /* under way */
    struct op *patches;                    /* those that wait for it */
    struct report *report;                 /* under way */
    int64_t guest_heard_ms[N_GUEST_KINDS]; /* of the last of each that was told */
    struct reload *reload;                 /* of its secrets, under way */
    struct pausing *pausing;               /* or its resuming, under way */
    struct op *exec_asks;                  /* EXEC_RESULT: the supervisor was asked */

    char template_key[SHA256_HEX_SIZE]; /* of what was launched; "": it is to have none, or was told
                                         */
    bool template_told;                 /* that it failed */
    struct launch *launch;              /* while its mark is being stored */
    struct deletion *deletion;
    bool gone; /* deleted: to be freed */
};

struct runner *runner_find(struct engine *engine, const char *slug);
/* The one that is there, or a new one from the snapshot. */
struct runner *runner_take(struct engine *engine, struct snapshot *snapshot);
void runner_set_live(struct runner *runner, bool live);
/* Whether requests have to wait for something in flight. */
bool runner_blocked(const struct runner *runner);
void runner_defer(struct runner *runner, struct op *op);
/* After anything came back: runs deferred requests, and frees a runner with nothing going on. The
 * runner must not be touched after. */
void runner_settle(struct runner *runner);
void runner_free(struct runner *runner);
/* With --stop-bottles, once the engine is closing: asks one that lives to end and takes back a
 * start that it waits for. One that is between two phases is asked when it has come to the next. */
void runner_close(struct runner *runner);
/* Tries again to store what could not be stored. */
void runner_save_again(struct runner *runner);
/* Stores the row. `visible`: clients see a difference (generation, time); `event`: the state is
 * new. */
void runner_save(struct runner *runner, enum save_mode mode, bool visible, bool event,
                 save_then *then);
void runner_publish(struct runner *runner, const struct bottle_row *row);
/* The present snapshot anew, with the runner's counters. */
void runner_publish_counters(struct runner *runner);
/* Takes a list of requests apart; NULL at its end. */
struct op *ops_take(struct op **list);
/* A snapshot, or the end of the daemon (as must_alloc). */
struct snapshot *must_snapshot(const struct bottle_row *row, struct plan_ref *plan);
/* A job of this runner: counted, and settled by the caller in message.run through
 * runner_job_done(). */
void runner_work(struct runner *runner, struct job *job);
void runner_job_done(struct runner *runner);
/* Closes descriptors, cancels timers of the supervisor. */
void runner_unfollow(struct runner *runner);

/* Runs or defers it. */
void runner_dispatch(struct runner *runner, struct op *op);
/* Answers what waits for this runner with "shutting-down". */
void runner_refuse_all(struct runner *runner);

/* launch.c */
void start_op(struct runner *runner, struct op *op);
/* follow.c */
void follow_spawned(struct runner *runner, int pidfd, int ready_fd);
void follow_adopt(struct runner *runner);
/* A pidfd of the supervisor on record, -1: it is gone. Ends the daemon where that can't be told (as
 * must_alloc): one that lives must not be taken for dead. */
int must_find_shim(const struct bottle_row *row);
/* Watches a pidfd for the supervisor's end. */
void follow_end(struct runner *runner, int pidfd);
/* Notes the request, and stores and publishes `stopping`. */
void follow_request_stop(struct runner *runner, int64_t grace_ms);
void follow_stop(struct runner *runner, int64_t grace_ms);
void follow_answer_starter(struct runner *runner);
void follow_kill_at(struct runner *runner, int64_t in_ms, const char *reason);
void stop_op(struct runner *runner, struct op *op);
void adoption_over(struct runner *runner);
/* ending.c: the supervisor is gone; `how` are the words for it. */
void supervisor_ended(struct runner *runner, const char *how);
/* Kills what is left of the processes (by pidfd) and waits for their deaths; any thread. -1: one
 * lives on. */
int processes_end(const struct shim_process *processes, size_t count, int64_t patience_ms);
/* Ends processes of the bottle's user (0: ours) that are in its run directory: what a supervisor
 * had just started when it was killed, too young yet to die with it. Any thread. -1: one lives on.
 */
int strays_end(const char *run_dir, unsigned uid, int64_t patience_ms);
/* Before the id of a run directory, or the name of a stage directory, that was moved aside. */
#define RUN_DIR_ASIDE ".gone-"
/* delete.c */
void delete_op(struct runner *runner, struct op *op);
void delete_resume(struct runner *runner);
void delete_supervisor_gone(struct runner *runner);
/* The removal, once nothing is in its way; asked each time something has ended. */
void delete_go_on(struct runner *runner);
/* Answers those who wait for it with "shutting-down"; frees what is known of it. */
void delete_refuse(struct runner *runner);
void delete_forget(struct runner *runner);
void plan_op(struct engine *engine, struct op *op, struct snapshot *snapshot);
/* egress.c: a packet of the supervisor's; what only memory has, stored now; the sidecars' events.
 */
void egress_heard(struct runner *runner, const json_t *packet);
void egress_flush(struct runner *runner);
/* What the supervisor is told of a plan's egress; the caller owns it. */
json_t *egress_change_encode(const struct plan *plan);
void sidecars_told(struct runner *runner, bool ready);
/* restage.c: a job that brings the stage files up to the runner's plan. */
void runner_restage(struct runner *runner);
/* patch.c */
void patch_op(struct runner *runner, struct op *op);
/* A supervisor of an earlier daemon may not have heard of the bottle's newest plan, `after`. */
void patch_resume(struct runner *runner, struct plan_ref *after);
void patch_heard(struct runner *runner); /* the supervisor can be spoken to */
void patch_applied(struct runner *runner, const json_t *packet);
void patch_supervisor_gone(struct runner *runner);
void patch_refuse(struct runner *runner); /* answers with "shutting-down" */
void patch_forget(struct runner *runner);
/* alarms.c: the moments at which something is to be done to a bottle by itself. */
int alarms_make(struct engine *engine, struct error *err);
void alarms_free(struct engine *engine);
/* Sets a bottle's next moment by its row, which has just been published or loaded. */
void alarms_follow(struct engine *engine, const struct bottle_row *row);
/* The same from another thread, of what is published then. */
void alarms_post(struct engine *engine, const char *slug);
/* In so many milliseconds, whatever its row says. */
void alarms_retry(struct engine *engine, const char *slug, int64_t in_ms);
/* The bottle is gone. */
void alarms_forget(struct engine *engine, const char *slug);
/* True the first time that it is asked of a bottle. */
bool alarms_first_time(struct engine *engine, const char *slug);
/* Calls for each bottle that waits for its moment; `call` may not set or forget alarms. */
void alarms_each(struct engine *engine, void (*call)(struct engine *engine, const char *slug));
/* ttl.c */
/* Its time begins now: as many seconds as the plan says, 0: without end. */
void ttl_begin(struct bottle_row *row, int64_t seconds);
bool ttl_is_over(const struct bottle_row *row);
/* Sets right what is shown, by the wall clock as it goes now. True: it was another. */
bool clocks_show(struct bottle_row *row);
void ttl_due(struct engine *engine, const char *slug);
void expire_op(struct runner *runner, struct op *op);
/* restart.c */
/* The bottle has ended, as its row says: is it to be started again? Then its row says that. */
void restart_decide(struct runner *runner);
void restart_due(struct engine *engine, const char *slug);
void restart_op(struct runner *runner, struct op *op);
void again_op(struct runner *runner, struct op *op);
/* Not to be started again after all: stores and publishes `stopped`. */
void restart_cancel(struct runner *runner);
/* All that wait for their start. */
void restarts_cancel(struct engine *engine);
/* report.c */
void report_op(struct runner *runner, struct op *op);
void report_heard(struct runner *runner, const json_t *packet);
/* The answer of a supervisor's packet, checked. The caller owns. */
json_t *report_encode(const json_t *packet);
/* Ends a report that is under way with a problem. */
void report_end(struct runner *runner, const char *type, const char *words);
/* guest_events.c: something happened in the guest. */
void guest_heard(struct runner *runner, const json_t *packet);
/* pause.c */
void pause_op(struct runner *runner, struct op *op);
void pause_heard(struct runner *runner, const json_t *packet);
/* Ends a pause or resume that is under way, and those that wait behind it, with a problem. */
void pause_end(struct runner *runner, const char *type, const char *words);
/* reload.c */
void reload_op(struct runner *runner, struct op *op);
void reload_heard(struct runner *runner, const json_t *packet);
/* Ends a reload that is under way with a problem. */
void reload_end(struct runner *runner, const char *type, const char *words);
/* exec.c */
void exec_op(struct runner *runner, struct op *op);
void exec_result_op(struct runner *runner, struct op *op);
void exec_heard(struct runner *runner, const json_t *packet);
/* Answers those who asked with a problem. */
void exec_end(struct runner *runner, const char *type, const char *words);
/* wait.c */
void waiters_notify(struct engine *engine, struct snapshot *snapshot);
void waiters_gone(struct engine *engine, const char *slug);
void waiters_refuse_all(struct engine *engine);
