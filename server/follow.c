/* Following a supervisor: its ready line, its socket, its statuses, its pidfd; and asking it to
 * stop.
 *
 * Spawned: pidfd and ready pipe → "ok" → connect, hello → first status (heard) → come up. Adopted:
 * pidfd by pid and start time → connect, hello → first status. Each stretch has one deadline, the
 * kill timer, and missing it ends in SIGKILL by pidfd; so every path leads to the pidfd saying that
 * the process is gone, which is the only thing that ends a bottle here (ending.c). */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/process.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/query.h"
#include "server/templates.h"
#include "shim/protocol.h"

enum {
    READY_MS = 10000,        /* from the spawn to the ready line */
    ANSWER_MS = 10000,       /* from hello to the first status */
    ADOPT_MS = 10000,        /* for a supervisor that lives to be reached after a restart */
    ADOPT_PIDLESS_MS = 3000, /* for one whose pid was not stored any more to open its socket */
    ADOPT_RETRY_MS = 50,
    ANEW_MS = 10000, /* from one connection to the next to one that hangs up */
    /* From its first status to the one that says that the bottle came up, beyond what its own
     * deadlines give it: one that is stuck itself says nothing. */
    START_BOOTS = 4,
    START_MARGIN_MS = 5000,
    /* From its last status, or its socket's end, or the end of a bottle that never ran, to its own
     * end. */
    END_MS = 10000,
};

static const char gone_meanwhile[] = "it was gone after a restart of bottled";

static void connect_now(struct runner *runner);
static bool connect_again(struct runner *runner);

/* --- Deadlines -------------------------------------------------------------------------------- */

static void on_kill(struct loop_timer *timer)
{
    struct runner *runner = timer->data;

    log_event(LEVEL_WARNING, "killing a supervisor", LOG_TEXT("slug", runner->slug),
              LOG_TEXT("reason", runner->kill_reason));
    runner->killed = true;
    if (runner->pidfd >= 0) {
        (void)pidfd_kill(runner->pidfd, SIGKILL);
        return;
    }
    supervisor_ended(runner, "it could not be found");
    runner_settle(runner);
}

void follow_kill_at(struct runner *runner, int64_t in_ms, const char *reason)
{
    int64_t at_ms = clock_monotonic_ms() + in_ms;

    if (runner->killed || (runner->kill.active && runner->kill.at_ms <= at_ms))
        return;
    (void)snprintf(runner->kill_reason, sizeof runner->kill_reason, "%s", reason);
    runner->kill.callback = on_kill;
    runner->kill.data = runner;
    loop_timer_set(runner->engine->loop, &runner->kill, at_ms);
}

static void drop_source(struct runner *runner, struct loop_source *source)
{
    loop_remove(runner->engine->loop, source);
    if (source->fd >= 0)
        (void)close(source->fd);
    source->fd = -1;
}

/* --- Statuses --------------------------------------------------------------------------------- */

void follow_answer_starter(struct runner *runner)
{
    struct op *op = runner->starter;

    if (!op || !runner->heard || !runner->pid_saved)
        return;
    runner->starter = NULL;
    op_answer_present(runner->engine, op);
}

/* The first word over a connection: the stretch before it is over. */
static void note_heard(struct runner *runner)
{
    const bool stops = runner->stop_requested && runner->said.state == STATE_STOPPING;
    const bool bound = runner->anew.at_ms != 0;

    runner->heard = true;
    loop_timer_cancel(runner->engine->loop, &runner->kill);
    patch_heard(runner);
    if (bound)
        follow_kill_at(runner, runner->anew.at_ms - clock_monotonic_ms(), runner->anew.reason);
    runner->anew.at_ms = 0;
    /* One that an earlier daemon asked keeps the grace that it was given, of an hour at most. */
    if (stops && runner->adopting)
        follow_kill_at(runner, WAIT_MAX_MS + STOP_MARGIN_MS,
                       "it was asked to stop, and did not end");
    else if (runner->stop_requested && !(stops && bound))
        follow_stop(runner, runner->stop_grace_ms);
    if (runner->phase == PHASE_DELETE)
        follow_kill_at(runner, DELETE_MS, "the bottle is deleted");
}

static void note_state(struct runner *runner, const struct shim_status *status)
{
    struct bottle_row *row = &runner->row;
    bool moved = row->state != status->state;

    if (!moved && row->boots == status->boots && strcmp(row->boot, status->boot) == 0 &&
        strcmp(row->reason, status->reason) == 0 && row->started_ms == status->started_ms)
        return;
    if (strcmp(row->boot, status->boot) != 0)
        metrics_boot(status->boot);
    row->state = status->state;
    row->boots = status->boots;
    row->started_ms = status->started_ms;
    memcpy(row->reason, status->reason, sizeof row->reason);
    memcpy(row->boot, status->boot, sizeof row->boot);
    memcpy(row->boot_reason, status->boot_reason, sizeof row->boot_reason);
    if (row->state == STATE_RUNNING)
        sidecars_told(runner, true);
    runner_save(runner, SAVE_FOLLOW, true, moved, NULL);
}

/* Once a start: what it has to say of its machine's template. */
static void note_template(struct runner *runner, const struct shim_status *status)
{
    struct templates *templates = runner->engine->app->templates;

    if (!runner->template_key[0])
        return;
    if (status->template_failed && !runner->template_told) {
        runner->template_told = true;
        log_event(LEVEL_WARNING, "a template could not be restored", LOG_TEXT("slug", runner->slug),
                  LOG_TEXT("key", runner->template_key));
        templates_failed(templates, runner->template_key,
                         status->boot_reason[0] ? status->boot_reason : "it could not be restored");
    }
    if (status->state == STATE_STARTING || !status->boot[0])
        return;
    if (strcmp(status->boot, "cold") == 0)
        templates_want(templates, runner->template_key, runner->plan);
    runner->template_key[0] = '\0';
}

/* The stretches that are over by themselves: the bottle comes up; it ends, and nobody asked for it.
 */
static void bound_state(struct runner *runner, enum bottle_state state)
{
    const struct host *host = &runner->engine->app->host;

    if (state == STATE_STARTING && !runner->start_bound)
        follow_kill_at(runner,
                       host->sidecar_timeout_ms + START_BOOTS * host->boot_timeout_ms +
                           START_MARGIN_MS,
                       "it neither brought the bottle up in time nor said why");
    else if (state != STATE_STARTING && runner->start_bound && !runner->stop_requested &&
             runner->phase == PHASE_LIVE)
        loop_timer_cancel(runner->engine->loop, &runner->kill);
    runner->start_bound = state == STATE_STARTING;
    if (state == STATE_STOPPING && !runner->stop_requested)
        follow_kill_at(runner, runner->running_ms ? STOP_MARGIN_MS : END_MS,
                       "it did not end, though its bottle had");
}

static void take_status(struct runner *runner, const struct shim_status *status)
{
    if (runner->has_final)
        return;
    runner->said = *status;
    if (!runner->running_ms && (status->state == STATE_RUNNING || status->state == STATE_PAUSED))
        runner->running_ms = clock_monotonic_ms() - status->ran_ms;
    if (!runner->heard)
        note_heard(runner);
    note_template(runner, status);
    bound_state(runner, status->state);
    if (shim_status_final(status)) {
        runner->has_final = true;
        follow_kill_at(runner, END_MS, "it did not end after its last status");
    } else if (runner->phase == PHASE_LIVE && !runner->stop_requested) {
        note_state(runner, status);
    }
    if (!runner->has_final)
        adoption_over(runner);
    follow_answer_starter(runner);
}

/* What is no status, told by the member that it has. */
static const struct {
    const char *member;
    void (*take)(struct runner *runner, const json_t *packet);
} packet_rows[] = {{"egress", egress_heard},  {"applied", patch_applied}, {"report", report_heard},
                   {"secrets", reload_heard}, {"guest", guest_heard},     {"exec", exec_heard},
                   {"paused", pause_heard}};

static int take_packet(struct runner *runner, const char *bytes, size_t length, struct error *err)
{
    struct shim_status status;
    CLEANUP_JSON json_t *packet = json_parse(bytes, length, err);

    for (size_t i = 0; i < COUNT_OF(packet_rows); i++) {
        if (!json_object_get(packet, packet_rows[i].member))
            continue;
        packet_rows[i].take(runner, packet);
        return 0;
    }
    if (!packet || shim_status_parse(bytes, length, &status, err) < 0)
        return -1;
    take_status(runner, &status);
    return 0;
}

enum { DRAIN_ENDED = -1, DRAIN_BROKEN = -2 };

/* Reads what there is: 0; DRAIN_ENDED: the connection is over; DRAIN_BROKEN: the supervisor is
 * killed for what it said. */
static int drain(struct runner *runner)
{
    char packet[CONTROL_PACKET_MAX + 1];
    struct error err = ERROR_INIT;

    for (;;) {
        ssize_t length =
            recv(runner->connection.fd, packet, sizeof packet, MSG_DONTWAIT | MSG_TRUNC);
        /* A reset is told before what came ahead of it, and once. */
        if (length < 0 && (errno == EINTR || errno == ECONNRESET))
            continue;
        if (length < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : DRAIN_ENDED;
        if (length == 0)
            return DRAIN_ENDED;
        if (length > CONTROL_PACKET_MAX)
            (void)error_set(&err, NULL, "a packet of %zd bytes", length);
        else if (take_packet(runner, packet, (size_t)length, &err) == 0)
            continue;
        log_event(LEVEL_WARNING, "a supervisor broke the protocol", LOG_TEXT("slug", runner->slug),
                  LOG_TEXT("detail", err.text));
        follow_kill_at(runner, 0, "it broke the control protocol");
        return DRAIN_BROKEN;
    }
}

static void on_connection(struct loop_source *source, uint32_t events)
{
    struct runner *runner = source->data;
    int result = drain(runner);

    (void)events;
    if (result < 0)
        drop_source(runner, source);
    if (result == DRAIN_ENDED && !connect_again(runner))
        follow_kill_at(runner, END_MS, "it closed its control socket and did not end");
    runner_settle(runner);
}

/* --- Its end ---------------------------------------------------------------------------------- */

static void on_end(struct loop_source *source, uint32_t events)
{
    struct runner *runner = source->data;
    char how[128];
    int status;

    (void)snprintf(how, sizeof how, "%s", runner->adopting ? gone_meanwhile : "it is gone");
    (void)events;
    /* Its last words may still be in the socket. */
    if (runner->connection.fd >= 0)
        (void)drain(runner);
    if (runner->child && pidfd_reap(runner->pidfd, &status) == 1)
        wait_status_words(status, how, sizeof how);
    supervisor_ended(runner, how);
    runner_settle(runner);
}

void follow_end(struct runner *runner, int pidfd)
{
    struct error err = ERROR_INIT;

    runner->pidfd = pidfd;
    runner->end_source =
        (struct loop_source){.fd = pidfd, .events = EPOLLIN, .callback = on_end, .data = runner};
    if (loop_add(runner->engine->loop, &runner->end_source, &err) < 0) {
        log_event(LEVEL_ERROR, "a supervisor can not be watched", LOG_TEXT("slug", runner->slug),
                  LOG_TEXT("detail", err.text));
        abort();
    }
}

/* --- Connecting ------------------------------------------------------------------------------- */

/* While adopting: again a little later, as long as there is something to wait for. */
static void connect_failed(struct runner *runner, const struct error *err)
{
    int64_t now = clock_monotonic_ms();

    if (runner->adopting && now < runner->adopt_until_ms) {
        loop_timer_set(runner->engine->loop, &runner->retry, now + ADOPT_RETRY_MS);
        return;
    }
    reason_copy(runner->end_reason, err->text);
    follow_kill_at(runner, 0, err->text);
}

/* Who listens has to be the process on record; without a record the token decides. */
static int check_peer(struct runner *runner, pid_t peer, struct error *err)
{
    struct bottle_row *row = &runner->row;

    if (runner->pidfd >= 0)
        return peer == row->shim_pid ? 0 : error_set(err, NULL, "another process has its socket");
    uint64_t start_time = process_start_time(peer);
    int pidfd = start_time ? shim_open(peer, start_time) : -1;
    if (pidfd < 0)
        return error_set(err, NULL, "the process that opened its socket is gone");
    row->shim_pid = peer;
    row->shim_start_time = start_time;
    follow_end(runner, pidfd);
    runner_save(runner, SAVE_FOLLOW, false, false, NULL);
    return 0;
}

static int connect_to(struct runner *runner, struct error *err)
{
    pid_t peer = 0;
    CLEANUP_CLOSE int fd = shim_connect(runner->run_dir, &peer, err);

    if (fd < 0 || check_peer(runner, peer, err) < 0 ||
        shim_hello(fd, runner->row.shim_token, err) < 0)
        return -1;
    runner->connection = (struct loop_source){
        .fd = fd, .events = EPOLLIN, .callback = on_connection, .data = runner};
    if (loop_add(runner->engine->loop, &runner->connection, err) < 0) {
        runner->connection.fd = -1;
        return -1;
    }
    (void)steal_fd(&fd);
    loop_timer_cancel(runner->engine->loop, &runner->kill);
    follow_kill_at(runner, ANSWER_MS, "it did not answer on its control socket");
    return 0;
}

static void connect_now(struct runner *runner)
{
    struct error err = ERROR_INIT;

    if (connect_to(runner, &err) < 0)
        connect_failed(runner, &err);
}

/* A supervisor drops who does not read, as a daemon that stood still for a while. It tells anew how
 * things are. */
static bool connect_again(struct runner *runner)
{
    const int64_t now_ms = clock_monotonic_ms();
    const bool bound = runner->kill.active;
    const int64_t at_ms = runner->kill.at_ms;

    if (!runner->heard || runner->has_final || runner->killed ||
        (runner->anew.made_ms && now_ms < runner->anew.made_ms + ANEW_MS))
        return false;
    memcpy(runner->anew.reason, runner->kill_reason, sizeof runner->anew.reason);
    if (connect_to(runner, NULL) < 0)
        return false;
    log_event(LEVEL_WARNING, "connected anew to a supervisor that had hung up",
              LOG_TEXT("slug", runner->slug));
    runner->anew.made_ms = now_ms;
    runner->anew.at_ms = bound ? at_ms : 0;
    runner->heard = false;
    exec_end(runner, "internal", "its supervisor hung up meanwhile; ask again");
    return true;
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    struct runner *runner = source->data;
    size_t room = sizeof runner->ready_line - 1 - runner->ready_length;
    ssize_t got = read(source->fd, runner->ready_line + runner->ready_length, room);

    (void)events;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    runner->ready_length += got > 0 ? (size_t)got : 0;
    runner->ready_line[runner->ready_length] = '\0';
    char *end = strchr(runner->ready_line, '\n');
    if (!end && got > 0 && (size_t)got < room)
        return;
    if (end)
        *end = '\0';
    drop_source(runner, source);
    if (strcmp(runner->ready_line, "ok") == 0) {
        connect_now(runner);
    } else {
        reason_copy(runner->end_reason, runner->ready_line);
        follow_kill_at(runner, END_MS / 5, "it did not end after it had failed");
    }
    runner_settle(runner);
}

/* What an earlier supervisor of this bottle left in memory. */
static void forget_supervisor(struct runner *runner)
{
    runner->said = (struct shim_status){0};
    runner->has_final = runner->heard = runner->pid_saved = runner->stop_requested = false;
    runner->child = runner->killed = runner->start_bound = false;
    runner->ready_length = 0;
    runner->running_ms = runner->anew.made_ms = runner->anew.at_ms = 0;
    runner->template_told = false;
    runner->end_reason[0] = '\0';
}

void follow_spawned(struct runner *runner, int pidfd, int ready_fd)
{
    forget_supervisor(runner);
    runner->child = true;
    follow_end(runner, pidfd);
    runner->ready_source = (struct loop_source){
        .fd = ready_fd, .events = EPOLLIN, .callback = on_ready, .data = runner};
    (void)loop_add(runner->engine->loop, &runner->ready_source, NULL);
    follow_kill_at(runner, READY_MS, "it did not say that it was ready");
}

/* --- Adoption --------------------------------------------------------------------------------- */

static void on_retry(struct loop_timer *timer)
{
    struct runner *runner = timer->data;

    connect_now(runner);
    runner_settle(runner);
}

void adoption_over(struct runner *runner)
{
    struct engine *engine = runner->engine;

    /* Until its egress is the stored one again it is not known which one is in force. */
    if (!runner->adopting || (runner->patch && runner->phase == PHASE_LIVE))
        return;
    runner->adopting = false;
    (void)pthread_mutex_lock(&engine->lock);
    if (--engine->adopting == 0)
        (void)pthread_cond_broadcast(&engine->settled);
    (void)pthread_mutex_unlock(&engine->lock);
}

int must_find_shim(const struct bottle_row *row)
{
    int pidfd = shim_open(row->shim_pid, row->shim_start_time);

    if (pidfd >= 0 || errno == ESRCH)
        return pidfd;
    log_event(LEVEL_ERROR, "a supervisor can not be looked for: ending; the bottles run on",
              LOG_TEXT("slug", row->slug), LOG_TEXT("detail", strerror(errno)));
    abort();
}

void follow_adopt(struct runner *runner)
{
    struct engine *engine = runner->engine;
    const struct bottle_row *row = &runner->row;

    forget_supervisor(runner);
    (void)pthread_mutex_lock(&engine->lock);
    engine->adopting++;
    (void)pthread_mutex_unlock(&engine->lock);
    runner->adopting = true;
    runner->sidecars_ready =
        row->state == STATE_RUNNING || row->state == STATE_PAUSED || row->state == STATE_STOPPING;
    runner->pid_saved = true;
    runner->phase = PHASE_LIVE;
    runner_set_live(runner, true);
    runner->stop_requested = row->state == STATE_STOPPING;
    runner->stop_grace_ms = STOP_GRACE_MS;
    runner->retry = (struct loop_timer){.callback = on_retry, .data = runner};
    runner->adopt_until_ms = clock_monotonic_ms() + (row->shim_pid ? ADOPT_MS : ADOPT_PIDLESS_MS);
    if (!row->shim_pid && !row->shim_token[0]) {
        supervisor_ended(runner, "the host was started anew");
        return;
    }
    if (row->shim_pid) {
        int pidfd = must_find_shim(row);
        if (pidfd < 0) {
            supervisor_ended(runner, gone_meanwhile);
            return;
        }
        follow_end(runner, pidfd);
    }
    connect_now(runner);
}

/* --- Stopping --------------------------------------------------------------------------------- */

void follow_stop(struct runner *runner, int64_t grace_ms)
{
    struct error err = ERROR_INIT;
    char reason[96];

    if (!runner->heard || runner->connection.fd < 0)
        return;
    (void)snprintf(reason, sizeof reason, "it did not end within %lld s of being asked to stop",
                   (long long)(grace_ms + STOP_MARGIN_MS) / 1000);
    if (shim_stop(runner->connection.fd, grace_ms, &err) < 0)
        follow_kill_at(runner, 0, "it could not be asked to stop");
    follow_kill_at(runner, grace_ms + STOP_MARGIN_MS, reason);
}

void follow_request_stop(struct runner *runner, int64_t grace_ms)
{
    bool first = !runner->stop_requested;

    if (!first && grace_ms >= runner->stop_grace_ms)
        return;
    runner->stop_requested = true;
    runner->stop_grace_ms = grace_ms;
    follow_stop(runner, grace_ms);
    if (!first || runner->has_final)
        return;
    runner->row.state = STATE_STOPPING;
    runner_save(runner, SAVE_FOLLOW, true, true, NULL);
}

/* Answered with `stopping` once that is published, or with what is there when nothing lives. */
void stop_op(struct runner *runner, struct op *op)
{
    if (!op->under_way && (runner->phase == PHASE_LIVE || runner->row.state == STATE_RESTARTING)) {
        op->under_way = true;
        restart_cancel(runner);
        if (runner->phase == PHASE_LIVE)
            follow_request_stop(runner, op->grace_ms);
        runner_dispatch(runner, op);
        return;
    }
    op_answer_present(runner->engine, op);
}
