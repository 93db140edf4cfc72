/* Each exec is a process like the command, with windows: output is read only as far as the host's
 * window goes, and input is taken into a buffer as large as the window that we give. So each stream
 * waits for itself alone.
 *
 * One that could not be started is kept as ended, until EXEC_EXIT has found room like any other's.
 */
#include "guest/exec.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "guest/command.h"
#include "guest/output.h"

enum {
    INPUT_SIZE = 64 * 1024,
    GRANT_MIN = INPUT_SIZE / 4, /* a window is given again in no smaller pieces */
    TIMED_OUT = 124,            /* as timeout(1) has it */
    END_OF_INPUT = 4,           /* VEOF of a new terminal */
    WORDS_SIZE = 256,
};

struct input {
    int fd;    /* -1: there is none, or it is closed */
    bool open; /* the host has not ended it */
    bool ready;
    uint8_t *bytes; /* INPUT_SIZE and an END_OF_INPUT; `at` to `end` are still to be written */
    size_t at, end;
    uint32_t window; /* how much the host may still send */
    uint32_t owed;   /* how much of the window is to be given again */
};

struct exec {
    uint32_t id, flags;
    pid_t pid; /* 0: it has ended, or never ran */
    struct output output;
    uint32_t window;
    struct input input;
    int64_t until_ms; /* 0: no limit */
    bool timed_out;
    uint32_t code, signal_number;
    char words[WORDS_SIZE];
};

static struct exec *find(const struct execs *execs, uint32_t id)
{
    for (size_t i = 0; i < execs->count; i++)
        if (execs->items[i]->id == id)
            return execs->items[i];
    return NULL;
}

static void close_input(struct exec *exec)
{
    if (exec->input.fd >= 0)
        (void)close(exec->input.fd);
    exec->input.fd = -1;
    exec->input.at = exec->input.end = 0;
}

static void exec_free(struct exec *exec)
{
    close_input(exec);
    output_close(&exec->output);
    free(exec->input.bytes);
    free(exec);
}

/* ── starting ── */

static void set_refused(struct exec *exec, uint32_t code, const char *words)
{
    exec->code = code;
    exec->output.ended = true;
    (void)snprintf(exec->words, sizeof exec->words, "%.*s", WORDS_SIZE - 1, words);
}

static void start_program(struct execs *execs, struct exec *exec,
                          const struct exec_message *message)
{
    CLEANUP_FREE char **env =
        secrets_environment(execs->secrets, execs->start, message->env, message->n_env);
    struct error err = ERROR_INIT;
    struct command command;
    const struct command_plan plan = {
        .args = message->args,
        .env = env,
        .workdir = message->workdir[0] ? message->workdir : execs->start->workdir,
        .user = execs->start->user,
        .flags = message->flags,
        .rows = message->rows,
        .columns = message->columns,
    };

    if (!env) {
        set_refused(exec, 126, "the guest's memory is short");
    } else if (command_start(&plan, &command, &err) != COMMAND_RUNS) {
        set_refused(exec, command.exit_code ? command.exit_code : 126, err.text);
    } else {
        exec->pid = command.pid;
        exec->input.fd = command.ends[0];
        memcpy(exec->output.fds, command.ends + 1, sizeof exec->output.fds);
    }
}

static int begin(struct execs *execs, const struct frame *frame)
{
    struct exec_message message;

    if (execs->count == EXECS_MAX ||
        exec_message_parse(frame->payload, frame->length, &message) < 0)
        return -1;
    struct exec *exec = find(execs, message.id) ? NULL : calloc(1, sizeof *exec);
    bool input = message.flags & EXEC_STDIN;
    if (!exec || (input && !(exec->input.bytes = malloc(INPUT_SIZE + 1)))) {
        free(exec);
        exec_message_free(&message);
        return -1;
    }
    exec->id = message.id;
    exec->flags = message.flags;
    exec->output.fds[0] = exec->output.fds[1] = exec->input.fd = -1;
    if (message.timeout_ms)
        exec->until_ms = clock_monotonic_ms() + message.timeout_ms;
    start_program(execs, exec, &message);
    exec->input.open = input;
    exec->input.owed = input && exec->input.fd >= 0 ? INPUT_SIZE : 0;
    execs->items[execs->count++] = exec;
    exec_message_free(&message);
    return 0;
}

/* ── what the host says of one ── */

static int on_input(struct exec *exec, const uint8_t *bytes, size_t length)
{
    struct input *input = &exec->input;

    if (!input->open || length > input->window)
        return -1;
    input->window -= (uint32_t)length;
    input->ready = true;
    if (length == 0)
        input->open = false;
    if (input->fd < 0) {
        input->owed += (uint32_t)length; /* thrown away: nobody reads it */
        return 0;
    }
    memmove(input->bytes, input->bytes + input->at, input->end - input->at);
    input->end -= input->at;
    input->at = 0;
    memcpy(input->bytes + input->end, bytes, length);
    input->end += length;
    if (length == 0 && (exec->flags & EXEC_TERMINAL))
        input->bytes[input->end++] = END_OF_INPUT;
    return 0;
}

static int on_signal(struct exec *exec, const uint8_t *payload, size_t length)
{
    uint32_t number = length == 4 ? get_u32(payload) : 0;

    if (number == 0 || number > (uint32_t)SIGRTMAX)
        return -1;
    if (exec->pid)
        (void)kill(-exec->pid, (int)number);
    return 0;
}

static int on_resize(struct exec *exec, const uint8_t *payload, size_t length)
{
    if (length != 4)
        return -1;
    const struct winsize size = {.ws_row = get_u16(payload), .ws_col = get_u16(payload + 2)};
    if ((exec->flags & EXEC_TERMINAL) && exec->output.fds[0] >= 0)
        (void)ioctl(exec->output.fds[0], TIOCSWINSZ, &size);
    return 0;
}

static int on_window(struct exec *exec, const uint8_t *payload, size_t length)
{
    uint32_t more = length == 4 ? get_u32(payload) : 0;

    if (more == 0 || more > EXEC_WINDOW_MAX - exec->window)
        return -1;
    exec->window += more;
    return 0;
}

static const struct {
    enum frame_type type;
    int (*take)(struct exec *exec, const uint8_t *payload, size_t length);
} frames[] = {
    {FRAME_EXEC_INPUT, on_input},
    {FRAME_EXEC_SIGNAL, on_signal},
    {FRAME_EXEC_RESIZE, on_resize},
    {FRAME_EXEC_WINDOW, on_window},
};

bool execs_frame_is_theirs(enum frame_type type)
{
    for (size_t i = 0; i < COUNT_OF(frames); i++)
        if (frames[i].type == type)
            return true;
    return type == FRAME_EXEC;
}

int execs_take(struct execs *execs, const struct frame *frame)
{
    if (frame->type == FRAME_EXEC)
        return begin(execs, frame);
    if (frame->length < 4)
        return -1;
    struct exec *exec = find(execs, get_u32(frame->payload));
    for (size_t i = 0; exec && i < COUNT_OF(frames); i++)
        if (frames[i].type == frame->type)
            return frames[i].take(exec, frame->payload + 4, frame->length - 4);
    return 0;
}

/* ── waiting ── */

size_t execs_poll(struct execs *execs, bool idle, struct pollfd *fds)
{
    for (size_t i = 0; i < execs->count; i++) {
        const struct exec *exec = execs->items[i];
        bool writes = exec->input.at < exec->input.end;
        fds[3 * i] = (struct pollfd){.fd = writes ? exec->input.fd : -1, .events = POLLOUT};
        output_poll(&exec->output, idle && exec->window > 0, fds + 3 * i + 1);
    }
    return 3 * execs->count;
}

void execs_polled(struct execs *execs, const struct pollfd *fds)
{
    for (size_t i = 0; i < execs->count; i++) {
        struct exec *exec = execs->items[i];
        exec->input.ready = exec->input.ready || (fds[3 * i].fd >= 0 && fds[3 * i].revents);
        output_polled(&exec->output, fds + 3 * i + 1);
    }
}

int execs_wait_ms(const struct execs *execs)
{
    int64_t now = clock_monotonic_ms();
    int wait = -1;

    for (size_t i = 0; i < execs->count; i++) {
        const struct exec *exec = execs->items[i];
        int64_t left = exec->until_ms - now;
        if (exec->pid && exec->until_ms)
            wait = wait_sooner(wait, left < 0 ? 0 : left < INT32_MAX ? (int)left : INT32_MAX);
        wait = wait_sooner(wait, output_wait_ms(&exec->output));
    }
    return wait;
}

/* ── moving ── */

static void write_input(struct exec *exec)
{
    struct input *input = &exec->input;

    input->ready = false;
    while (input->fd >= 0 && input->at < input->end) {
        ssize_t put = write(input->fd, input->bytes + input->at, input->end - input->at);
        if (put == 0 || (put < 0 && (errno == EAGAIN || errno == EINTR)))
            return;
        if (put < 0) {
            input->owed += (uint32_t)(input->end - input->at);
            close_input(exec);
            return;
        }
        input->at += (size_t)put;
        input->owed += (uint32_t)put;
    }
    if (!input->open && input->fd >= 0 && !(exec->flags & EXEC_TERMINAL))
        close_input(exec);
}

static void grant(struct execs *execs, struct exec *exec)
{
    struct input *input = &exec->input;
    uint8_t payload[8];

    if (!input->open || input->owed == 0 || (input->owed < GRANT_MIN && input->at < input->end))
        return;
    put_u32(payload, exec->id);
    put_u32(payload + 4, input->owed);
    if (agent_put(execs->agent, FRAME_EXEC_WINDOW, payload, sizeof payload) < 0)
        return;
    agent_write(execs->agent); /* a frame of output needs an idle channel */
    input->window += input->owed;
    input->owed = 0;
}

static void pump(struct execs *execs, struct exec *exec)
{
    uint8_t label[4];
    const struct output_way way = {execs->agent, FRAME_EXEC_OUTPUT, label, sizeof label,
                                   &exec->window};

    put_u32(label, exec->id);
    if (exec->pid && exec->until_ms && clock_monotonic_ms() >= exec->until_ms) {
        exec->timed_out = true;
        exec->until_ms = 0;
        (void)kill(-exec->pid, SIGKILL);
    }
    if (exec->input.ready)
        write_input(exec);
    grant(execs, exec);
    output_pump(&exec->output, &way);
}

/* Whether its end is told. */
static bool tell_end(struct execs *execs, const struct exec *exec)
{
    uint8_t payload[13 + WORDS_SIZE];
    size_t length = strlen(exec->words);

    if (exec->pid || !output_drained(&exec->output))
        return false;
    put_u32(payload, exec->id);
    put_u32(payload + 4, exec->code);
    put_u32(payload + 8, exec->signal_number);
    payload[12] = exec->timed_out;
    memcpy(payload + 13, exec->words, length);
    return agent_put(execs->agent, FRAME_EXEC_EXIT, payload, 13 + length) == 0;
}

void execs_pump(struct execs *execs)
{
    size_t count = execs->count;

    if (count == 0)
        return;
    execs->turn = (unsigned)((execs->turn + 1) % count);
    for (size_t i = 0; i < count; i++)
        pump(execs, execs->items[(execs->turn + i) % count]);
    for (size_t i = execs->count; i-- > 0;)
        if (tell_end(execs, execs->items[i])) {
            exec_free(execs->items[i]);
            execs->items[i] = execs->items[--execs->count];
        }
    agent_write(execs->agent);
}

void execs_reaped(struct execs *execs, pid_t pid, int status)
{
    for (size_t i = 0; i < execs->count; i++) {
        struct exec *exec = execs->items[i];
        if (exec->pid != pid)
            continue;
        exec->pid = 0;
        exec->signal_number = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0;
        if (exec->signal_number != SIGKILL)
            exec->timed_out = false; /* it was at its own end already */
        exec->code = exec->timed_out       ? TIMED_OUT
                     : WIFSIGNALED(status) ? 128 + exec->signal_number
                                           : (uint32_t)WEXITSTATUS(status);
        close_input(exec);
        output_note_end(&exec->output);
        return;
    }
}
