#include "shim/exec.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "shim/supervisor_internal.h"

enum {
    READ_SIZE = 16 * 1024,
    INPUT_WINDOW_MAX = 128 * 1024, /* what we believe of a guest */
    EXIT_FIXED_SIZE = 13,
    EXIT_CODE_MAX = 255,
    /* The guest gets bottled's window in pieces: a byte may come in a frame of its own, which takes
     * fourteen here. */
    WINDOW_PIECE = 16 * 1024,
    /* What waits for the guest, before we read no more from bottled. */
    GUEST_QUEUE_MAX = 256 * 1024,
};

struct exec {
    struct supervisor *sup;
    char id[EXEC_ID_LENGTH + 1];
    uint32_t number;           /* to the guest; 0: it knows nothing of it yet */
    uint32_t early_signal;     /* told before the guest knew; 0: none */
    struct loop_source source; /* bottled's; fd -1: it is gone */
    struct text in, out;       /* from and to bottled */
    uint32_t window;           /* how much the guest may still send */
    uint32_t allowed;          /* how much bottled takes beyond that */
    uint32_t input_window;     /* how much bottled may still send */
    uint32_t input_owed;       /* how much of that is still to be told */
    bool input_open;           /* bottled has not ended the input */
    bool deaf;                 /* bottled takes no more, though what it said may still wait here */
    bool paused;               /* bottled is not read, as the guest does not read */
    bool copies;               /* files: no program */
    bool ended;                /* EXEC_EXIT is in `out`, or was told to nobody */
    struct exec *next;
};

static void exec_free(struct exec *exec)
{
    struct execs *execs = &exec->sup->execs;
    struct exec **at = &execs->first;

    while (*at != exec)
        at = &(*at)->next;
    *at = exec->next;
    execs->count--;
    if (exec->source.fd >= 0) {
        loop_remove(exec->sup->loop, &exec->source);
        (void)close(exec->source.fd);
    }
    text_free(&exec->in);
    text_free(&exec->out);
    free(exec);
}

/* ── to the guest ── */

static void send_guest(struct exec *exec, enum frame_type type, const void *rest, size_t length)
{
    uint8_t head[FRAME_HEADER_SIZE + 4];
    CLEANUP_TEXT struct text frame = TEXT_INIT;

    frame_header(head, type, (uint32_t)(4 + length));
    put_u32(head + FRAME_HEADER_SIZE, exec->number);
    text_add_bytes(&frame, head, sizeof head);
    text_add_bytes(&frame, rest, length);
    if (!frame.failed)
        (void)agent_send(&exec->sup->agent, (const uint8_t *)frame.data, frame.length);
}

/* Gives the guest its next piece of the window, once bottled has taken most of the last. */
static void feed(struct exec *exec)
{
    uint8_t bytes[4];

    if (exec->deaf)
        exec->allowed = EXEC_WINDOW_MAX; /* it is all thrown away */
    if (exec->number == 0 || exec->ended || exec->window > WINDOW_PIECE / 2 ||
        exec->out.length > WINDOW_PIECE)
        return;
    uint32_t room = WINDOW_PIECE - exec->window, more = exec->allowed < room ? exec->allowed : room;
    if (more == 0)
        return;
    exec->allowed -= more;
    exec->window += more;
    put_u32(bytes, more);
    send_guest(exec, FRAME_EXEC_WINDOW, bytes, sizeof bytes);
}

static void signal_guest(struct exec *exec, uint32_t number)
{
    uint8_t bytes[4];

    put_u32(bytes, number);
    send_guest(exec, FRAME_EXEC_SIGNAL, bytes, sizeof bytes);
}

static void watch(struct exec *exec)
{
    (void)loop_modify(exec->sup->loop, &exec->source,
                      (exec->paused ? 0 : (uint32_t)EPOLLIN) |
                          (exec->out.length ? (uint32_t)EPOLLOUT : 0));
}

/* Nobody hears it from now on. */
static void deafen(struct exec *exec)
{
    exec->deaf = true;
    text_free(&exec->out);
    feed(exec);
}

/* Bottled is gone: the program goes on, a copy of files does not. */
static void orphan(struct exec *exec)
{
    loop_remove(exec->sup->loop, &exec->source);
    (void)close(exec->source.fd);
    exec->source.fd = -1;
    text_free(&exec->in);
    if (exec->copies && !exec->ended)
        signal_guest(exec, SIGTERM);
    deafen(exec);
    if (exec->ended || exec->number == 0)
        exec_free(exec);
}

/* ── from bottled ── */

/* What the guest would take for the end of all trust in us is stopped here. */
static int take_exec(struct exec *exec, const struct frame *frame)
{
    struct exec_message message;

    if (frame->type != FRAME_EXEC ||
        exec_message_parse(frame->payload, frame->length, &message) < 0)
        return -1;
    exec->input_open = message.flags & EXEC_STDIN;
    exec->copies = message.flags & EXEC_FILES;
    exec_message_free(&message);
    exec->number = ++exec->sup->execs.last_number;
    return 0;
}

static int take_input(struct exec *exec, uint32_t length)
{
    if (!exec->input_open || length > EXEC_INPUT_MAX ||
        length > exec->input_window - exec->input_owed)
        return -1;
    exec->input_window -= length;
    exec->input_open = length > 0;
    return 0;
}

static int take_window(struct exec *exec, uint32_t more)
{
    if (more == 0 ||
        (!exec->deaf && (uint64_t)exec->window + exec->allowed + more > EXEC_WINDOW_MAX))
        return -1;
    exec->allowed += more;
    feed(exec);
    return 0;
}

/* What may come after EXEC. */
static int take_more(struct exec *exec, const struct frame *frame)
{
    uint32_t length = frame->length - 4, number = length == 4 ? get_u32(frame->payload + 4) : 0;

    switch (frame->type) {
    case FRAME_EXEC_INPUT:
        return take_input(exec, length);
    case FRAME_EXEC_WINDOW:
        return take_window(exec, number);
    case FRAME_EXEC_SIGNAL:
        return number > 0 && number <= EXEC_SIGNAL_MAX ? 0 : -1;
    case FRAME_EXEC_RESIZE:
        return length == 4 ? 0 : -1;
    default:
        return -1;
    }
}

/* -1: bottled broke the protocol. */
static int take(struct exec *exec, const struct frame *frame)
{
    if (frame->length < 4)
        return -1;
    if (exec->ended)
        return 0;
    if ((exec->number ? take_more : take_exec)(exec, frame) < 0)
        return -1;
    if (frame->type != FRAME_EXEC_WINDOW)
        send_guest(exec, frame->type, frame->payload + 4, frame->length - 4);
    if (exec->early_signal)
        signal_guest(exec, exec->early_signal);
    exec->early_signal = 0;
    return 0;
}

static int take_frames(struct exec *exec)
{
    size_t at = 0;
    struct frame frame;
    int64_t size = 0;

    while (!exec->in.failed &&
           (size = frame_parse((const uint8_t *)exec->in.data + at, exec->in.length - at,
                               START_PAYLOAD_MAX, &frame)) > 0) {
        if (take(exec, &frame) < 0)
            return -1;
        at += (size_t)size;
    }
    if (size < 0 || exec->in.failed)
        return -1;
    exec->in.length -= at;
    if (exec->in.length == 0)
        text_free(&exec->in); /* EXEC may have been large */
    else
        memmove(exec->in.data, exec->in.data + at, exec->in.length);
    return 0;
}

/* ── to bottled ── */

/* Queues a frame for bottled, with id 0. */
static void send_bottled(struct exec *exec, enum frame_type type, const uint8_t *rest,
                         size_t length)
{
    uint8_t bytes[FRAME_HEADER_SIZE + 4] = {0};

    if (exec->deaf)
        return;
    frame_header(bytes, type, (uint32_t)(4 + length));
    text_add_bytes(&exec->out, bytes, sizeof bytes);
    text_add_bytes(&exec->out, rest, length);
}

/* The guest's pieces of the input's window, as one. */
static void tell_window(struct exec *exec)
{
    uint8_t bytes[4];

    if (exec->input_owed == 0 || exec->ended || exec->out.length > WINDOW_PIECE)
        return;
    put_u32(bytes, exec->input_owed);
    exec->input_owed = 0;
    send_bottled(exec, FRAME_EXEC_WINDOW, bytes, sizeof bytes);
}

/* 0, or -1 when bottled takes no more. */
static int send_out(struct exec *exec)
{
    struct text *out = &exec->out;

    while (!out->failed && out->length > 0) {
        ssize_t put = send(exec->source.fd, out->data, out->length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return errno == EAGAIN ? 0 : -1;
        memmove(out->data, out->data + put, out->length - (size_t)put);
        out->length -= (size_t)put;
    }
    return out->failed ? -1 : 0;
}

/* Passes on to bottled what it takes; the exec may be gone afterwards. That bottled closed its end
 * is heard when all that it said before has been read. */
static void flush(struct exec *exec)
{
    tell_window(exec);
    if (!exec->deaf && send_out(exec) < 0) {
        (void)shutdown(exec->source.fd,
                       SHUT_WR); /* should it be there: a stream with a hole is cut */
        deafen(exec);
    }
    if (exec->ended && exec->out.length == 0) {
        exec_free(exec);
        return;
    }
    feed(exec);
    if (exec->source.fd >= 0)
        watch(exec);
}

static void on_event(struct loop_source *source, uint32_t events)
{
    struct exec *exec = source->data;
    char bytes[READ_SIZE];

    if (events & EPOLLOUT) {
        flush(exec); /* which may be its end: the rest brings another event */
        return;
    }
    if (exec->sup->agent.out_length > GUEST_QUEUE_MAX && !(events & EPOLLHUP)) {
        exec->paused = true; /* until execs_go_on */
        watch(exec);
        return;
    }
    ssize_t got = recv(source->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0)
        text_add_bytes(&exec->in, bytes, (size_t)got);
    if (got <= 0 || take_frames(exec) < 0)
        orphan(exec);
}

void execs_go_on(struct supervisor *sup)
{
    for (struct exec *exec = sup->execs.first; exec; exec = exec->next)
        if (exec->paused && exec->source.fd >= 0) {
            exec->paused = false;
            watch(exec);
        }
}

/* ── its end ── */

static void note_result(struct exec *exec, uint32_t code, uint32_t signal_number, bool timed_out,
                        const char *reason, size_t length)
{
    struct execs *execs = &exec->sup->execs;
    struct exec_result *result = &execs->results[execs->n_results++ % EXEC_RESULTS_MAX];

    *result =
        (struct exec_result){.code = code, .signal_number = signal_number, .timed_out = timed_out};
    memcpy(result->id, exec->id, sizeof result->id);
    (void)snprintf(result->reason, sizeof result->reason, "%.*s", (int)length, reason);
    control_send(exec->sup->control, exec_result_encode(exec->sup, exec->id));
}

static void finish(struct exec *exec, const uint8_t *rest, size_t length)
{
    size_t fixed = EXIT_FIXED_SIZE - 4, words = length - fixed;

    if (words >= EXEC_REASON_SIZE)
        words = EXEC_REASON_SIZE - 1;
    exec->ended = true;
    if (!exec->copies)
        note_result(exec, get_u32(rest), get_u32(rest + 4), rest[8], (const char *)rest + fixed,
                    words);
    send_bottled(exec, FRAME_EXEC_EXIT, rest, fixed + words);
    flush(exec);
}

static void lose(struct exec *exec, const char *why)
{
    uint8_t rest[EXIT_FIXED_SIZE - 4 + EXEC_REASON_SIZE] = {0};
    size_t length = strnlen(why, EXEC_REASON_SIZE - 1);

    put_u32(rest, EXEC_LOST);
    memcpy(rest + 9, why, length);
    finish(exec, rest, 9 + length);
}

void execs_lost(struct supervisor *sup, const char *why)
{
    for (struct exec *exec = sup->execs.first, *next; exec; exec = next) {
        next = exec->next;
        if (!exec->ended)
            lose(exec, why);
    }
}

void execs_free(struct supervisor *sup)
{
    while (sup->execs.first)
        exec_free(sup->execs.first);
}

/* ── from the guest ── */

static int on_output(struct exec *exec, const struct frame *frame)
{
    uint32_t bytes = frame->length - 5;

    if (frame->length < 6 || frame->payload[4] < 1 || frame->payload[4] > 2 || bytes > exec->window)
        return -1;
    exec->window -= bytes;
    send_bottled(exec, FRAME_EXEC_OUTPUT, frame->payload + 4, frame->length - 4);
    flush(exec);
    return 0;
}

static int on_window(struct exec *exec, const struct frame *frame)
{
    uint32_t more = frame->length == 8 ? get_u32(frame->payload + 4) : 0;

    if (more == 0 || more > INPUT_WINDOW_MAX - exec->input_window)
        return -1;
    exec->input_window += more;
    exec->input_owed += more;
    flush(exec);
    return 0;
}

static int on_end(struct exec *exec, const struct frame *frame)
{
    if (frame->length < EXIT_FIXED_SIZE || get_u32(frame->payload + 4) > EXIT_CODE_MAX ||
        get_u32(frame->payload + 8) > EXEC_SIGNAL_MAX || frame->payload[12] > 1)
        return -1;
    finish(exec, frame->payload + 4, frame->length - 4);
    return 0;
}

int exec_frame(struct supervisor *sup, const struct frame *frame)
{
    struct exec *exec = sup->execs.first;

    while (exec && frame->length >= 4 && exec->number != get_u32(frame->payload))
        exec = exec->next;
    if (!exec || frame->length < 4 || exec->number == 0 || exec->ended)
        return -1;
    switch (frame->type) {
    case FRAME_EXEC_OUTPUT:
        return on_output(exec, frame);
    case FRAME_EXEC_WINDOW:
        return on_window(exec, frame);
    case FRAME_EXEC_EXIT:
        return on_end(exec, frame);
    default:
        return -1;
    }
}

/* ── requests ── */

void exec_request(struct supervisor *sup, const char *id, int fd)
{
    struct exec *exec = calloc(1, sizeof *exec);

    if (!exec || strlen(id) != EXEC_ID_LENGTH) {
        (void)close(fd);
        free(exec);
        return;
    }
    exec->sup = sup;
    memcpy(exec->id, id, sizeof exec->id);
    exec->source =
        (struct loop_source){.fd = fd, .events = EPOLLIN, .callback = on_event, .data = exec};
    exec->next = sup->execs.first;
    sup->execs.first = exec;
    sup->execs.count++;
    if (loop_add(sup->loop, &exec->source, NULL) < 0)
        exec_free(exec);
    else if (!supervisor_serves(sup) || sup->agent.source.fd < 0)
        lose(exec, "the bottle's command does not run");
    else if (sup->execs.count > EXECS_MAX)
        lose(exec, "too many programs run beside the bottle's command");
}

void exec_tell(struct supervisor *sup, const char *id, const struct exec_note *note)
{
    struct exec *exec = sup->execs.first;
    uint8_t size[4];

    while (exec && (exec->ended || strcmp(exec->id, id) != 0))
        exec = exec->next;
    if (!exec)
        return;
    if (note->signal && exec->number == 0)
        exec->early_signal = note->signal;
    else if (note->signal)
        signal_guest(exec, note->signal);
    put_u16(size, note->rows);
    put_u16(size + 2, note->columns);
    if (note->rows && note->columns && exec->number)
        send_guest(exec, FRAME_EXEC_RESIZE, size, sizeof size);
}

/* NULL: it is running, or nothing is known of it. */
static const struct exec_result *find_result(const struct execs *execs, const char *id)
{
    for (size_t i = 0; i < EXEC_RESULTS_MAX && i < execs->n_results; i++)
        if (strcmp(execs->results[i].id, id) == 0)
            return &execs->results[i];
    return NULL;
}

static bool is_running(const struct execs *execs, const char *id)
{
    for (const struct exec *exec = execs->first; exec; exec = exec->next)
        if (strcmp(exec->id, id) == 0 && !exec->ended)
            return true;
    return false;
}

json_t *exec_result_encode(const struct supervisor *sup, const char *id)
{
    const struct exec_result *result = find_result(&sup->execs, id);
    bool lost = result && result->code == EXEC_LOST;

    if (!result)
        return json_pack("{s:s, s:s}", "exec", id, "state",
                         is_running(&sup->execs, id) ? "running" : "unknown");
    return json_pack("{s:s, s:s, s:o, s:o, s:b, s:o}", "exec", id, "state", "ended", "exit_code",
                     lost ? json_null() : json_integer((json_int_t)result->code), "signal",
                     result->signal_number ? json_integer((json_int_t)result->signal_number)
                                           : json_null(),
                     "timed_out", (int)result->timed_out, "reason",
                     result->reason[0] ? json_string_lossy(result->reason) : json_null());
}
