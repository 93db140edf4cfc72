/* Copies of files, bottled's part, with a supervisor and a guest that are played here. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/text.h"
#include "base/util.h"
#include "guest/files.h"
#include "guest/protocol.h"
#include "server/engine.h"
#include "server/request.h"
#include "server/transfer.h"

static struct app served;
static int supervisor = -1;
static bool refuses;
static struct transfer *transfer;
static struct problem problem;

/* In place of the engine's. */
void engine_exec(struct app *app, const char *slug, int theirs, engine_exec_done *done,
                 void *context)
{
    cr_assert(app == &served && strcmp(slug, "box") == 0);
    problem_set(&problem, "wrong-state", "not now");
    supervisor = refuses ? -1 : theirs;
    done(context, -1, refuses ? NULL : "0123456789abcdef", refuses ? &problem : NULL);
    if (refuses)
        (void)close(theirs);
    problem_free(&problem);
}

static void start(enum transfer_verb verb)
{
    const struct transfer_plan plan = {.verb = verb, .path = "/a", .mode = "644", .owner = "1:2"};

    served.config.files_max_bytes = 1 << 20;
    served.config.files_timeout_ms = 60000;
    transfer = transfer_new(&served, "box", &plan, &problem);
    cr_assert_not_null(transfer, "%s", problem.detail);
}

static void finish(void)
{
    transfer_unref(transfer);
    if (supervisor >= 0)
        (void)close(supervisor);
    supervisor = -1;
    problem_free(&problem);
}

static void tell(enum frame_type type, const void *payload, size_t length)
{
    uint8_t head[FRAME_HEADER_SIZE + 4] = {0};

    frame_header(head, type, (uint32_t)(4 + length));
    cr_assert_eq(write(supervisor, head, sizeof head), (ssize_t)sizeof head);
    cr_assert_eq(write(supervisor, payload, length), (ssize_t)length);
}

static void tell_output(uint8_t stream, const char *bytes)
{
    CLEANUP_TEXT struct text payload = TEXT_INIT;

    text_add_bytes(&payload, &stream, 1);
    text_add(&payload, bytes);
    tell(FRAME_EXEC_OUTPUT, payload.data, payload.length);
}

static void tell_window(uint32_t bytes)
{
    uint8_t payload[4];

    put_u32(payload, bytes);
    tell(FRAME_EXEC_WINDOW, payload, sizeof payload);
}

static void tell_end(uint32_t code)
{
    uint8_t payload[9] = {0};

    put_u32(payload, code);
    tell(FRAME_EXEC_EXIT, payload, sizeof payload);
}

static void expect_failure(const char *type, const char *words)
{
    problem_free(&problem);
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_FAILED);
    cr_assert_not_null(problem.type);
    cr_expect_str_eq(problem.type->name, type);
    cr_expect(strstr(problem.detail, words), "%s", problem.detail);
}

/* What the client gets, and how it ends. */
static ssize_t take_all(char *ret, size_t size)
{
    size_t length = 0;
    ssize_t got;

    while ((got = transfer_next(transfer, ret + length, size - 1 - length)) > 0)
        length += (size_t)got;
    ret[length] = '\0';
    return got;
}

Test(transfer, asks_as_the_guest_has_it)
{
    static const char expected[] = "\0put\0/a\0"
                                   "644\0"
                                   "1:2";
    uint8_t bytes[512];
    struct frame frame;

    start(TRANSFER_PUT);
    ssize_t got = read(supervisor, bytes, sizeof bytes);
    int64_t size = frame_parse(bytes, (size_t)got, START_PAYLOAD_MAX, &frame);
    cr_assert(size > 0 && frame.type == FRAME_EXEC);
    struct exec_message message;
    cr_assert_eq(exec_message_parse(frame.payload, frame.length, &message), 0);
    cr_expect(message.flags == (EXEC_FILES | EXEC_STDIN) && message.n_args == 4 && !message.n_env);
    cr_expect_eq(memcmp(frame.payload + EXEC_FIXED_SIZE, expected, sizeof expected), 0);
    exec_message_free(&message);
    cr_expect(frame_parse(bytes + size, (size_t)(got - size), START_PAYLOAD_MAX, &frame) > 0 &&
              frame.type == FRAME_EXEC_WINDOW);
    finish();
}

Test(transfer, a_file_comes_out)
{
    char bytes[64];

    start(TRANSFER_GET);
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_WAITS);
    tell_output(1, "file 5 4755 1");
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_WAITS);
    tell_output(1, "00 4294967295 -1\nhel");
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_READY);
    const struct transfer_head *head = transfer_head(transfer);
    cr_expect(head->sized && head->size == 5 && head->mode == 04755 && head->uid == 100);
    cr_expect(head->gid == 4294967295U && head->modified == 0);
    cr_expect_eq(take_all(bytes, sizeof bytes), 0);
    cr_expect_str_eq(bytes, "hel");
    tell_output(1, "lo");
    tell_end(FILES_DONE);
    cr_expect_eq(take_all(bytes, sizeof bytes), STREAM_END);
    cr_expect_str_eq(bytes, "lo");
    finish();
}

Test(transfer, what_is_not_all_is_cut)
{
    static const struct {
        const char *head, *more;
        uint32_t code;
        const char *got;
    } rows[] = {
        {"file 5 644 0 0 0\nhell", NULL, FILES_DONE, "hell"},
        {"file 5 644 0 0 0\nhell", NULL, FILES_FAILED, "hell"},
        {"file 5 644 0 0 0\nhellos", NULL, FILES_DONE, "hello"},
        {"file 5 644 0 0 0\nhello", "s", FILES_DONE, "hello"},
        {"file - 644 0 0 0\nhell", NULL, FILES_FAILED, "hell"},
        {"file - 644 0 0 0\nhell", NULL, EXEC_LOST, "hell"},
    };
    char bytes[64];

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        start(TRANSFER_GET);
        tell_output(1, rows[i].head);
        if (rows[i].more)
            tell_output(1, rows[i].more);
        tell_end(rows[i].code);
        cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_READY, "row %zu", i);
        cr_expect_eq(take_all(bytes, sizeof bytes), STREAM_CUT, "row %zu", i);
        cr_expect_str_eq(bytes, rows[i].got, "row %zu", i);
        finish();
    }
}

Test(transfer, a_supervisor_that_goes_cuts)
{
    char bytes[64];

    start(TRANSFER_PACK);
    tell_output(1, "archive\nabc");
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_READY);
    (void)close(supervisor);
    supervisor = -1;
    cr_expect_eq(take_all(bytes, sizeof bytes), STREAM_CUT);
    cr_expect_str_eq(bytes, "abc");
    finish();
}

Test(transfer, outcomes_are_problems)
{
    static const struct {
        uint32_t code;
        const char *type;
    } rows[] = {
        {FILES_MISSING, "file-not-found"}, {FILES_REFUSED, "file-refused"},
        {FILES_FULL, "guest-full"},        {FILES_BAD_ARCHIVE, "archive-refused"},
        {FILES_FAILED, "files-failed"},    {137, "files-failed"},
        {EXEC_LOST, "files-failed"},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        start(i % 2 ? TRANSFER_PUT : TRANSFER_GET);
        tell_output(2, "why \033 not");
        tell_end(rows[i].code);
        expect_failure(rows[i].type, "box: why ? not");
        finish();
    }
}

Test(transfer, a_refusal_of_the_engine)
{
    refuses = true;
    start(TRANSFER_UNPACK);
    struct pollfd fd = {.fd = *transfer_fd(transfer), .events = POLLIN};
    cr_expect_eq(poll(&fd, 1, 0), 1, "whoever waits wakes");
    expect_failure("wrong-state", "not now");
    cr_expect_eq(transfer_put(transfer, "x", 1), -1);
    finish();
}

Test(transfer, input_within_the_window)
{
    static char bytes[300000];

    start(TRANSFER_PUT);
    cr_expect_eq(transfer_put(transfer, bytes, sizeof bytes), 0, "nothing is granted yet");
    tell_window(40000);
    cr_expect_eq(transfer_put(transfer, bytes, sizeof bytes), 40000);
    cr_expect_eq(transfer_put(transfer, bytes, sizeof bytes), 0);
    tell_window(5);
    cr_expect_eq(transfer_put(transfer, bytes, sizeof bytes), 5);
    transfer_end_input(transfer);
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_WAITS);
    tell_end(FILES_DONE);
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_READY);
    finish();
}

Test(transfer, a_window_too_large_is_a_lie)
{
    start(TRANSFER_PUT);
    tell_window(EXEC_WINDOW_MAX + 1);
    cr_expect_eq(transfer_put(transfer, "x", 1), -1);
    expect_failure("files-failed", "protocol");
    finish();
}

Test(transfer, more_than_may_be)
{
    static char bytes[(1 << 20) + 1];

    start(TRANSFER_UNPACK);
    cr_expect_eq(transfer_put(transfer, bytes, sizeof bytes), -1);
    expect_failure("file-too-large", "files_max_bytes");
    finish();
}

Test(transfer, a_guest_that_lets_wait)
{
    start(TRANSFER_GET);
    served.config.files_timeout_ms = 20;
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_WAITS);
    (void)poll(NULL, 0, 40);
    expect_failure("timeout", "files_timeout");
    finish();
}

Test(transfer, what_an_archive_did)
{
    uint64_t counts[3];

    start(TRANSFER_UNPACK);
    transfer_end_input(transfer);
    tell_output(1, "unpacked 1 22 333\n");
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_WAITS);
    tell_end(FILES_DONE);
    cr_expect_eq(transfer_look(transfer, &problem), TRANSFER_READY);
    transfer_counts(transfer, counts);
    cr_expect(counts[0] == 1 && counts[1] == 22 && counts[2] == 333);
    finish();
}

Test(transfer, only_so_many)
{
    struct transfer *all[TRANSFERS_MAX];
    const struct transfer_plan plan = {.verb = TRANSFER_GET, .path = "/a"};

    for (size_t i = 0; i < COUNT_OF(all); i++) {
        start(TRANSFER_GET);
        all[i] = transfer;
        (void)close(supervisor);
    }
    cr_expect_null(transfer_new(&served, "box", &plan, &problem));
    cr_expect_str_eq(problem.type->name, "too-many-copies");
    problem_free(&problem);
    for (size_t i = 0; i < COUNT_OF(all); i++)
        transfer_unref(all[i]);
    supervisor = -1;
    start(TRANSFER_GET);
    finish();
}
