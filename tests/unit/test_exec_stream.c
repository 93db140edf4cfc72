/* An exec as a response, with a supervisor that is played here: windows both ways, ends, and input
 * by requests of their own. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "guest/protocol.h"
#include "server/exec_stream.h"
#include "server/exec_wire.h"

#define ID "0123456789abcdef"

static int supervisor = -1; /* its end of the socket */
static struct stream body;

/* Bytes that came to the supervisor and were not taken yet. */
static char heard[4 << 20];
static size_t n_heard;

static void start(const char *json, enum exec_form form)
{
    struct problem problem = PROBLEM_INIT;
    struct exec_spec spec;
    int ends[2];
    CLEANUP_JSON json_t *sent = json_loads(json, 0, NULL);

    cr_assert_eq(exec_spec_decode(sent, &spec, &problem), 0, "%s", problem.detail);
    struct exec_stream *stream = exec_stream_new(NULL, "box", &spec, form, &problem);
    cr_assert_not_null(stream, "%s", problem.detail);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    supervisor = ends[1];
    n_heard = 0;
    exec_stream_open(stream, ends[0], ID);
    body = exec_stream_body(stream);
}

static void finish(void)
{
    body.done(body.context);
    if (supervisor >= 0)
        (void)close(supervisor);
    supervisor = -1;
}

/* What the client gets now. -1: that was the end. */
static int take(const struct stream *stream, struct text *ret)
{
    char bytes[4096];
    ssize_t got;

    while ((got = stream->next(stream->context, bytes, sizeof bytes)) > 0)
        text_add_bytes(ret, bytes, (size_t)got);
    return (int)got;
}

static void step(void)
{
    CLEANUP_TEXT struct text text = TEXT_INIT;

    cr_expect_eq(take(&body, &text), 0);
}

static void tell(enum frame_type type, const void *payload, size_t length)
{
    uint8_t head[FRAME_HEADER_SIZE + 4] = {0};

    frame_header(head, type, (uint32_t)(4 + length));
    cr_assert_eq(write(supervisor, head, sizeof head), (ssize_t)sizeof head);
    cr_assert_eq(write(supervisor, payload, length), (ssize_t)length);
}

static void tell_output(uint8_t stream, const char *bytes, size_t length)
{
    CLEANUP_TEXT struct text payload = TEXT_INIT;

    text_add_bytes(&payload, &stream, 1);
    text_add_bytes(&payload, bytes, length);
    tell(FRAME_EXEC_OUTPUT, payload.data, payload.length);
}

static void tell_window(uint32_t bytes)
{
    uint8_t payload[4];

    put_u32(payload, bytes);
    tell(FRAME_EXEC_WINDOW, payload, sizeof payload);
}

static void tell_end(uint32_t code, const char *words)
{
    uint8_t payload[64] = {0};

    put_u32(payload, code);
    memcpy(payload + 9, words, strlen(words));
    tell(FRAME_EXEC_EXIT, payload, 9 + strlen(words));
}

/* All that the supervisor was told of a kind: how many frames, and their bytes after the id. */
static size_t count_heard(enum frame_type type, struct text *ret)
{
    struct frame frame;
    size_t count = 0, at = 0;
    ssize_t got;

    while ((got = read(supervisor, heard + n_heard, sizeof heard - n_heard)) > 0)
        n_heard += (size_t)got;
    for (int64_t size; (size = frame_parse((const uint8_t *)heard + at, n_heard - at,
                                           START_PAYLOAD_MAX, &frame)) > 0;
         at += (size_t)size)
        if (frame.type == type) {
            count++;
            text_add_bytes(ret, frame.payload + 4, frame.length - 4);
        }
    return count;
}

static json_t *last_line(const struct text *text)
{
    const char *line = text->data;

    for (const char *at; (at = strchr(line, '\n')) && at[1];)
        line = at + 1;
    return json_loads(line, 0, NULL);
}

Test(exec_stream, what_is_asked_for)
{
    CLEANUP_TEXT struct text frames = TEXT_INIT;
    struct exec_message message;

    start("{\"command\": [\"a\", \"\"], \"env\": {\"A\": \"b\"}, \"tty\": true, \"rows\": 3, "
          "\"cols\": 4, \"timeout_seconds\": 5, \"stdin_open\": true}",
          EXEC_LINES);
    step();
    cr_assert_eq(count_heard(FRAME_EXEC, &frames), 1);
    CLEANUP_TEXT struct text payload = TEXT_INIT;
    text_add_bytes(&payload, "\1\0\0\0", 4);
    text_add_bytes(&payload, frames.data, frames.length);
    cr_assert_eq(exec_message_parse((const uint8_t *)payload.data, payload.length, &message), 0);
    cr_expect_eq(message.flags, EXEC_TERMINAL | EXEC_STDIN);
    cr_expect_eq(message.rows, 3);
    cr_expect_eq(message.columns, 4);
    cr_expect_eq(message.timeout_ms, 5000);
    cr_expect_eq(message.n_args, 2);
    cr_expect_str_eq(message.env[0], "A=b");
    exec_message_free(&message);
    finish();
}

Test(exec_stream, input_keeps_to_the_window)
{
    CLEANUP_TEXT struct text first = TEXT_INIT, then = TEXT_INIT;

    start("{\"command\": [\"a\"], \"stdin\": \"0123456789\"}", EXEC_WHOLE);
    step();
    cr_expect_eq(count_heard(FRAME_EXEC_INPUT, &first), 0, "before it may");
    tell_window(4);
    step();
    cr_expect_eq(count_heard(FRAME_EXEC_INPUT, &first), 1);
    cr_expect_str_eq(first.data, "0123");
    tell_window(100);
    step();
    cr_expect_eq(count_heard(FRAME_EXEC_INPUT, &then), 3, "the rest, and the end");
    cr_expect_str_eq(then.data, "0123456789");
    finish();
}

Test(exec_stream, a_reader_that_stops_is_given_no_more)
{
    CLEANUP_TEXT struct text windows = TEXT_INIT, text = TEXT_INIT;
    static char bytes[16 * 1024];

    memset(bytes, 'x', sizeof bytes);
    start("{\"command\": [\"a\"]}", EXEC_LINES);
    step();
    cr_expect_eq(count_heard(FRAME_EXEC_WINDOW, &windows), 1, "the first");
    for (int i = 0; i < 4; i++)
        tell_output(1, bytes, sizeof bytes);
    char little[10];
    cr_expect_eq(body.next(body.context, little, sizeof little), (ssize_t)sizeof little);
    cr_expect_eq(count_heard(FRAME_EXEC_WINDOW, &windows), 1, "it has not gone out");
    cr_expect_eq(take(&body, &text), 0);
    cr_expect_gt(count_heard(FRAME_EXEC_WINDOW, &windows), 1);
    finish();
}

Test(exec_stream, a_cut_is_no_end)
{
    static const enum exec_form forms[] = {EXEC_LINES, EXEC_WHOLE};

    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        CLEANUP_TEXT struct text text = TEXT_INIT;
        start("{\"command\": [\"a\"]}", forms[i]);
        step();
        tell_output(1, "out", 3);
        (void)close(steal_fd(&supervisor));
        cr_expect_eq(take(&body, &text), -1);
        CLEANUP_JSON json_t *end = last_line(&text);
        cr_expect(json_is_null(json_object_get(end, "exit_code")), "%s", text.data);
        cr_expect(json_is_string(json_object_get(end, "reason")), "%s", text.data);
        finish();
    }
}

/* It may close before it has read what it was told; then a write fails, and what it said before is
 * still there to be read. */
Test(exec_stream, an_end_that_was_said_counts)
{
    static const enum exec_form forms[] = {EXEC_LINES, EXEC_WHOLE, EXEC_DETACHED};

    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        CLEANUP_TEXT struct text text = TEXT_INIT;
        start("{\"command\": [\"a\"]}", forms[i]);
        tell_end(EXEC_LOST, "too many");
        (void)close(steal_fd(&supervisor));
        cr_expect_eq(take(&body, &text), -1);
        CLEANUP_JSON json_t *end = last_line(&text);
        cr_expect_str_eq(json_member_string(end, "reason"), "too many", "%s", text.data);
        finish();
    }
}

Test(exec_stream, nonsense_is_a_cut)
{
    CLEANUP_TEXT struct text text = TEXT_INIT;

    start("{\"command\": [\"a\"]}", EXEC_LINES);
    step();
    tell_window(EXEC_WINDOW_MAX);
    tell_window(1);
    tell_end(0, "");
    cr_expect_eq(take(&body, &text), -1);
    CLEANUP_JSON json_t *end = last_line(&text);
    cr_expect(json_is_null(json_object_get(end, "exit_code")), "a window too wide");
    finish();
}

Test(exec_stream, a_whole_answer_in_pieces)
{
    CLEANUP_TEXT struct text text = TEXT_INIT, sent = TEXT_INIT;

    start("{\"command\": [\"a\"], \"max_output_bytes\": 100001}", EXEC_WHOLE);
    step();
    text_add(&sent, "x"); /* so that no piece ends where a letter does */
    while (sent.length < 8192)
        text_add(&sent, "\u00e9\"\n\u20ac");
    for (int i = 0; i < 13; i++) {
        tell_output(1, sent.data, sent.length);
        step();
    }
    tell_output(2, "\xff\xfe", 2);
    tell_end(7, "");
    cr_expect_eq(take(&body, &text), -1);
    CLEANUP_JSON json_t *end = last_line(&text);
    cr_assert(json_is_object(end), "%.200s", text.data);
    size_t length = strlen(json_member_string(end, "stdout"));
    cr_expect(length <= 100001 && length > 100001 - 4, "%zu", length);
    cr_expect_eq(memcmp(json_member_string(end, "stdout"), sent.data, sent.length), 0);
    cr_expect_str_eq(json_member_string(end, "stderr_base64"), "//4=");
    cr_expect(json_is_true(json_object_get(end, "truncated")));
    cr_expect_eq(json_member_integer(end, "exit_code", -1), 7);
    finish();
}

static void feed(const char *bytes, bool eof, struct stream *ret)
{
    struct problem problem = PROBLEM_INIT;

    cr_assert_eq(exec_feed_new("box", ID, bytes, strlen(bytes), eof, ret, &problem), 0, "%s",
                 problem.detail);
}

static void expect_refusal(const char *slug, const char *type)
{
    struct problem problem = PROBLEM_INIT;
    struct stream stream;

    cr_expect_eq(exec_feed_new(slug, ID, "x", 1, false, &stream, &problem), -1);
    cr_expect_str_eq(problem.type->name, type);
    problem_free(&problem);
}

Test(exec_stream, input_by_other_requests)
{
    CLEANUP_TEXT struct text answer = TEXT_INIT, given = TEXT_INIT;
    struct stream one, two;

    expect_refusal("box", "not-found");
    start("{\"command\": [\"a\"], \"stdin\": \"0\", \"stdin_open\": true}", EXEC_LINES);
    step();
    expect_refusal("another", "not-found");
    feed("1234", false, &one);
    cr_expect_eq(take(&one, &answer), 0, "nothing is taken yet");
    expect_refusal("box", "input-closed");
    tell_window(3);
    cr_expect_eq(take(&one, &answer), 0);
    tell_window(3);
    cr_expect_eq(take(&one, &answer), -1);
    cr_expect_str_eq(answer.data, "{\"written\":4,\"stdin_open\":true}\n");
    one.done(one.context);
    feed("5", true, &two);
    answer.length = 0;
    cr_expect_eq(take(&two, &answer), -1);
    cr_expect_str_eq(answer.data, "{\"written\":1,\"stdin_open\":false}\n");
    two.done(two.context);
    expect_refusal("box", "input-closed");
    cr_expect_eq(count_heard(FRAME_EXEC_INPUT, &given), 5);
    cr_expect_str_eq(given.data, "012345");
    finish();
    expect_refusal("box", "not-found");
}

/* Windows are found behind output that the client has not taken. */
Test(exec_stream, input_does_not_wait_for_output)
{
    CLEANUP_TEXT struct text answer = TEXT_INIT;
    struct stream one;

    start("{\"command\": [\"a\"], \"stdin_open\": true}", EXEC_LINES);
    feed("1", false, &one);
    for (int i = 0; i < 3; i++)
        tell_output(1, "output", 6);
    tell_window(1);
    cr_expect_eq(take(&one, &answer), -1);
    one.done(one.context);
    finish();
}

Test(exec_stream, a_client_that_leaves)
{
    CLEANUP_TEXT struct text signals = TEXT_INIT, answer = TEXT_INIT;
    struct stream one;

    start("{\"command\": [\"a\"], \"stdin_open\": true}", EXEC_LINES);
    step();
    feed("1", false, &one);
    body.done(body.context);
    cr_expect_eq(count_heard(FRAME_EXEC_SIGNAL, &signals), 1);
    cr_expect_eq(get_u32((const uint8_t *)signals.data), 9);
    cr_expect_eq(take(&one, &answer), -1);
    cr_expect_str_eq(answer.data, "{\"written\":0,\"stdin_open\":false}\n");
    one.done(one.context);
    (void)close(steal_fd(&supervisor));
}

Test(exec_stream, what_can_not_be_sent_is_the_end)
{
    struct exec_wire wire = {.out = TEXT_INIT};
    struct frame frame;
    int ends[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    wire.fd = ends[0];
    supervisor = ends[1];
    tell(FRAME_EXEC_OUTPUT, "\1x", 2);
    wire.out.failed = true;
    wire_flush(&wire);
    cr_expect(wire.deaf && wire.failed);
    cr_expect_eq(wire_take(&wire, &frame), 1, "what was said before is there");
    cr_expect_eq(wire_take(&wire, &frame), -1);
    wire_close(&wire);
    (void)close(steal_fd(&supervisor));
}

Test(exec_stream, all_together_are_bounded)
{
    static struct exec_stream *streams[EXEC_STREAMS_MAX + 1];
    struct problem problem = PROBLEM_INIT;
    size_t count = 0;

    for (int round = 0; round < 2; round++) {
        for (count = 0; count < COUNT_OF(streams); count++) {
            struct exec_spec spec = {.max_output_bytes = 8 << 20};
            streams[count] = exec_stream_new(NULL, "box", &spec, EXEC_WHOLE, &problem);
            if (!streams[count])
                break;
        }
        cr_expect_str_eq(problem.type->name, "too-many-execs");
        cr_expect(count > 16 && count <= EXEC_STREAMS_BYTES_MAX / (16 << 20), "%zu", count);
        for (size_t i = 0; i < count; i++)
            exec_stream_unref(streams[i]);
    }
}
