/* How a bottle comes up and goes down:
 *
 *   sidecars ──┐ (each listens on its host port)
 *              ├─ START is sent when all three are there ─ STARTED ─ running ─ EXIT ─ VM gone ─ ending
 *   cell ─ VM ─┘ (listeners passed out, net.sock) (HELLO)
 *
 * Everything is event-driven; `tick` looks a few times a second for the two things that give no event (a sidecar's
 * listener, gvproxy's socket). Any child that ends before its time ends the bottle. `ending` kills what is left and is over when
 * no child is left at all; only then is the exit record written. */
#include "shim/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "shim/agent.h"
#include "shim/children.h"
#include "shim/control.h"
#include "shim/filter.h"
#include "shim/jail.h"
#include "shim/protocol.h"
#include "shim/relay.h"

enum {
    TICK_MS = 10,
    BOOTS_MAX = 2,           /* under TCG a boot can hang before its first output */
    POWEROFF_TIMEOUT_MS = 8000, /* from the command's end to the VM's */
    ENDING_TIMEOUT_MS = 5000,
    RELAY_CONNECTIONS_MAX = 512,
    JAIL_FILTER_FD = 10,
    JAIL_LISTENER_FD = 11,
};

enum phase { PHASE_STARTING, PHASE_RUNNING, PHASE_STOPPING, PHASE_ENDING, PHASE_OVER };
static const char *const phase_names[] = {"starting", "running", "stopping", "stopping"};

struct supervisor {
    struct launch *launch;
    struct loop *loop;
    struct control *control;
    struct loop_source signals, listeners;
    struct loop_timer tick, deadline;
    struct child gvproxy, vm, sidecars[SIDECARS_MAX];
    struct sink command;
    struct agent agent;
    struct relay *relays[FORWARDS_MAX];
    enum phase phase;
    bool cell_ready, hello, sidecars_ready, start_sent, stop_requested, restarting_vm;
    bool ended; /* the guest said how its command ended */
    int exit_code;
    unsigned boots;
    const char *outcome; /* final state, once known */
    char reason[512];
    int64_t started_ms, finished_ms; /* wall clock */
    int64_t sidecars_until_ms;       /* monotonic */
};

static void begin_ending(struct supervisor *sup);
static int start_cell(struct supervisor *sup, struct error *err);

/* ── what others see ── */

static json_t *process_entry(const struct child *child)
{
    return json_pack("{s:s, s:i, s:I}", "name", child->name, "pid", (int)child->pid, "start_time",
                     (json_int_t)child->start_time);
}

static json_t *status_encode(void *context)
{
    struct supervisor *sup = context;
    json_t *processes = json_array();
    const char *state = sup->phase == PHASE_OVER ? sup->outcome : phase_names[sup->phase];

    const struct child *const fixed[] = {&sup->gvproxy, &sup->vm};
    for (size_t i = 0; i < COUNT_OF(fixed); i++)
        if (fixed[i]->pid)
            json_array_append_new(processes, process_entry(fixed[i]));
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        if (sup->sidecars[i].pid)
            json_array_append_new(processes, process_entry(&sup->sidecars[i]));
    json_t *status = json_pack(
        "{s:s, s:s?, s:n, s:I, s:I, s:i, s:I, s:i, s:o}", "state", state, "reason",
        sup->reason[0] ? sup->reason : NULL, "exit_code", "started_ms", (json_int_t)sup->started_ms,
        "finished_ms", (json_int_t)sup->finished_ms, "pid", (int)getpid(), "start_time",
        (json_int_t)process_start_time(getpid()), "boots", (int)sup->boots, "processes", processes);
    if (status && sup->ended)
        json_object_set_new(status, "exit_code", json_integer(sup->exit_code));
    return status;
}

static void set_phase(struct supervisor *sup, enum phase phase)
{
    if (phase <= sup->phase)
        return;
    sup->phase = phase;
    control_broadcast(sup->control);
}

/* ── the end ── */

static void settle(struct supervisor *sup, const char *outcome, const char *reason)
{
    if (!sup->outcome) {
        sup->outcome = outcome;
        (void)snprintf(sup->reason, sizeof sup->reason, "%s", reason);
    }
    begin_ending(sup);
}

static void fail(struct supervisor *sup, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void fail(struct supervisor *sup, const char *format, ...)
{
    char reason[sizeof sup->reason];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    if (sup->stop_requested)
        settle(sup, "stopped", "");
    else if (sup->ended)
        settle(sup, "exited", sup->reason);
    else
        settle(sup, "failed", reason);
}

static void finish(struct supervisor *sup)
{
    struct error err = ERROR_INIT;

    sup->finished_ms = clock_wall_ms();
    sup->phase = PHASE_OVER;
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
    sup->deadline.callback = on_ending_late;
    loop_timer_set(sup->loop, &sup->deadline, clock_monotonic_ms() + ENDING_TIMEOUT_MS);
    agent_close(&sup->agent);
    for (size_t i = 0; i < FORWARDS_MAX; i++) {
        relay_free(sup->relays[i]);
        sup->relays[i] = NULL;
    }
    child_kill(&sup->vm);
    child_kill(&sup->gvproxy);
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        child_kill(&sup->sidecars[i]);
    (void)kill(getpid(), SIGCHLD); /* there may be no child at all: look once, from the loop */
}

/* ── coming up ── */

static void on_boot_late(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    if (sup->boots < BOOTS_MAX && sup->cell_ready && !sup->hello) {
        sup->restarting_vm = true; /* goes on in on_vm_end */
        child_kill(&sup->vm);
        loop_timer_set(sup->loop, &sup->deadline,
                       clock_monotonic_ms() + sup->launch->boot_timeout_ms);
        return;
    }
    if (!sup->cell_ready)
        fail(sup, "gvproxy did not open its socket in time; see logs?stream=gvproxy");
    else
        fail(sup, "the guest did not come up within %lld ms (%u boots); see logs?stream=console",
             (long long)sup->launch->boot_timeout_ms, sup->boots);
}

static int start_vm(struct supervisor *sup, struct error *err)
{
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_CLOSE int guest_end = -1;

    jail_vm(&argv, sup->launch);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    if (agent_open(&sup->agent, sup->loop, &guest_end, err) < 0)
        return -1;
    sup->boots++;
    sup->hello = false;
    const struct spawn_fd fds[] = {{guest_end, sup->launch->agent_fd}};
    return child_start(&sup->vm, argv.items, fds, COUNT_OF(fds), err);
}

static void send_start_when_ready(struct supervisor *sup)
{
    if (!sup->hello || !sup->sidecars_ready || sup->start_sent || sup->phase != PHASE_STARTING)
        return;
    sup->start_sent = true;
    if (agent_send(&sup->agent, sup->launch->start, sup->launch->start_length) < 0)
        fail(sup, "the agent's channel was closed before the command was sent");
}

static void look_for_sidecars(struct supervisor *sup)
{
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        if (!port_is_ours(sup->launch->sidecars[i].host_port))
            return;
    sup->sidecars_ready = true;
    send_start_when_ready(sup);
}

static void look_for_cell(struct supervisor *sup)
{
    struct error err = ERROR_INIT;
    struct stat status;

    if (sup->listeners.active || stat("net/net.sock", &status) < 0 || !S_ISSOCK(status.st_mode))
        return;
    sup->cell_ready = true;
    if (start_vm(sup, &err) < 0)
        fail(sup, "starting the VM: %s", err.text);
}

static void on_tick(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    if (sup->phase != PHASE_STARTING)
        return;
    if (!sup->sidecars_ready)
        look_for_sidecars(sup);
    if (!sup->sidecars_ready && clock_monotonic_ms() > sup->sidecars_until_ms) {
        fail(sup, "a sidecar did not listen on its port within %lld ms; see its log",
             (long long)sup->launch->sidecar_timeout_ms);
        return;
    }
    if (!sup->cell_ready)
        look_for_cell(sup);
    if (sup->phase == PHASE_STARTING && (!sup->sidecars_ready || !sup->cell_ready))
        loop_timer_set(sup->loop, timer, clock_monotonic_ms() + TICK_MS);
}

/* The listeners that bottle-cell opened, in the order of the forwards. */
static void on_listeners(struct loop_source *source, uint32_t events)
{
    struct supervisor *sup = source->data;
    char control[CMSG_SPACE(FORWARDS_MAX * sizeof(int))], byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    int fds[FORWARDS_MAX];
    size_t count = 0;

    (void)events;
    ssize_t got = recvmsg(source->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    loop_remove(sup->loop, source);
    (void)close(source->fd);
    struct cmsghdr *header = got == 1 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_type == SCM_RIGHTS) {
        count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(header), count * sizeof(int));
    }
    struct error err = {.text = "bottle-cell passed none; see logs?stream=gvproxy"};
    bool good = got == 1 && count == sup->launch->n_forwards;
    for (size_t i = 0; i < count; i++) {
        if (!good)
            (void)close(fds[i]);
        else if (!(sup->relays[i] = relay_new(sup->loop, fds[i], &sup->launch->forwards[i],
                                              RELAY_CONNECTIONS_MAX, &err)))
            good = false;
    }
    if (!good)
        fail(sup, "the cell's listeners: %s", err.text);
}

static int start_cell(struct supervisor *sup, struct error *err)
{
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_CLOSE int filter = filter_open(err);
    int pair[2];

    if (filter < 0)
        return -1;
    /* gvproxy can't remove its sockets (the filter takes that from it) and refuses to start over old ones. */
    static const char *const stale[] = {"net/net.sock", "net/vm.sock", "net/api.sock"};
    for (size_t i = 0; i < COUNT_OF(stale); i++)
        (void)unlink(stale[i]);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_errno(err, "launch-failed", "socketpair");
    CLEANUP_CLOSE int cell_end = pair[1];
    sup->listeners = (struct loop_source){
        .fd = pair[0], .events = EPOLLIN, .callback = on_listeners, .data = sup};
    if (loop_add(sup->loop, &sup->listeners, err) < 0)
        return -1;
    jail_cell(&argv, sup->launch, JAIL_FILTER_FD, JAIL_LISTENER_FD);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    const struct spawn_fd fds[] = {{filter, JAIL_FILTER_FD}, {cell_end, JAIL_LISTENER_FD}};
    return child_start(&sup->gvproxy, argv.items, fds, COUNT_OF(fds), err);
}

static int start_sidecars(struct supervisor *sup, struct error *err)
{
    for (size_t i = 0; i < sup->launch->n_sidecars; i++) {
        CLEANUP_ARGV struct argv argv = ARGV_INIT;
        jail_sidecar(&argv, sup->launch, &sup->launch->sidecars[i].program);
        if (argv.failed)
            return error_set(err, NULL, "out of memory");
        if (child_start(&sup->sidecars[i], argv.items, NULL, 0, err) < 0)
            return -1;
    }
    return 0;
}

/* ── the guest speaks ── */

static void on_poweroff_late(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    fail(sup, "the VM did not power off in time");
}

static void expect_poweroff(struct supervisor *sup)
{
    sup->deadline.callback = on_poweroff_late;
    loop_timer_set(sup->loop, &sup->deadline, clock_monotonic_ms() + POWEROFF_TIMEOUT_MS);
}

static void on_started(struct supervisor *sup)
{
    if (!sup->start_sent || sup->phase != PHASE_STARTING)
        return;
    loop_timer_cancel(sup->loop, &sup->deadline);
    sup->started_ms = clock_wall_ms();
    set_phase(sup, PHASE_RUNNING);
}

static void on_exit_frame(struct supervisor *sup, const struct frame *frame)
{
    if (frame->length < 8 || sup->ended || !sup->start_sent) {
        fail(sup, "the guest's agent broke the protocol");
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
    expect_poweroff(sup);
}

static void on_frame(void *context, const struct frame *frame)
{
    struct supervisor *sup = context;

    switch (frame->type) {
    case FRAME_HELLO:
        if (frame->length < 4 || get_u32(frame->payload) != PROTOCOL_VERSION || sup->hello) {
            fail(sup, "the guest's agent speaks another protocol version; rebuild the guest");
            return;
        }
        sup->hello = true;
        send_start_when_ready(sup);
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
    case FRAME_FAILED:
        fail(sup, "the guest: %.*s", (int)(frame->length < 400 ? frame->length : 400),
             (const char *)frame->payload);
        return;
    default:
        fail(sup, "the guest's agent broke the protocol");
    }
}

static void on_agent_end(void *context, const char *why)
{
    struct supervisor *sup = context;

    /* The VM's own end follows at once, and says more; a channel broken by the guest must be acted on. */
    if (strstr(why, "protocol"))
        fail(sup, "%s", why);
}

/* ── children end ── */

static void on_vm_end(struct supervisor *sup, int status)
{
    char words[96];

    agent_close(&sup->agent);
    if (sup->restarting_vm) {
        /* gvproxy answers its first peer for ever: a new VM needs a new one. */
        child_kill(&sup->gvproxy);
        return;
    }
    if (sup->ended && !sup->stop_requested) {
        settle(sup, "exited", sup->reason);
        return;
    }
    wait_status_words(status, words, sizeof words);
    fail(sup, "the VM ended before its command did (%s); see logs?stream=console and stream=vmm",
         words);
}

static void restart_cell(struct supervisor *sup)
{
    struct error err = ERROR_INIT;

    sup->restarting_vm = sup->cell_ready = false;
    for (size_t i = 0; i < FORWARDS_MAX; i++) {
        relay_free(sup->relays[i]);
        sup->relays[i] = NULL;
    }
    if (start_cell(sup, &err) < 0)
        fail(sup, "starting gvproxy again: %s", err.text);
    else
        loop_timer_set(sup->loop, &sup->tick, clock_monotonic_ms() + TICK_MS);
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
        restart_cell(sup);
    } else {
        wait_status_words(status, words, sizeof words);
        fail(sup, "%s ended unexpectedly (%s); see logs?stream=%s", child->name, words,
             child->name);
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
    return NULL;
}

static void reap(struct supervisor *sup)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct child *child = find_child(sup, pid);
        if (child)
            on_child_end(sup, child, status);
    }
    if (pid < 0 && errno == ECHILD && sup->phase == PHASE_ENDING)
        finish(sup);
}

/* ── being told ── */

static void on_grace_over(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    if (agent_send_empty(&sup->agent, FRAME_POWEROFF) < 0)
        fail(sup, "stopped");
    else
        expect_poweroff(sup);
}

static void on_stop(void *context, int64_t grace_ms)
{
    struct supervisor *sup = context;

    if (sup->phase >= PHASE_ENDING)
        return;
    bool was_running = sup->phase == PHASE_RUNNING;
    sup->stop_requested = true;
    if (grace_ms <= 0 || (!was_running && sup->phase != PHASE_STOPPING)) {
        fail(sup, "stopped");
        return;
    }
    if (!was_running) /* the first request's grace stands */
        return;
    set_phase(sup, PHASE_STOPPING);
    if (sup->ended)
        return;
    (void)agent_send_u32(&sup->agent, FRAME_SIGNAL, SIGTERM);
    sup->deadline.callback = on_grace_over;
    loop_timer_set(sup->loop, &sup->deadline, clock_monotonic_ms() + grace_ms);
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
    sup->signals = (struct loop_source){.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
                                        .events = EPOLLIN,
                                        .callback = on_signal,
                                        .data = sup};
    if (sup->signals.fd < 0)
        return error_errno(err, NULL, "signalfd");
    return loop_add(sup->loop, &sup->signals, err);
}

static int open_logs(struct supervisor *sup, int log_dir, struct error *err)
{
    off_t bound = (off_t)sup->launch->log_bytes;

    sup->gvproxy.name = "gvproxy";
    sup->vm.name = sup->launch->vm.name;
    sup->vm.split = true;
    if (sink_open(&sup->gvproxy.out, sup->loop, log_dir, "gvproxy", bound, err) < 0 ||
        sink_open(&sup->vm.out, sup->loop, log_dir, "console", bound, err) < 0 ||
        sink_open(&sup->vm.error, sup->loop, log_dir, "vmm", bound, err) < 0 ||
        sink_open(&sup->command, sup->loop, log_dir, "command", bound, err) < 0)
        return -1;
    for (size_t i = 0; i < sup->launch->n_sidecars; i++) {
        sup->sidecars[i].name = sup->launch->sidecars[i].program.name;
        if (sink_open(&sup->sidecars[i].out, sup->loop, log_dir, sup->sidecars[i].name, bound,
                      err) < 0)
            return -1;
    }
    return 0;
}

static void close_logs(struct supervisor *sup)
{
    sink_close(&sup->gvproxy.out);
    sink_close(&sup->vm.out);
    sink_close(&sup->vm.error);
    sink_close(&sup->command);
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        sink_close(&sup->sidecars[i].out);
}

int supervisor_run(struct launch *launch, int log_dir, int ready_fd, struct error *err)
{
    struct supervisor *sup = calloc(1, sizeof *sup);
    const struct control_owner owner = {status_encode, on_stop, sup};
    int result = -1;

    if (!sup || !(sup->loop = loop_new(err))) {
        free(sup);
        return error_set(err, NULL, "out of memory");
    }
    sup->launch = launch;
    sup->tick = (struct loop_timer){.callback = on_tick, .data = sup};
    sup->deadline = (struct loop_timer){.callback = on_boot_late, .data = sup};
    sup->agent.source.fd = -1;
    sup->agent.on_frame = on_frame;
    sup->agent.on_end = on_agent_end;
    sup->agent.context = sup;
    sup->sidecars_ready = launch->n_sidecars == 0;
    sup->sidecars_until_ms = clock_monotonic_ms() + launch->sidecar_timeout_ms;
    if (watch_signals(sup, err) < 0 || open_logs(sup, log_dir, err) < 0 ||
        !(sup->control = control_new(sup->loop, launch, &owner, err)))
        goto out;
    (void)write_all(ready_fd, "ok\n", 3);
    (void)close(ready_fd);
    struct error fault = ERROR_INIT;
    if (start_sidecars(sup, &fault) < 0 || start_cell(sup, &fault) < 0)
        fail(sup, "%s", fault.text);
    else
        loop_timer_set(sup->loop, &sup->tick, clock_monotonic_ms() + TICK_MS);
    if (sup->phase == PHASE_STARTING)
        loop_timer_set(sup->loop, &sup->deadline,
                       clock_monotonic_ms() + launch->boot_timeout_ms);
    result = loop_run(sup->loop, err);
    close_logs(sup);
out:
    control_free(sup->control);
    loop_free(sup->loop);
    free(sup);
    return result;
}
