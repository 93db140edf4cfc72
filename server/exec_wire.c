#include "server/exec_wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"

enum {
    READ_SIZE = 32 * 1024,
    IN_MAX = 512 * 1024, /* frames that wait: more than a whole window of an honest supervisor's */
    WINDOW = EXEC_WINDOW_MAX,
    GRANT_MIN = WINDOW / 4,
};

void wire_put(struct exec_wire *wire, enum frame_type type, const void *payload, size_t length)
{
    uint8_t head[FRAME_HEADER_SIZE + 4] = {0};

    frame_header(head, type, (uint32_t)(4 + length));
    text_add_bytes(&wire->out, head, sizeof head);
    text_add_bytes(&wire->out, payload, length);
}

void wire_put_number(struct exec_wire *wire, enum frame_type type, uint32_t number)
{
    uint8_t payload[4];

    put_u32(payload, number);
    wire_put(wire, type, payload, sizeof payload);
}

size_t wire_put_input(struct exec_wire *wire, const char *bytes, size_t length)
{
    size_t at = 0;

    while (at < length && wire->input_window > 0) {
        size_t piece = length - at < EXEC_INPUT_MAX ? length - at : EXEC_INPUT_MAX;
        if (piece > wire->input_window)
            piece = wire->input_window;
        wire_put(wire, FRAME_EXEC_INPUT, bytes + at, piece);
        wire->input_window -= (uint32_t)piece;
        at += piece;
    }
    return at;
}

void wire_open_window(struct exec_wire *wire)
{
    wire_put_number(wire, FRAME_EXEC_WINDOW, WINDOW);
}

void wire_grant(struct exec_wire *wire)
{
    if (wire->owed < GRANT_MIN)
        return;
    wire_put_number(wire, FRAME_EXEC_WINDOW, wire->owed);
    wire->owed = 0;
}

/* It has closed, or can not be told: what it said before is still to be read, and then its end. */
static void go_deaf(struct exec_wire *wire, bool closed)
{
    wire->deaf = true;
    wire->failed = wire->failed || !closed;
    (void)shutdown(wire->fd, SHUT_RDWR);
}

void wire_flush(struct exec_wire *wire)
{
    struct text *out = &wire->out;

    if (out->failed)
        go_deaf(wire, false);
    while (out->length > 0 && !wire->deaf) {
        ssize_t put = send(wire->fd, out->data, out->length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            return;
        if (put < 0) {
            go_deaf(wire, errno == EPIPE || errno == ECONNRESET);
            break;
        }
        memmove(out->data, out->data + put, out->length - (size_t)put);
        out->length -= (size_t)put;
    }
    out->length = 0;
}

/* Windows count as soon as they are read: input does not wait for a client that reads no output. */
static void scan(struct exec_wire *wire)
{
    struct text *in = &wire->in;
    struct frame frame;
    int64_t size = 0;

    while (in->data &&
           (size = frame_parse((const uint8_t *)in->data + wire->in_scanned,
                               in->length - wire->in_scanned, GUEST_PAYLOAD_MAX, &frame)) > 0) {
        wire->in_scanned += (size_t)size;
        if (frame.type != FRAME_EXEC_WINDOW)
            continue;
        uint32_t more = frame.length == 8 ? get_u32(frame.payload + 4) : UINT32_MAX;
        if (more > EXEC_WINDOW_MAX - wire->input_window) {
            wire->broken = true;
            return;
        }
        wire->input_window += more;
    }
}

bool wire_is_full(const struct exec_wire *wire)
{
    return wire->in.length - wire->in_at > IN_MAX;
}

void wire_receive(struct exec_wire *wire)
{
    char bytes[READ_SIZE];

    while (!wire_is_full(wire) && !wire->cut && !wire->broken) {
        ssize_t got = recv(wire->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        if (got > 0)
            text_add_bytes(&wire->in, bytes, (size_t)got);
        wire->cut = got <= 0 || wire->in.failed;
        wire->failed = wire->failed || wire->in.failed || (got < 0 && errno != ECONNRESET);
        if (got > 0 && (size_t)got < sizeof bytes)
            break;
    }
    if (!wire->in.failed)
        scan(wire);
}

static void forget_taken(struct exec_wire *wire)
{
    struct text *in = &wire->in;

    if (!wire->in_at || !in->data)
        return;
    memmove(in->data, in->data + wire->in_at, in->length - wire->in_at);
    in->length -= wire->in_at;
    wire->in_scanned -= wire->in_at;
    wire->in_at = 0;
}

int wire_take(struct exec_wire *wire, struct frame *ret)
{
    struct text *in = &wire->in;

    for (bool again = false;;) {
        int64_t size = in->data ? frame_parse((const uint8_t *)in->data + wire->in_at,
                                              in->length - wire->in_at, GUEST_PAYLOAD_MAX, ret)
                                : 0;
        if (size < 0 || wire->broken)
            return -1;
        if (size > 0) {
            wire->in_at += (size_t)size;
            if (ret->type == FRAME_EXEC_WINDOW)
                continue; /* see scan() */
            return 1;
        }
        if (again || wire->cut)
            return wire->cut ? -1 : 0;
        forget_taken(wire);
        wire_receive(wire);
        again = true;
    }
}

void wire_close(struct exec_wire *wire)
{
    if (wire->fd >= 0)
        (void)close(steal_fd(&wire->fd));
    text_free(&wire->in);
    text_free(&wire->out);
}
