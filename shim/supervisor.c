/* How a bottle comes up and goes down:
 *
 *   sidecars ──┐ (each listens on its host port)
 *              ├─ START is sent when all three are there ─ STARTED ─ running ─ EXIT ─ VM gone ─
 * ending cell ─ VM ─┘ (listeners passed out, net.sock) (HELLO)
 *
 * Everything is event-driven; `tick` looks a few times a second for the two things that give no
 * event (a sidecar's listener, gvproxy's socket). Any child that ends before its time ends the
 * bottle. `ending` kills what is left and is over when no child is left at all; only then is the
 * exit record written. */
#include "shim/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "shim/protocol.h"
#include "shim/supervisor_internal.h"

enum {
    POWEROFF_TIMEOUT_MS = 8000, /* from the command's end to the VM's */
    DISK_TIMEOUT_MS = 40000,    /* the same where what was written has to get to a disk */
    EVENT_SPACE_MS = 1000,
    ENDING_TIMEOUT_MS = 5000,
};

static const char *const phase_names[] = {"starting", "running", "stopping", "stopping"};

static void begin_ending(struct supervisor *sup);

/* ── what others see ── */

static json_t *process_entry(const struct child *child)
{
    return json_pack("{s:s, s:i, s:I}", "name", child->name, "pid", (int)child->pid, "start_time",
                     (json_int_t)child->start_time);
}

/* Once a guest has come up. */
static void boot_encode(const struct supervisor *sup, json_t *status)
{
    const struct restore *restore = &sup->restore;
    const char *why = restore->failed ? restore->reason : sup->launch->cold_reason;

    json_object_set_new(status, "template_failed", json_boolean(restore->failed));
    if (!sup->hello)
        return;
    json_object_set_new(status, "boot", json_string(restore->done ? "template" : "cold"));
    if (!restore->done && why)
        json_object_set_new(status, "boot_reason", json_string_lossy(why));
}

static json_t *status_encode(void *context)
{
    struct supervisor *sup = context;
    json_t *processes = json_array();
    const char *state = sup->phase == PHASE_OVER ? sup->outcome
                        : sup->phase == PHASE_RUNNING && sup->pause.paused
                            ? "paused"
                            : phase_names[sup->phase];

    const struct child *const fixed[] = {&sup->gvproxy, &sup->vm};
    for (size_t i = 0; i < COUNT_OF(fixed); i++)
        if (fixed[i]->pid)
            json_array_append_new(processes, process_entry(fixed[i]));
    for (size_t i = 0; i < sup->launch->n_mounts; i++)
        if (sup->servers[i].pid)
            json_array_append_new(processes, process_entry(&sup->servers[i]));
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        if (sup->sidecars[i].pid)
            json_array_append_new(processes, process_entry(&sup->sidecars[i]));
    /* The reason may be the guest's words, and those may be any bytes. */
    json_t *status =
        json_pack("{s:s, s:o?, s:n, s:I, s:I, s:i, s:I, s:i, s:o}", "state", state, "reason",
                  sup->reason[0] ? json_string_lossy(sup->reason) : NULL, "exit_code", "started_ms",
                  (json_int_t)sup->started_ms, "finished_ms", (json_int_t)sup->finished_ms, "pid",
                  (int)getpid(), "start_time", (json_int_t)process_start_time(getpid()), "boots",
                  (int)sup->boots, "processes", processes);
    if (sup->running_ms)
        json_object_set_new(status, "ran_ms", json_integer(clock_monotonic_ms() - sup->running_ms));
    if (status && sup->ended)
        json_object_set_new(status, "exit_code", json_integer(sup->exit_code));
    boot_encode(sup, status);
    return status;
}

static void set_phase(struct supervisor *sup, enum phase phase)
{
    if (phase <= sup->phase)
        return;
    sup->phase = phase;
    control_broadcast(sup->control);
}

bool supervisor_serves(const struct supervisor *sup)
{
    return sup->phase == PHASE_RUNNING && !sup->ended && !sup->pause.paused;
}

/* ── the end ── */

/* `reason` NULL: what the guest said stands. */
static void settle(struct supervisor *sup, const char *outcome, const char *reason)
{
    if (!sup->outcome) {
        sup->outcome = outcome;
        if (reason)
            (void)snprintf(sup->reason, sizeof sup->reason, "%s", reason);
    }
    begin_ending(sup);
}

void supervisor_fail(struct supervisor *sup, const char *format, ...)
{
    char reason[sizeof sup->reason];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    if (sup->stop_requested)
        settle(sup, "stopped", sup->stop_words);
    else if (sup->ended)
        settle(sup, "exited", NULL);
    else
        settle(sup, "failed", reason);
}

static void finish(struct supervisor *sup)
{
    struct error err = ERROR_INIT;

    sup->finished_ms = clock_wall_ms();
    sup->phase = PHASE_OVER;
    egress_tell_flush(sup->tell);
    CLEANUP_JSON json_t *status = status_encode(sup);
    CLEANUP_FREE char *text = json_text(status);
    if (!text || file_write(SHIM_EXIT_RECORD, text, strlen(text), 0600, true, &err) < 0)
        (void)fprintf(stderr, "bottle-shim: exit record: %s\n", err.text);
    control_broadcast(sup->control);
    loop_quit(sup->loop);
}

static void on_ending_late(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    children_kill_all();
    loop_timer_set(sup->loop, &sup->deadline, clock_monotonic_ms() + ENDING_TIMEOUT_MS);
}

static void begin_ending(struct supervisor *sup)
{
    if (sup->phase >= PHASE_ENDING)
        return;
    set_phase(sup, PHASE_ENDING);
    loop_timer_cancel(sup->loop, &sup->tick);
    loop_timer_cancel(sup->loop, &sup->server_lost);
    loop_timer_cancel(sup->loop, &sup->report_deadline);
    egress_change_end(sup);
    execs_lost(sup, "the bottle ended first");
    secrets_end(sup, "the bottle ended first");
    pause_close(sup, "the bottle ended first");
    sup->deadline.callback = on_ending_late;
    loop_timer_set(sup->loop, &sup->deadline, clock_monotonic_ms() + ENDING_TIMEOUT_MS);
    agent_close(&sup->agent);
    restore_end(sup);
    health_free(sup->health);
    sup->health = NULL;
    bringup_close_relays(sup);
    child_kill(&sup->vm);
    child_kill(&sup->gvproxy);
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        child_kill(&sup->sidecars[i]);
    for (size_t i = 0; i < sup->launch->n_mounts; i++)
        child_kill(&sup->servers[i]);
    (void)kill(getpid(), SIGCHLD); /* there may be no child at all: look once, from the loop */
}

/* ── the guest speaks ── */

static void on_poweroff_late(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    (void)snprintf(sup->stop_words, sizeof sup->stop_words,
                   "the guest did not power off in time, and its machine was killed; what was not "
                   "on its disk by then is lost");
    supervisor_fail(sup, "the VM did not power off in time");
}

/* The guest gives what the command left behind the rest of a stop's grace. */
static void expect_poweroff(struct supervisor *sup)
{
    int64_t from = clock_monotonic_ms();

    if (sup->ended && sup->stop_until_ms > from)
        from = sup->stop_until_ms;
    sup->deadline.callback = on_poweroff_late;
    loop_timer_set(sup->loop, &sup->deadline,
                   from +
                       (sup->launch->resources.disk_mib ? DISK_TIMEOUT_MS : POWEROFF_TIMEOUT_MS));
}

static void on_started(struct supervisor *sup)
{
    if (!sup->start_sent || sup->ended || sup->phase != PHASE_STARTING)
        return;
    loop_timer_cancel(sup->loop, &sup->deadline);
    sup->started_ms = clock_wall_ms();
    sup->running_ms = clock_monotonic_ms();
    set_phase(sup, PHASE_RUNNING);
}

static void on_exit_frame(struct supervisor *sup, const struct frame *frame)
{
    if (frame->length < 8 || sup->ended || !sup->start_sent) {
        supervisor_fail(sup, "the guest's agent broke the protocol");
        return;
    }
    uint32_t code = get_u32(frame->payload), signal_number = get_u32(frame->payload + 4);
    sup->ended = true;
    sup->exit_code = (int)(code & 0xff);
    if (frame->length > 8)
        (void)snprintf(sup->reason, sizeof sup->reason, "%.*s",
                       (int)(frame->length - 8 < 400 ? frame->length - 8 : 400),
                       (const char *)frame->payload + 8);
    else if (signal_number)
        (void)snprintf(sup->reason, sizeof sup->reason, "the command was killed by signal %u",
                       signal_number);
    execs_lost(sup, "the bottle's command ended first");
    (void)agent_send_empty(&sup->agent, FRAME_POWEROFF); /* the guest waits for this answer */
    expect_poweroff(sup);
}

/* A guest that says more than one of a kind a second is not heard. */
static void on_event(struct supervisor *sup, const struct frame *frame)
{
    static const char *const kinds[] = {
        [EVENT_OUT_OF_MEMORY] = "out-of-memory", [EVENT_DISK_FULL] = "disk-full"};
    char words[256];
    int64_t now = clock_monotonic_ms();
    unsigned kind = frame->length ? frame->payload[0] : 0;

    if (kind == 0 || kind >= COUNT_OF(kinds)) {
        supervisor_fail(sup, "the guest's agent broke the protocol");
        return;
    }
    if (sup->event_ms[kind] && now < sup->event_ms[kind] + EVENT_SPACE_MS)
        return;
    sup->event_ms[kind] = now;
    (void)snprintf(words, sizeof words, "%.*s",
                   (int)(frame->length - 1 < sizeof words ? frame->length - 1 : sizeof words - 1),
                   (const char *)frame->payload + 1);
    control_send(sup->control,
                 json_pack("{s:s, s:o}", "guest", kinds[kind], "words", json_string_lossy(words)));
}

void supervisor_on_frame(void *context, const struct frame *frame)
{
    struct supervisor *sup = context;

    switch (frame->type) {
    case FRAME_HELLO:
        if (frame->length < 4 || get_u32(frame->payload) != PROTOCOL_VERSION || sup->hello) {
            supervisor_fail(sup,
                            "the guest's agent speaks another protocol version; rebuild the guest");
            return;
        }
        sup->hello = true;
        restore_succeeded(sup);
        bringup_send_start(sup);
        return;
    case FRAME_STARTED:
        on_started(sup);
        return;
    case FRAME_OUTPUT:
        if (frame->length > 1)
            sink_write(&sup->command, (const char *)frame->payload + 1, frame->length - 1);
        return;
    case FRAME_EXIT:
        on_exit_frame(sup, frame);
        return;
    case FRAME_CHECK:
    case FRAME_REPORT_END:
        if (report_frame(sup, frame) < 0)
            supervisor_fail(sup, "the guest's agent broke the protocol");
        return;
    case FRAME_EVENT:
        on_event(sup, frame);
        return;
    case FRAME_SECRETS_SET:
        if (secrets_frame(sup, frame) < 0)
            supervisor_fail(sup, "the guest's agent broke the protocol");
        return;
    case FRAME_EXEC_OUTPUT:
    case FRAME_EXEC_WINDOW:
    case FRAME_EXEC_EXIT:
        if (exec_frame(sup, frame) < 0)
            supervisor_fail(sup, "the guest's agent broke the protocol");
        return;
    case FRAME_FAILED:
        supervisor_fail(sup, "the guest: %.*s", (int)(frame->length < 400 ? frame->length : 400),
                        (const char *)frame->payload);
        return;
    default:
        supervisor_fail(sup, "the guest's agent broke the protocol");
    }
}

void supervisor_on_agent_end(void *context, const char *why)
{
    struct supervisor *sup = context;

    execs_lost(sup, "the guest's agent is gone");
    /* The VM's own end follows at once, and says more; a channel broken by the guest must be acted
     * on. */
    if (strstr(why, "protocol"))
        supervisor_fail(sup, "%s", why);
}

/* ── children end ── */

static void on_vm_end(struct supervisor *sup, int status)
{
    char words[96];

    agent_close(&sup->agent);
    pause_close(sup, "its machine ended");
    if (sup->restore.under_way) {
        sink_drain(&sup->vm.error);
        restore_fail(sup, sup->vm.error.last[0] ? sup->vm.error.last : "the VM ended");
    }
    if (sup->restarting_vm) {
        /* gvproxy answers its first peer for ever: a new VM needs a new one. */
        child_kill(&sup->gvproxy);
        for (size_t i = 0; i < sup->launch->n_mounts; i++)
            child_kill(&sup->servers[i]);
        return;
    }
    if (sup->ended && !sup->stop_requested) {
        settle(sup, "exited", NULL);
        return;
    }
    wait_status_words(status, words, sizeof words);
    sink_drain(&sup->vm.out);
    sink_drain(&sup->vm.error);
    supervisor_fail(sup,
                    "the VM ended before its command did (%s); it said last: \"%s\"; see "
                    "logs?stream=console and stream=vmm",
                    words, sup->vm.error.last[0] ? sup->vm.error.last : sup->vm.out.last);
}

static void on_child_end(struct supervisor *sup, struct child *child, int status)
{
    char words[96];

    child->pid = 0;
    if (sup->phase >= PHASE_ENDING)
        return;
    if (child == &sup->vm) {
        on_vm_end(sup, status);
    } else if (child == &sup->gvproxy && sup->restarting_vm) {
        bringup_again(sup);
    } else if (child >= sup->servers && child < sup->servers + MOUNTS_MAX) {
        bringup_server_ended(sup, child, status);
    } else {
        wait_status_words(status, words, sizeof words);
        sink_drain(&child->out);
        supervisor_fail(sup, "%s ended unexpectedly (%s); it said last: \"%s\"; see logs?stream=%s",
                        child->name, words, child->out.last, child->name);
    }
}

static struct child *find_child(struct supervisor *sup, pid_t pid)
{
    if (sup->vm.pid == pid)
        return &sup->vm;
    if (sup->gvproxy.pid == pid)
        return &sup->gvproxy;
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        if (sup->sidecars[i].pid == pid)
            return &sup->sidecars[i];
    for (size_t i = 0; i < sup->launch->n_mounts; i++)
        if (sup->servers[i].pid == pid)
            return &sup->servers[i];
    return NULL;
}

static void reap(struct supervisor *sup)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct child *child = find_child(sup, pid);
        if (pid == sup->change.check.pid)
            egress_change_checked(sup, status);
        else if (child)
            on_child_end(sup, child, status);
    }
    if (pid < 0 && errno == ECHILD && sup->phase == PHASE_ENDING)
        finish(sup);
}

/* ── being told ── */

static void on_grace_over(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    (void)snprintf(sup->stop_words, sizeof sup->stop_words,
                   "the command did not end within the grace of the stop, and was killed");
    if (agent_send_empty(&sup->agent, FRAME_POWEROFF) < 0)
        supervisor_fail(sup, "stopped");
    else
        expect_poweroff(sup);
}

/* Of several requests the one that is over first holds. */
static void hasten(struct supervisor *sup, int64_t until_ms)
{
    if (sup->ended || until_ms >= sup->stop_until_ms || sup->deadline.callback != on_grace_over)
        return;
    sup->stop_until_ms = until_ms;
    loop_timer_set(sup->loop, &sup->deadline, until_ms);
}

static void on_stop(void *context, int64_t grace_ms)
{
    struct supervisor *sup = context;
    int64_t until_ms = clock_monotonic_ms() + grace_ms;

    if (sup->phase >= PHASE_ENDING)
        return;
    bool was_running = sup->phase == PHASE_RUNNING;
    sup->stop_requested = true;
    if (grace_ms <= 0 || (!was_running && sup->phase != PHASE_STOPPING)) {
        supervisor_fail(sup, "stopped");
        return;
    }
    if (!was_running) {
        hasten(sup, until_ms);
        return;
    }
    pause_lift(sup, "the bottle is being stopped");
    set_phase(sup, PHASE_STOPPING);
    if (sup->ended)
        return;
    sup->stop_until_ms = until_ms;
    (void)agent_send_u32(&sup->agent, FRAME_STOP,
                         grace_ms < UINT32_MAX ? (uint32_t)grace_ms : UINT32_MAX);
    sup->deadline.callback = on_grace_over;
    loop_timer_set(sup->loop, &sup->deadline, until_ms);
}

static void on_pause(void *context, int64_t id, bool pause)
{
    pause_request(context, id, pause);
}

static void on_report(void *context, int64_t id)
{
    report_request(context, id);
}

static void on_egress(void *context, uint64_t client, int64_t id, int fd)
{
    egress_change_request(context, client, id, fd);
}

static void on_secrets(void *context, int64_t id, uint32_t signal, int fd)
{
    secrets_request(context, id, signal, fd);
}

static void on_exec(void *context, const char *id, int fd)
{
    exec_request(context, id, fd);
}

static void on_exec_tell(void *context, const char *id, const struct exec_note *note)
{
    exec_tell(context, id, note);
}

static json_t *on_exec_result(void *context, const char *id)
{
    return exec_result_encode(context, id);
}

static void on_agent_room(void *context)
{
    execs_go_on(context);
}

static void on_signal(struct loop_source *source, uint32_t events)
{
    struct supervisor *sup = source->data;
    struct signalfd_siginfo info;

    (void)events;
    while (read(source->fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGTERM)
            on_stop(sup, 10000);
    }
    reap(sup);
}

/* ── setting up ── */

static int watch_signals(struct supervisor *sup, struct error *err)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGCHLD);
    (void)sigaddset(&set, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
    sup->signals = (struct loop_source){.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
                                        .events = EPOLLIN,
                                        .callback = on_signal,
                                        .data = sup};
    if (sup->signals.fd < 0)
        return error_errno(err, NULL, "signalfd");
    return loop_add(sup->loop, &sup->signals, err);
}

int supervisor_run(struct launch *launch, int log_dir, int ready_fd, struct error *err)
{
    struct supervisor *sup = calloc(1, sizeof *sup);
    const struct control_owner owner = {status_encode, on_stop,    on_pause, on_report,
                                        on_egress,     on_secrets, on_exec,  on_exec_result,
                                        on_exec_tell,  sup};
    int result = -1;

    if (!sup || !(sup->loop = loop_new(err))) {
        free(sup);
        return error_set(err, NULL, "out of memory");
    }
    sup->launch = launch;
    egress_change_init(sup);
    sup->agent.source.fd = -1;
    sup->agent.on_frame = supervisor_on_frame;
    sup->agent.on_end = supervisor_on_agent_end;
    sup->agent.on_room = on_agent_room;
    sup->agent.context = sup;
    if (watch_signals(sup, err) < 0 || logs_open(sup, log_dir, err) < 0 ||
        !(sup->control = control_new(sup->loop, launch, &owner, err)) ||
        !(sup->tell = egress_tell_new(sup->loop, sup->control, err)))
        goto out;
    (void)write_all(ready_fd, "ok\n", 3);
    (void)close(ready_fd);
    bringup_begin(sup);
    result = loop_run(sup->loop, err);
    logs_close(sup);
    egress_change_free(sup);
    execs_free(sup);
out:
    egress_tell_free(sup->tell);
    control_free(sup->control);
    loop_free(sup->loop);
    free(sup);
    return result;
}
