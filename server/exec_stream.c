/* The client sets the pace: the next frame is read once what the last one gave has gone out, and
 * what has gone out is what the window is given again for. So a slow reader stops the program, and
 * memory is bounded by a frame. In a whole answer output beyond its bound is counted and thrown
 * away.
 *
 * Text is UTF-8 or else Base64, and says which. A sequence that a frame's end cuts waits for its
 * rest. */
#include "server/exec_stream_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/util.h"
#include "server/output_line.h"

enum {
    EXIT_FIXED_SIZE = 13,
    PIECE_SIZE = 12 * 1024, /* of a whole answer's text; a multiple of 3 */
};

static const char *const stream_names[] = {"stdout", "stderr"};

/* ── to the supervisor ── */

static void put_exec(struct exec_stream *stream)
{
    const struct exec_spec *spec = &stream->spec;
    uint8_t fixed[EXEC_FIXED_SIZE - 4] = {0};
    CLEANUP_TEXT struct text payload = TEXT_INIT;

    put_u32(fixed,
            (spec->input || spec->stdin_open ? EXEC_STDIN : 0U) | (spec->tty ? EXEC_TERMINAL : 0U));
    put_u32(fixed + 4, (uint32_t)(spec->timeout_seconds * 1000));
    put_u16(fixed + 8, (uint16_t)spec->rows);
    put_u16(fixed + 10, (uint16_t)spec->cols);
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
    wire_put(&stream->wire, FRAME_EXEC, payload.data, payload.failed ? 0 : payload.length);
    if (stream->form != EXEC_DETACHED)
        wire_open_window(&stream->wire);
}

/* ── to the client ── */

static void say(struct exec_stream *stream, json_t *object)
{
    CLEANUP_FREE char *text = object ? json_text(object) : NULL;

    text_add(&stream->say, text ? text : "{\"error\": \"out of memory\"}");
    text_add(&stream->say, "\n");
    json_decref(object);
}

static void say_output(struct exec_stream *stream, unsigned which, const char *bytes, size_t length)
{
    output_say(&stream->say, stream_names[which], &stream->outputs[which].carry, bytes, length);
}

static void keep_output(struct exec_stream *stream, unsigned which, const char *bytes,
                        size_t length)
{
    struct exec_output *output = &stream->outputs[which];
    int64_t room = stream->spec.max_output_bytes - (int64_t)output->text.length;

    if (room > 0)
        text_add_bytes(&output->text, bytes, (int64_t)length < room ? length : (size_t)room);
}

/* How much of what is left makes the next piece, not cut in the middle of a letter. */
static size_t next_piece(const char *bytes, size_t left, bool is_text)
{
    size_t length = left < PIECE_SIZE ? left : PIECE_SIZE;

    return is_text && length < left ? length - utf8_cut(bytes, length) : length;
}

static bool is_text(const char *bytes, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t piece = next_piece(bytes + at, length - at, true);
        CLEANUP_JSON json_t *string = json_stringn(bytes + at, piece);
        if (!string)
            return false;
        at += piece;
    }
    return true;
}

static void say_piece(struct exec_stream *stream, const char *bytes, size_t length, bool text)
{
    if (!text) {
        base64_add(&stream->say, bytes, length);
        return;
    }
    CLEANUP_JSON json_t *string = json_stringn(bytes, length);
    CLEANUP_FREE char *quoted = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    if (quoted)
        text_add_bytes(&stream->say, quoted + 1, strlen(quoted) - 2);
    else
        stream->say.failed = true;
}

/* The next part of a whole answer's outputs: escaped they may be six times as large, and are never
 * there at once. False at the end. */
static bool render(struct exec_stream *stream)
{
    static const char *const names[2][2] = {{"stdout_base64", "stdout"},
                                            {"stderr_base64", "stderr"}};
    if (stream->form != EXEC_WHOLE || !stream->ended || stream->rendering == COUNT_OF(names) + 1)
        return false;
    if (stream->rendering == COUNT_OF(names)) {
        text_add(&stream->say, "}\n");
        stream->rendering++;
        return true;
    }
    struct exec_output *output = &stream->outputs[stream->rendering];
    const char *bytes = output->text.data ? output->text.data : "";
    if (output->rendered == 0) {
        if ((int64_t)output->text.length < output->bytes) /* where it was cut is no fault of its */
            output->text.length -= utf8_cut(bytes, output->text.length);
        output->is_text = is_text(bytes, output->text.length);
        text_addf(&stream->say, ", \"%s\": \"", names[stream->rendering][output->is_text]);
    }
    size_t left = output->text.length - output->rendered;
    size_t length = next_piece(bytes + output->rendered, left, output->is_text);
    say_piece(stream, bytes + output->rendered, length, output->is_text);
    output->rendered += length;
    if (length == left) {
        text_add(&stream->say, "\"");
        stream->rendering++;
    }
    return true;
}

/* The last line, or the whole answer. `code` EXEC_LOST: how it ended is not known. */
static void say_end(struct exec_stream *stream, uint32_t code, uint32_t signal_number,
                    bool timed_out, const char *reason)
{
    struct exec_output *outputs = stream->outputs;
    bool lost = code == EXEC_LOST;

    for (unsigned i = 0; i < 2 && stream->form == EXEC_LINES; i++)
        output_flush(&stream->say, stream_names[i], &outputs[i].carry);
    json_t *end =
        json_pack("{s:s, s:o, s:o, s:b, s:o}", "id", stream->id, "exit_code",
                  lost ? json_null() : json_integer(code & 0xff), "signal",
                  signal_number ? json_integer(signal_number & 0xff) : json_null(), "timed_out",
                  (int)timed_out, "reason", reason[0] ? json_string_lossy(reason) : json_null());
    if (stream->form == EXEC_DETACHED)
        (void)json_object_set_new(end, "state", json_string("ended"));
    if (stream->form == EXEC_WHOLE) {
        bool truncated = false;
        for (unsigned i = 0; i < 2; i++)
            truncated = truncated || (int64_t)outputs[i].text.length < outputs[i].bytes;
        (void)json_object_set_new(end, "truncated", json_boolean(truncated));
    }
    say(stream, end);
    if (stream->form == EXEC_WHOLE && !stream->say.failed)
        stream->say.length -= 2; /* the outputs come before its brace */
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
    stream->wire.owed += (uint32_t)length;
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
    case FRAME_EXEC_EXIT:
        return on_end(stream, frame);
    default:
        return -1;
    }
}

void exec_receive(struct exec_stream *stream)
{
    wire_receive(&stream->wire);
    exec_put_input(stream);
}

/* 1: a frame was taken; 0: there is none now; -1: the supervisor is gone, or broke the protocol. */
static int take_frame(struct exec_stream *stream)
{
    struct frame frame;
    int result = wire_take(&stream->wire, &frame);

    exec_put_input(stream); /* windows may have come */
    return result == 1 && on_frame(stream, &frame) < 0 ? -1 : result;
}

static void lose(struct exec_stream *stream)
{
    say_end(stream, EXEC_LOST, 0, false, "the bottle's supervisor is gone, or could not be told");
}

/* One step; false: nothing can be done now. */
static bool advance(struct exec_stream *stream)
{
    wire_flush(&stream->wire);
    if (stream->form == EXEC_DETACHED && stream->wire.out.length == 0 && !stream->wire.deaf &&
        (!stream->spec.input || stream->input_ended)) {
        say(stream, json_pack("{s:s, s:s}", "id", stream->id, "state", "running"));
        stream->over = true;
        return true;
    }
    int result = take_frame(stream);
    if (result < 0)
        lose(stream);
    if (!stream->over)
        wire_grant(&stream->wire);
    return result != 0;
}

static void fill(struct exec_stream *stream)
{
    while (stream->say.length == stream->said) {
        stream->say.length = stream->said = 0;
        if (render(stream))
            continue;
        if (stream->over)
            return;
        if (!advance(stream)) {
            wire_flush(&stream->wire);
            return;
        }
    }
}

static ssize_t next(void *context, char *out, size_t room)
{
    struct exec_stream *stream = context;

    (void)pthread_mutex_lock(&stream->lock);
    fill(stream);
    size_t left = stream->say.length - stream->said, length = left < room ? left : room;
    if (length)
        memcpy(out, stream->say.data + stream->said, length);
    stream->said += length;
    const bool over = stream->over, failed = stream->say.failed;
    (void)pthread_mutex_unlock(&stream->lock);
    if (failed) /* an answer without its end must not look whole */
        return STREAM_CUT;
    return length == 0 && over ? STREAM_END : (ssize_t)length;
}

void exec_stream_free(struct exec_stream *stream)
{
    wire_close(&stream->wire);
    exec_spec_free(&stream->spec);
    text_free(&stream->say);
    for (unsigned i = 0; i < 2; i++)
        text_free(&stream->outputs[i].text);
    (void)pthread_mutex_destroy(&stream->lock);
    free(stream);
}

static void killed(void *context, const json_t *result, const struct problem *problem)
{
    (void)context;
    (void)result;
    (void)problem;
}

static void done(void *context)
{
    struct exec_stream *stream = context;
    const struct exec_note kill = {.signal = 9};

    (void)pthread_mutex_lock(&stream->lock);
    stream->left = true;
    bool kills = (!stream->ended || stream->wire.failed) && stream->form != EXEC_DETACHED;
    if (kills) {
        wire_put_number(&stream->wire, FRAME_EXEC_SIGNAL, kill.signal);
        wire_flush(&stream->wire);
        kills = stream->wire.failed || stream->wire.out.length > 0;
    }
    (void)pthread_mutex_unlock(&stream->lock);
    if (kills) /* the socket is full, or of no use: the other way */
        engine_exec_result(stream->app, stream->slug, stream->id, &kill, killed, NULL);
    exec_stream_unref(stream);
}

struct exec_stream *exec_stream_new(struct app *app, const char *slug, struct exec_spec *spec,
                                    enum exec_form form, struct problem *problem)
{
    struct exec_stream *stream = calloc(1, sizeof *stream);

    if (!stream) {
        exec_spec_free(spec);
        problem_set(problem, "internal", "memory is short");
        return NULL;
    }
    (void)pthread_mutex_init(&stream->lock, NULL);
    stream->references = 1;
    stream->app = app;
    (void)snprintf(stream->slug, sizeof stream->slug, "%s", slug);
    stream->spec = *spec;
    *spec = (struct exec_spec){0};
    stream->form = form;
    stream->wire.fd = -1;
    if (exec_list(stream) == 0)
        return stream;
    problem_set(problem, "too-many-execs",
                "at most %d programs are streamed or waited for at once, with %d MiB in all",
                EXEC_STREAMS_MAX, EXEC_STREAMS_BYTES_MAX >> 20);
    exec_stream_free(stream);
    return NULL;
}

void exec_stream_unref(struct exec_stream *stream)
{
    exec_unlist(stream);
    exec_unref(stream);
}

void exec_stream_open(struct exec_stream *stream, int fd, const char *id)
{
    (void)pthread_mutex_lock(&stream->lock);
    exec_name(stream, id);
    stream->wire.fd = fd;
    put_exec(stream);
    if (stream->form == EXEC_LINES)
        say(stream, json_pack("{s:s}", "id", stream->id));
    (void)pthread_mutex_unlock(&stream->lock);
}

struct stream exec_stream_body(struct exec_stream *stream)
{
    return (struct stream){
        .next = next, .done = done, .context = stream, .fd = &stream->wire.fd, .whole = true};
}
