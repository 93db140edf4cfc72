/* One loop over the port, the command's two pipes, SIGCHLD, the checks of a report, and what the
 * host has run beside the command. */
#include "guest/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "guest/command.h"
#include "guest/exec.h"
#include "guest/fresh.h"
#include "guest/output.h"
#include "guest/report.h"
#include "guest/watch.h"

/* What is owed to the host for a SECRETS. */
struct answer {
    bool owed;
    uint32_t id;
    char words[256];
};

struct run {
    struct agent *agent;
    struct error *err;
    const char *gateway;
    struct report report;
    struct execs execs;
    struct secrets *secrets;
    struct answer answer;
    struct watch watch;
    struct leave leave;
    struct output output;
    int signals; /* signalfd for SIGCHLD */
    pid_t pid;
    int status; /* once it ended */
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

static void put_status(struct run *run)
{
    char words[REASON_WORDS] = "";
    int status = run->status;
    uint32_t number = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0;
    uint32_t code = number ? 128 + number : (uint32_t)WEXITSTATUS(status);

    if (code)
        (void)watch_reason(&run->watch, run->pid, number == SIGKILL, words);
    watch_pump(&run->watch, run->agent);
    put_exit(run->agent, code, number, words);
}

/* Every process that lost its parent is ours to reap; one of them is the command. */
static void reap(struct run *run)
{
    struct signalfd_siginfo info;
    int status;

    while (read(run->signals, &info, sizeof info) > 0)
        ;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == run->pid) {
            run->status = status;
            output_note_end(&run->output);
        } else {
            report_reaped(&run->report, pid);
            execs_reaped(&run->execs, pid, status);
        }
}

/* Takes secrets anew, and tells the command. -1 when malformed. */
static int take_secrets(struct run *run, const struct frame *frame)
{
    struct secrets_message message;
    struct error err = ERROR_INIT;

    if (run->answer.owed || secrets_message_parse(frame->payload, frame->length, &message) < 0)
        return -1;
    if (message.id == 0 || message.signal > (uint32_t)SIGRTMAX) {
        secrets_message_free(&message);
        return -1;
    }
    if (secrets_take(run->secrets, &message, &err) == 0 && message.signal && !run->output.ended)
        (void)kill(-run->pid, (int)message.signal);
    run->answer = (struct answer){.owed = true, .id = message.id};
    (void)snprintf(run->answer.words, sizeof run->answer.words, "%.*s",
                   (int)sizeof run->answer.words - 1, err.text);
    secrets_message_free(&message);
    return 0;
}

static void pump_answer(struct run *run)
{
    uint8_t payload[4 + sizeof run->answer.words];
    size_t length = strlen(run->answer.words);

    if (!run->answer.owed)
        return;
    put_u32(payload, run->answer.id);
    memcpy(payload + 4, run->answer.words, length);
    if (agent_put(run->agent, FRAME_SECRETS_SET, payload, 4 + length) == 0)
        run->answer.owed = false;
    agent_write(run->agent);
}

static bool malformed(struct run *run, enum run_end *ret, const char *words)
{
    (void)error_set(run->err, NULL, "the host sent %s", words);
    *ret = RUN_MALFORMED;
    return true;
}

static void stop(struct run *run, uint32_t grace_ms)
{
    run->leave = (struct leave){clock_monotonic_ms() + grace_ms, run->pid};
    if (run->output.ended)
        return;
    (void)kill(-run->pid, SIGTERM);
    (void)kill(-run->pid, SIGCONT); /* a stopped process can not take its leave */
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
        if (frame.type == FRAME_SECRETS) {
            if (take_secrets(run, &frame) < 0)
                return malformed(run, ret, "SECRETS that are malformed or come too soon");
            continue;
        }
        if (execs_frame_is_theirs(frame.type)) {
            if (execs_take(&run->execs, &frame) < 0)
                return malformed(run, ret, "an EXEC that is malformed or one too many");
            continue;
        }
        if (frame.type == FRAME_STOP && frame.length == 4) {
            stop(run, get_u32(frame.payload));
            continue;
        }
        if (frame.type == FRAME_TIME && frame.length == 8) {
            (void)fresh_time(get_u64(frame.payload), NULL); /* a wrong time is no end */
            continue;
        }
        if (frame.type != FRAME_SIGNAL || frame.length != 4)
            return malformed(run, ret, "a frame that does not belong here");
        uint32_t number = get_u32(frame.payload);
        if (number == 0 || number > (uint32_t)SIGRTMAX)
            return malformed(run, ret, "a signal that does not exist");
        if (!run->output.ended)
            (void)kill(-run->pid, (int)number);
    }
}

static int wait_ms(const struct run *run)
{
    int64_t now = clock_monotonic_ms();
    int wait = wait_sooner(execs_wait_ms(&run->execs), output_wait_ms(&run->output));

    wait = wait_sooner(wait, watch_wait_ms(&run->watch));

    if (run->report.fd >= 0)
        wait =
            wait_sooner(wait, now < run->report.until_ms ? (int)(run->report.until_ms - now) : 100);
    return wait;
}

enum {
    PORT,
    SIGNALS,
    REPORT,
    KERNEL,
    COMMAND,
    EXECS = COMMAND + 2,
    POLL_MAX = EXECS + EXEC_POLL_MAX
};

static enum run_end loop(struct run *run)
{
    const struct output_way way = {.agent = run->agent, .type = FRAME_OUTPUT};
    struct pollfd fds[POLL_MAX];
    enum run_end end = RUN_EXITED;
    bool execs_first = false;

    while (!output_drained(&run->output) || !agent_idle(run->agent)) {
        bool idle = agent_idle(run->agent);
        fds[PORT] =
            (struct pollfd){.fd = run->agent->fd, .events = (short)(POLLIN | (idle ? 0 : POLLOUT))};
        fds[SIGNALS] = (struct pollfd){.fd = run->signals, .events = POLLIN};
        fds[REPORT] = (struct pollfd){.fd = idle ? run->report.fd : -1, .events = POLLIN};
        fds[KERNEL] = (struct pollfd){.fd = run->watch.kernel, .events = POLLIN};
        output_poll(&run->output, idle, fds + COMMAND);
        size_t count = EXECS + execs_poll(&run->execs, idle, fds + EXECS);
        if (poll(fds, count, wait_ms(run)) < 0) {
            if (errno == EINTR)
                continue;
            (void)error_errno(run->err, NULL, "waiting for events");
            return RUN_MALFORMED;
        }
        output_polled(&run->output, fds + COMMAND);
        execs_polled(&run->execs, fds + EXECS);
        agent_write(run->agent);
        if (fds[PORT].revents && obey(run, &end))
            return end;
        if (fds[SIGNALS].revents)
            reap(run);
        watch_pump(&run->watch, run->agent);
        pump_answer(run);
        report_pump(&run->report, run->agent);
        /* Whoever is first may fill the channel: each gets its turn. */
        if ((execs_first = !execs_first))
            execs_pump(&run->execs);
        output_pump(&run->output, &way);
        if (!execs_first)
            execs_pump(&run->execs);
        if (run->agent->closed)
            return RUN_CLOSED;
    }
    put_status(run);
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

enum run_end run_command(struct agent *agent, const struct start_message *start,
                         struct secrets *secrets, struct leave *ret_leave, struct error *err)
{
    CLEANUP_FREE char **env = secrets_environment(secrets, start, NULL, 0);
    struct run run = {.agent = agent,
                      .err = err,
                      .gateway = start->gateway,
                      .report.fd = -1,
                      .secrets = secrets,
                      .execs = {.agent = agent, .secrets = secrets, .start = start}};
    const struct command_plan plan = {
        .args = start->args, .env = env, .workdir = start->workdir, .user = start->user};
    struct command command;

    if (!env) {
        (void)error_set(err, NULL, "the guest's memory is short");
        return RUN_MALFORMED;
    }
    if ((run.signals = watch_children(err)) < 0)
        return RUN_MALFORMED;
    watch_open(&run.watch);
    switch (command_start(&plan, &command, err)) {
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
    memcpy(run.output.fds, command.ends + 1, sizeof run.output.fds);
    (void)agent_put(agent, FRAME_STARTED, NULL, 0);
    enum run_end end = loop(&run);
    if (end == RUN_EXITED)
        *ret_leave = run.leave;
    watch_close(&run.watch);
    report_end(&run.report);
    /* The pipes stay open: what is still there is asked to end, and must not end of a broken one.
     */
    (void)close(run.signals);
    return end;
}
