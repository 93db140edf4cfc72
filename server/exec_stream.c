/* The client sets the pace: the next frame is read once what the last one gave has gone out, and
 * what has gone out is what the window is given again for. So a slow reader stops the program, and
 * memory is bounded by a frame. In a whole answer output beyond its bound is counted and thrown
 * away.
 *
 * Text is UTF-8 or else Base64, and says which. A sequence that a frame's end cuts waits for its
 * rest. */
#include "server/exec_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/util.h"
#include "guest/protocol.h"

enum {
    READ_SIZE = 32 * 1024,
    WINDOW = EXEC_WINDOW_MAX,
    GRANT_MIN = WINDOW / 4,
    EXIT_FIXED_SIZE = 13,
    CARRY_MAX = 3,
};

static const char *const stream_names[] = {"stdout", "stderr"};

struct output {
    struct text text; /* of a whole answer */
    int64_t bytes;    /* in all */
    char carry[CARRY_MAX + 1];
    size_t carried;
};

struct exec_stream {
    struct exec_spec spec;
    enum exec_form form;
    int fd;
    char id[EXEC_ID_SIZE];
    struct text in, out;   /* from and to the supervisor */
    size_t in_at;          /* bytes of `in` that were taken */
    uint32_t input_window; /* how much the program takes */
    size_t input_at;       /* bytes of spec.input that were sent */
    bool input_ended;
    uint32_t owed;   /* how much of the window is to be given again */
    struct text say; /* to the client */
    size_t said;
    struct output outputs[2];
    bool over; /* nothing comes after `say` */
    bool ended;
};

/* ── to the supervisor ── */

static void put_frame(struct text *out, enum frame_type type, const void *payload, size_t length)
{
    uint8_t head[FRAME_HEADER_SIZE + 4] = {0};

    frame_header(head, type, (uint32_t)(4 + length));
    text_add_bytes(out, head, sizeof head);
    text_add_bytes(out, payload, length);
}

static void put_number(struct text *out, enum frame_type type, uint32_t number)
{
    uint8_t payload[4];

    put_u32(payload, number);
    put_frame(out, type, payload, sizeof payload);
}

static void put_exec(struct exec_stream *stream)
{
    const struct exec_spec *spec = &stream->spec;
    uint8_t fixed[EXEC_FIXED_SIZE - 4] = {0};
    CLEANUP_TEXT struct text payload = TEXT_INIT;

    put_u32(fixed, spec->input ? EXEC_STDIN : 0);
    put_u32(fixed + 4, (uint32_t)(spec->timeout_seconds * 1000));
    put_u32(fixed + 12, (uint32_t)spec->command.count);
    put_u32(fixed + 16, (uint32_t)spec->env.count);
    text_add_bytes(&payload, fixed, sizeof fixed);
    text_add_bytes(&payload, spec->workdir ? spec->workdir : "",
                   strlen(spec->workdir ? spec->workdir : "") + 1);
    for (size_t i = 0; i < spec->command.count; i++)
        text_add_bytes(&payload, spec->command.items[i], strlen(spec->command.items[i]) + 1);
    for (size_t i = 0; i < spec->env.count; i++) {
        text_addf(&payload, "%s=%s", spec->env.items[i].name, spec->env.items[i].value);
        text_add_bytes(&payload, "", 1);
    }
    put_frame(&stream->out, FRAME_EXEC, payload.data, payload.failed ? 0 : payload.length);
    if (stream->form != EXEC_DETACHED)
        put_number(&stream->out, FRAME_EXEC_WINDOW, WINDOW);
}

/* As much of the input as the program takes, and its end. */
static void put_input(struct exec_stream *stream)
{
    const char *input = stream->spec.input;
    size_t left = input ? strlen(input + stream->input_at) : 0;

    while (left > 0 && stream->input_window > 0) {
        size_t piece = left < EXEC_INPUT_MAX ? left : EXEC_INPUT_MAX;
        if (piece > stream->input_window)
            piece = stream->input_window;
        put_frame(&stream->out, FRAME_EXEC_INPUT, input + stream->input_at, piece);
        stream->input_window -= (uint32_t)piece;
        stream->input_at += piece;
        left -= piece;
    }
    if (input && left == 0 && !stream->input_ended) {
        put_frame(&stream->out, FRAME_EXEC_INPUT, NULL, 0);
        stream->input_ended = true;
    }
}

/* -1: memory is short. */
static int flush(struct exec_stream *stream)
{
    struct text *out = &stream->out;

    if (out->failed)
        return -1;
    while (out->length > 0) {
        ssize_t put = send(stream->fd, out->data, out->length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            return 0;
        if (put < 0)
            put = (ssize_t)out->length; /* it has ended: its last words are still to be read */
        memmove(out->data, out->data + put, out->length - (size_t)put);
        out->length -= (size_t)put;
    }
    return 0;
}

/* ── to the client ── */

static void say(struct exec_stream *stream, json_t *object)
{
    CLEANUP_FREE char *text = object ? json_text(object) : NULL;

    text_add(&stream->say, text ? text : "{\"error\": \"out of memory\"}");
    text_add(&stream->say, "\n");
    json_decref(object);
}

/* How many bytes at the end are the begin of a UTF-8 sequence whose rest may follow. */
static size_t cut_sequence(const char *bytes, size_t length)
{
    for (size_t back = 1; back <= CARRY_MAX && back <= length; back++) {
        unsigned char c = (unsigned char)bytes[length - back];
        if ((c & 0xc0) == 0x80)
            continue;
        size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return back < whole ? back : 0;
    }
    return 0;
}

/* A member with these bytes: `name` as text, or `base64_name`. */
static void add_bytes(json_t *object, const char *name, const char *base64_name, const char *bytes,
                      size_t length)
{
    json_t *text = json_stringn(bytes, length);

    if (text) {
        (void)json_object_set_new(object, name, text);
        return;
    }
    CLEANUP_TEXT struct text encoded = TEXT_INIT;
    base64_add(&encoded, bytes, length);
    (void)json_object_set_new(object, base64_name, json_string(encoded.failed ? "" : encoded.data));
}

static void say_bytes(struct exec_stream *stream, unsigned which, const char *bytes, size_t length)
{
    json_t *line = json_pack("{s:s}", "stream", stream_names[which]);

    add_bytes(line, "data", "base64", bytes, length);
    say(stream, line);
}

static void say_output(struct exec_stream *stream, unsigned which, const char *bytes, size_t length)
{
    struct output *output = &stream->outputs[which];
    CLEANUP_TEXT struct text whole = TEXT_INIT;

    text_add_bytes(&whole, output->carry, output->carried);
    text_add_bytes(&whole, bytes, length);
    if (whole.failed)
        return;
    output->carried = cut_sequence(whole.data, whole.length);
    memcpy(output->carry, whole.data + whole.length - output->carried, output->carried);
    if (whole.length > output->carried)
        say_bytes(stream, which, whole.data, whole.length - output->carried);
}

static void keep_output(struct exec_stream *stream, unsigned which, const char *bytes,
                        size_t length)
{
    struct output *output = &stream->outputs[which];
    int64_t room = stream->spec.max_output_bytes - (int64_t)output->text.length;

    if (room > 0)
        text_add_bytes(&output->text, bytes, (int64_t)length < room ? length : (size_t)room);
}

static void add_whole(json_t *object, const char *name, const char *base64_name,
                      const struct output *output)
{
    size_t length = output->text.length;
    const char *bytes = output->text.data ? output->text.data : "";

    if ((int64_t)length < output->bytes) /* where it was cut is no fault of the text's */
        length -= cut_sequence(bytes, length);
    add_bytes(object, name, base64_name, bytes, length);
}

/* The last line, or the whole answer. `code` EXEC_LOST: how it ended is not known. */
static void say_end(struct exec_stream *stream, uint32_t code, uint32_t signal_number,
                    bool timed_out, const char *reason)
{
    struct output *outputs = stream->outputs;
    bool lost = code == EXEC_LOST;

    for (unsigned i = 0; i < 2 && stream->form == EXEC_LINES; i++)
        if (outputs[i].carried)
            say_bytes(stream, i, outputs[i].carry, outputs[i].carried);
    json_t *end =
        json_pack("{s:s, s:o, s:o, s:b, s:o}", "id", stream->id, "exit_code",
                  lost ? json_null() : json_integer(code & 0xff), "signal",
                  signal_number ? json_integer(signal_number & 0xff) : json_null(), "timed_out",
                  (int)timed_out, "reason", reason[0] ? json_string_lossy(reason) : json_null());
    if (stream->form == EXEC_WHOLE) {
        bool truncated = false;
        add_whole(end, "stdout", "stdout_base64", &outputs[0]);
        add_whole(end, "stderr", "stderr_base64", &outputs[1]);
        for (unsigned i = 0; i < 2; i++)
            truncated = truncated || (int64_t)outputs[i].text.length < outputs[i].bytes;
        (void)json_object_set_new(end, "truncated", json_boolean(truncated));
    }
    say(stream, end);
    stream->over = stream->ended = true;
}

/* ── from the supervisor ── */

static int on_output(struct exec_stream *stream, const struct frame *frame)
{
    if (frame->length < 6 || frame->payload[4] < 1 || frame->payload[4] > 2)
        return -1;
    unsigned which = frame->payload[4] - 1U;
    size_t length = frame->length - 5;
    stream->outputs[which].bytes += (int64_t)length;
    stream->owed += (uint32_t)length;
    (stream->form == EXEC_LINES ? say_output : keep_output)(
        stream, which, (const char *)frame->payload + 5, length);
    return 0;
}

static int on_end(struct exec_stream *stream, const struct frame *frame)
{
    char reason[512];
    size_t length = frame->length - EXIT_FIXED_SIZE;

    if (frame->length < EXIT_FIXED_SIZE || length >= sizeof reason)
        return -1;
    memcpy(reason, frame->payload + EXIT_FIXED_SIZE, length);
    reason[length] = '\0';
    say_end(stream, get_u32(frame->payload + 4), get_u32(frame->payload + 8), frame->payload[12],
            reason);
    return 0;
}

static int on_frame(struct exec_stream *stream, const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_EXEC_OUTPUT:
        return on_output(stream, frame);
    case FRAME_EXEC_WINDOW:
        if (frame->length != 8)
            return -1;
        stream->input_window += get_u32(frame->payload + 4);
        put_input(stream);
        return 0;
    case FRAME_EXEC_EXIT:
        return on_end(stream, frame);
    default:
        return -1;
    }
}

/* 1: a frame was taken; 0: there is none now; -1: the supervisor is gone, or broke the protocol. */
static int take_frame(struct exec_stream *stream)
{
    struct text *in = &stream->in;
    char bytes[READ_SIZE];
    struct frame frame;

    for (;;) {
        int64_t size = in->data ? frame_parse((const uint8_t *)in->data + stream->in_at,
                                              in->length - stream->in_at, GUEST_PAYLOAD_MAX, &frame)
                                : 0;
        if (size < 0)
            return -1;
        if (size > 0) {
            stream->in_at += (size_t)size;
            return on_frame(stream, &frame) < 0 ? -1 : 1;
        }
        if (in->data && stream->in_at) {
            memmove(in->data, in->data + stream->in_at, in->length - stream->in_at);
            in->length -= stream->in_at;
            stream->in_at = 0;
        }
        ssize_t got = recv(stream->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (got <= 0)
            return -1;
        text_add_bytes(in, bytes, (size_t)got);
        if (in->failed)
            return -1;
    }
}

static void lose(struct exec_stream *stream)
{
    say_end(stream, EXEC_LOST, 0, false, "the bottle's supervisor is gone");
}

/* One step; false: nothing can be done now. */
static bool advance(struct exec_stream *stream)
{
    if (flush(stream) < 0) {
        lose(stream);
        return true;
    }
    if (stream->form == EXEC_DETACHED && stream->out.length == 0 &&
        (!stream->spec.input || stream->input_ended)) {
        say(stream, json_pack("{s:s, s:s}", "id", stream->id, "state", "running"));
        stream->over = true;
        return true;
    }
    int result = take_frame(stream);
    if (result < 0)
        lose(stream);
    if (stream->owed >= GRANT_MIN && !stream->over) {
        put_number(&stream->out, FRAME_EXEC_WINDOW, stream->owed);
        stream->owed = 0;
    }
    return result != 0;
}

static ssize_t next(void *context, char *out, size_t room)
{
    struct exec_stream *stream = context;

    while (stream->say.length == stream->said) {
        stream->say.length = stream->said = 0;
        if (stream->over)
            return -1;
        if (!advance(stream)) {
            (void)flush(stream); /* a fault is seen the next time */
            return 0;
        }
    }
    size_t left = stream->say.length - stream->said, length = left < room ? left : room;
    memcpy(out, stream->say.data + stream->said, length);
    stream->said += length;
    return (ssize_t)length;
}

static void stream_free(struct exec_stream *stream)
{
    if (stream->fd >= 0)
        (void)close(stream->fd);
    exec_spec_free(&stream->spec);
    text_free(&stream->in);
    text_free(&stream->out);
    text_free(&stream->say);
    for (unsigned i = 0; i < 2; i++)
        text_free(&stream->outputs[i].text);
    free(stream);
}

static void done(void *context)
{
    struct exec_stream *stream = context;

    if (!stream->ended && stream->form != EXEC_DETACHED) {
        put_number(&stream->out, FRAME_EXEC_SIGNAL, 9);
        (void)flush(stream);
    }
    stream_free(stream);
}

struct exec_stream *exec_stream_new(struct exec_spec *spec, enum exec_form form, int fd,
                                    const char *id)
{
    struct exec_stream *stream = calloc(1, sizeof *stream);

    if (!stream) {
        exec_spec_free(spec);
        (void)close(fd);
        return NULL;
    }
    stream->spec = *spec;
    *spec = (struct exec_spec){0};
    stream->form = form;
    stream->fd = fd;
    memcpy(stream->id, id, sizeof stream->id);
    put_exec(stream);
    if (form == EXEC_LINES)
        say(stream, json_pack("{s:s}", "id", stream->id));
    return stream;
}

struct stream exec_stream_body(struct exec_stream *stream)
{
    return (struct stream){.next = next, .done = done, .context = stream, .fd = &stream->fd};
}
