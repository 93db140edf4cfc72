/* What a host says, as the guest's agent takes it: frames off the port to the programs that it runs
 * beside the command, whose pipes are here. Pieces: a length and so many bytes of the host; in
 * between, programs print, read and end. What goes back to the host is well-formed, of programs
 * that it asked for, and never more output than it has taken; nor is more input taken than was
 * granted. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/command.h"
#include "guest/exec.h"
#include "tests/fuzz/take.h"

enum { NO_PID = 0x7f000000, PROGRAMS_MAX = 2 * EXECS_MAX };

static struct {
    int ends[3]; /* the program's */
    pid_t pid;
} programs[PROGRAMS_MAX];
static size_t n_programs;

/* --- In the place of fork and of the image ---------------------------------------------------- */

static void make_pipe(int *ret_ours, int *ret_theirs, bool we_read)
{
    int ends[2];

    MUST(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    *ret_ours = ends[we_read ? 0 : 1];
    *ret_theirs = ends[we_read ? 1 : 0];
}

enum command_result command_start(const struct command_plan *plan, struct command *ret,
                                  struct error *err)
{
    size_t length = 0;

    for (size_t i = 0; plan->args[i]; i++)
        length += strlen(plan->args[i]);
    *ret = (struct command){.ends = {-1, -1, -1}, .exit_code = 127};
    if (length == 0 || n_programs == PROGRAMS_MAX) {
        error_set(err, NULL, "there is no such program");
        return COMMAND_REFUSED;
    }
    int *ends = programs[n_programs].ends;
    ends[0] = ends[1] = ends[2] = -1;
    if (plan->flags & EXEC_STDIN)
        make_pipe(&ret->ends[0], &ends[0], false);
    make_pipe(&ret->ends[1], &ends[1], true);
    if (!(plan->flags & EXEC_TERMINAL))
        make_pipe(&ret->ends[2], &ends[2], true);
    ret->pid = programs[n_programs].pid = (pid_t)(NO_PID + n_programs);
    n_programs++;
    return COMMAND_RUNS;
}

char **secrets_environment(const struct secrets *secrets, const struct start_message *start,
                           char *const *more, uint32_t n_more)
{
    char **env = calloc((size_t)n_more + 1, sizeof *env);

    (void)secrets, (void)start;
    MUST(env);
    for (uint32_t i = 0; i < n_more; i++)
        MUST((env[i] = more[i]) && strlen(more[i]) < START_PAYLOAD_MAX);
    return env;
}

/* --- The host --------------------------------------------------------------------------------- */

static struct known {
    uint32_t id;
    uint64_t window; /* what the host still takes of its output */
    uint64_t input;  /* what the host may still send */
    bool gone;       /* its end was told */
} known[PROGRAMS_MAX];
static size_t n_known;

static struct known *known_of(uint32_t id)
{
    for (size_t i = 0; i < n_known; i++)
        if (known[i].id == id)
            return &known[i];
    return NULL;
}

static void note_exec(uint32_t id)
{
    struct known *one = known_of(id);

    if (!one && n_known < PROGRAMS_MAX)
        one = &known[n_known++];
    if (one)
        *one = (struct known){.id = id};
}

static void hear(int host)
{
    static uint8_t bytes[512 * 1024];
    struct frame frame;
    ssize_t got;
    size_t at = 0, length = 0;
    int64_t size;

    while ((got = read(host, bytes + length, sizeof bytes - length)) > 0)
        length += (size_t)got;
    while ((size = frame_parse(bytes + at, length - at, GUEST_PAYLOAD_MAX, &frame)) > 0) {
        MUST(frame.type == FRAME_EXEC_OUTPUT || frame.type == FRAME_EXEC_WINDOW ||
             frame.type == FRAME_EXEC_EXIT);
        MUST(frame.length >= 6);
        struct known *one = known_of(get_u32(frame.payload));
        if (one && frame.type == FRAME_EXEC_OUTPUT) {
            MUST(frame.length - 5 <= one->window);
            one->window -= frame.length - 5;
        } else if (one && frame.type == FRAME_EXEC_WINDOW) {
            one->input += get_u32(frame.payload + 4);
        } else if (one) {
            one->gone = true;
        }
        at += (size_t)size;
    }
    MUST(size == 0 && at == length);
}

/* A program prints, reads, or ends. */
static void live(struct execs *execs, struct input *input)
{
    size_t number = take_byte(input);
    char bytes[4096];

    for (size_t i = 0; i < n_programs; i++) {
        const int *ends = programs[i].ends;
        if (ends[0] >= 0)
            MUST(read(ends[0], bytes, sizeof bytes) >= -1);
        if (i != number % n_programs)
            continue;
        memset(bytes, 'o', sizeof bytes);
        for (int k = 1; k < 3; k++)
            if (ends[k] >= 0)
                MUST(write(ends[k], bytes, number * 7) >= -1);
        if (number & 0x80)
            execs_reaped(execs, programs[i].pid, number & 0x40 ? 9 : 0x0700);
    }
}

static void turn(struct execs *execs, int host)
{
    struct pollfd fds[EXEC_POLL_MAX];
    size_t count = execs_poll(execs, agent_idle(execs->agent), fds);

    MUST(count <= EXEC_POLL_MAX);
    /* The fuzzer has a timer of its own. */
    while (poll(fds, count, 0) < 0)
        MUST(errno == EINTR);
    execs_polled(execs, fds);
    execs_pump(execs);
    (void)execs_wait_ms(execs);
    agent_write(execs->agent);
    hear(host);
}

/* Takes what has come; false once the host broke the protocol. */
static bool obey(struct execs *execs)
{
    enum agent_result result;
    struct frame frame;

    while ((result = agent_read(execs->agent, &frame)) == AGENT_FRAME) {
        if (!execs_frame_is_theirs(frame.type))
            return false;
        if (execs_take(execs, &frame) < 0)
            return false;
        uint32_t id = frame.length >= 4 ? get_u32(frame.payload) : 0;
        struct known *one = known_of(id);
        if (frame.type == FRAME_EXEC)
            note_exec(id);
        else if (frame.type == FRAME_EXEC_WINDOW && one && frame.length == 8)
            one->window += get_u32(frame.payload + 4);
        else if (frame.type == FRAME_EXEC_INPUT && one && !one->gone) {
            MUST(frame.length - 4 <= one->input);
            one->input -= frame.length - 4;
        }
    }
    return result == AGENT_NOTHING;
}

/* Every program ends, and the host takes all that is left of them. */
static void finish(struct execs *execs, int host)
{
    for (size_t i = 0; i < n_programs; i++) {
        execs_reaped(execs, programs[i].pid, 0);
        for (int k = 0; k < 3; k++)
            if (programs[i].ends[k] >= 0)
                (void)close(programs[i].ends[k]);
    }
    for (int rounds = 0; execs->count > 0; rounds++) {
        for (size_t i = 0; i < n_known; i++) {
            uint8_t payload[8];
            const struct frame more = {FRAME_EXEC_WINDOW, payload, sizeof payload};
            put_u32(payload, known[i].id);
            put_u32(payload + 4, 65536);
            if (execs_take(execs, &more) == 0)
                known[i].window += 65536; /* else it has as much */
        }
        turn(execs, host);
        MUST(rounds < 10000);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const struct start_message start = {.workdir = "/", .user = ""};
    static struct agent agent;
    struct input input = {bytes, bytes + length};
    int ends[2];

    /* The agent is the guest's first process, which a broken pipe does not end; here a slow run
     * closes the output of a program that was reaped while it goes on printing. */
    (void)signal(SIGPIPE, SIG_IGN);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    agent = (struct agent){.fd = ends[0], .in_max = START_PAYLOAD_MAX};
    struct execs execs = {.agent = &agent, .start = &start};
    n_programs = n_known = 0;
    for (bool good = true; good && input.at < input.end;) {
        size_t piece = take_u16(&input), left = (size_t)(input.end - input.at);
        piece = piece < left ? piece : left;
        MUST(piece == 0 || write(ends[1], input.at, piece) == (ssize_t)piece);
        input.at += piece;
        good = obey(&execs);
        if (good && n_programs > 0)
            live(&execs, &input);
        turn(&execs, ends[1]);
    }
    finish(&execs, ends[1]);
    text_free(&agent.in);
    (void)close(ends[0]);
    (void)close(ends[1]);
    return 0;
}
