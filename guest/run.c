/* One loop over three things: the port, the command's two pipes and SIGCHLD.
 *
 * The command's end is known from its wait status, never from the pipes: a process that it left
 * behind may hold them. Then what the pipes hold is owed to the host, however slow it takes it;
 * what comes later is passed on until both are at their end, for a second at most. */
#include "guest/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "guest/command.h"
#include "guest/report.h"

enum {
    DRAIN_MS = 1000,
};

struct pipe_end {
    int fd;      /* -1 at its end */
    size_t owed; /* bytes that were in it when the command ended */
};

struct run {
    struct agent *agent;
    struct error *err;
    char gateway[16]; /* a copy: START's bytes go with the next frame */
    struct report report;
    int signals; /* signalfd for SIGCHLD */
    pid_t pid;
    bool ended;
    int status; /* once it ended */
    int64_t drain_until;
    struct pipe_end pipes[2]; /* stdout, stderr */
    int turn;                 /* the pipe that is read first: each gets its turn */
};

static void put_exit(struct agent *agent, uint32_t code, uint32_t signal_number, const char *words)
{
    uint8_t payload[AGENT_SMALL_MAX];
    size_t length = strnlen(words, sizeof payload - 8);

    put_u32(payload, code);
    put_u32(payload + 4, signal_number);
    memcpy(payload + 8, words, length);
    (void)agent_put(agent, FRAME_EXIT, payload, 8 + length);
}

static void put_status(struct agent *agent, int status)
{
    if (WIFSIGNALED(status))
        put_exit(agent, 128 + (uint32_t)WTERMSIG(status), (uint32_t)WTERMSIG(status), "");
    else
        put_exit(agent, (uint32_t)WEXITSTATUS(status), 0, "");
}

static void note_end(struct run *run, int status)
{
    run->ended = true;
    run->status = status;
    run->drain_until = clock_monotonic_ms() + DRAIN_MS;
    for (size_t i = 0; i < COUNT_OF(run->pipes); i++) {
        int waiting = 0;
        if (run->pipes[i].fd >= 0 && ioctl(run->pipes[i].fd, FIONREAD, &waiting) == 0)
            run->pipes[i].owed = (size_t)waiting;
    }
}

/* Every process that lost its parent is ours to reap; one of them is the command. */
static void reap(struct run *run)
{
    struct signalfd_siginfo info;
    int status;

    while (read(run->signals, &info, sizeof info) > 0)
        ;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == run->pid)
            note_end(run, status);
        else
            report_reaped(&run->report, pid);
}

/* A process that the command left behind may print for ever: after the drain time only what is owed
 * is read. */
static bool may_read(const struct run *run, const struct pipe_end *pipe_end)
{
    return pipe_end->fd >= 0 &&
           (!run->ended || pipe_end->owed || clock_monotonic_ms() < run->drain_until);
}

static void pump_pipe(struct run *run, int index)
{
    struct pipe_end *pipe_end = &run->pipes[index];
    uint8_t *room = may_read(run, pipe_end) ? agent_output_room(run->agent) : NULL;

    if (!room)
        return;
    ssize_t got = read(pipe_end->fd, room, AGENT_OUTPUT_MAX);
    if (got > 0) {
        agent_output(run->agent, index + 1, (size_t)got);
        agent_write(run->agent);
        pipe_end->owed -= (size_t)got < pipe_end->owed ? (size_t)got : pipe_end->owed;
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        (void)close(pipe_end->fd);
        *pipe_end = (struct pipe_end){.fd = -1};
    }
}

/* Nothing more of the command's output is to be passed on. */
static bool drained(const struct run *run)
{
    const struct pipe_end *pipes = run->pipes;

    if (!run->ended || !agent_idle(run->agent) || pipes[0].owed || pipes[1].owed)
        return false;
    return (pipes[0].fd < 0 && pipes[1].fd < 0) || clock_monotonic_ms() >= run->drain_until;
}

static bool malformed(struct run *run, enum run_end *ret, const char *words)
{
    (void)error_set(run->err, NULL, "the host sent %s", words);
    *ret = RUN_MALFORMED;
    return true;
}

/* Acts on what the host sent; true when that ends the run. */
static bool obey(struct run *run, enum run_end *ret)
{
    struct frame frame;

    for (;;) {
        switch (agent_read(run->agent, &frame)) {
        case AGENT_NOTHING:
            return false;
        case AGENT_CLOSED:
            *ret = RUN_CLOSED;
            return true;
        case AGENT_MALFORMED:
            return malformed(run, ret, "a malformed frame");
        case AGENT_FRAME:
            break;
        }
        if (frame.type == FRAME_POWEROFF && frame.length == 0) {
            *ret = RUN_POWEROFF;
            return true;
        }
        if (frame.type == FRAME_REPORT) {
            if (report_begin(&run->report, &frame, run->gateway) < 0)
                return malformed(run, ret, "a malformed REPORT");
            continue;
        }
        if (frame.type != FRAME_SIGNAL || frame.length != 4)
            return malformed(run, ret, "a frame that does not belong here");
        uint32_t number = get_u32(frame.payload);
        if (number == 0 || number > (uint32_t)SIGRTMAX)
            return malformed(run, ret, "a signal that does not exist");
        if (!run->ended)
            (void)kill(-run->pid, (int)number);
    }
}

static int wait_ms(const struct run *run)
{
    int64_t now = clock_monotonic_ms();

    if (!run->ended && run->report.fd < 0)
        return -1;
    if (!run->ended)
        return now < run->report.until_ms ? (int)(run->report.until_ms - now) : 100;
    int64_t left = run->drain_until - now;
    return left > 0 ? (int)left : agent_idle(run->agent) ? 0 : -1;
}

static enum run_end loop(struct run *run)
{
    enum run_end end = RUN_EXITED;

    while (!drained(run)) {
        bool idle = agent_idle(run->agent);
        struct pollfd fds[5] = {
            {.fd = run->agent->fd, .events = (short)(POLLIN | (idle ? 0 : POLLOUT))},
            {.fd = run->signals, .events = POLLIN},
            {.fd = idle ? run->pipes[0].fd : -1, .events = POLLIN},
            {.fd = idle ? run->pipes[1].fd : -1, .events = POLLIN},
            {.fd = idle ? run->report.fd : -1, .events = POLLIN},
        };
        if (poll(fds, COUNT_OF(fds), wait_ms(run)) < 0 && errno != EINTR) {
            (void)error_errno(run->err, NULL, "waiting for events");
            return RUN_MALFORMED;
        }
        agent_write(run->agent);
        if (fds[0].revents && obey(run, &end))
            return end;
        if (fds[1].revents)
            reap(run);
        report_pump(&run->report, run->agent);
        /* Whichever has nothing does not take the other's turn. */
        run->turn = !run->turn;
        pump_pipe(run, run->turn);
        pump_pipe(run, !run->turn);
        if (run->agent->closed)
            return RUN_CLOSED;
    }
    put_status(run->agent, run->status);
    return RUN_EXITED;
}

static int watch_children(struct error *err)
{
    sigset_t child;
    int fd;

    (void)sigemptyset(&child);
    (void)sigaddset(&child, SIGCHLD);
    fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? error_errno(err, NULL, "watching for the end of processes") : fd;
}

enum run_end run_command(struct agent *agent, const struct start_message *start, struct error *err)
{
    struct run run = {.agent = agent, .err = err, .report.fd = -1};
    struct command command;

    (void)snprintf(run.gateway, sizeof run.gateway, "%s", start->gateway);
    if ((run.signals = watch_children(err)) < 0)
        return RUN_MALFORMED;
    switch (command_start(start, &command, err)) {
    case COMMAND_FAULT:
        (void)close(run.signals);
        return RUN_MALFORMED;
    case COMMAND_REFUSED:
        (void)close(run.signals);
        put_exit(agent, command.exit_code, 0, err->text);
        return RUN_EXITED;
    case COMMAND_RUNS:
        break;
    }
    run.pid = command.pid;
    for (size_t i = 0; i < COUNT_OF(run.pipes); i++)
        run.pipes[i].fd = command.pipes[i];
    (void)agent_put(agent, FRAME_STARTED, NULL, 0);
    enum run_end end = loop(&run);
    report_end(&run.report);
    for (size_t i = 0; i < COUNT_OF(run.pipes); i++)
        if (run.pipes[i].fd >= 0)
            (void)close(run.pipes[i].fd);
    (void)close(run.signals);
    return end;
}
