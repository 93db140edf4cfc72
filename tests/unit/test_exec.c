/* The supervisor between bottled and the guest, both of them played here: what is passed on, what
 * is stopped, and what is kept. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "shim/supervisor_internal.h"

enum { HEAD = FRAME_HEADER_SIZE + 4, TURN_MS = 30 };

static char directory[64];
static struct supervisor *sup;
static struct launch launch = {.token = "secret"};
static int guest, bottled;
static bool broken; /* the guest broke the protocol */

static json_t *no_status(void *context)
{
    (void)context;
    return json_object();
}

static void on_frame(void *context, const struct frame *frame)
{
    broken = broken || exec_frame(context, frame) < 0;
}

static void on_end(void *context, const char *why)
{
    (void)why;
    execs_lost(context, "gone");
}

static void on_room(void *context)
{
    execs_go_on(context);
}

static void begin(void)
{
    const struct control_owner owner = {.status = no_status};

    (void)snprintf(directory, sizeof directory, "/tmp/bottled-unit-XXXXXX");
    cr_assert(mkdtemp(directory) && chdir(directory) == 0);
    sup = calloc(1, sizeof *sup);
    cr_assert_not_null(sup);
    sup->loop = loop_new(NULL);
    sup->phase = PHASE_RUNNING;
    sup->control = control_new(sup->loop, &launch, &owner, NULL);
    cr_assert_not_null(sup->control);
    sup->agent.on_frame = on_frame;
    sup->agent.on_end = on_end;
    sup->agent.on_room = on_room;
    sup->agent.context = sup;
    cr_assert_eq(agent_open(&sup->agent, sup->loop, &guest, NULL), 0);
}

static void end(void)
{
    execs_free(sup);
    agent_close(&sup->agent);
    control_free(sup->control);
    loop_free(sup->loop);
    free(sup);
    (void)close(guest);
    (void)unlink("shim.sock");
    if (chdir("/") == 0)
        (void)rmdir(directory);
}

static void quit(struct loop_timer *timer)
{
    loop_quit(timer->data);
}

/* Lets the supervisor work. */
static void turn(void)
{
    struct loop_timer timer = {.callback = quit, .data = sup->loop};

    loop_timer_set(sup->loop, &timer, clock_monotonic_ms() + TURN_MS);
    cr_assert_eq(loop_run(sup->loop, NULL), 0);
}

static void say(int fd, enum frame_type type, uint32_t id, const void *rest, size_t length)
{
    uint8_t bytes[HEAD + EXEC_INPUT_MAX + 64];

    cr_assert_leq(HEAD + length, sizeof bytes);
    frame_header(bytes, type, (uint32_t)(4 + length));
    put_u32(bytes + FRAME_HEADER_SIZE, id);
    if (length)
        memcpy(bytes + HEAD, rest, length);
    (void)send(fd, bytes, HEAD + length, MSG_NOSIGNAL);
}

static void say_number(int fd, enum frame_type type, uint32_t id, uint32_t number)
{
    uint8_t bytes[4];

    put_u32(bytes, number);
    say(fd, type, id, bytes, sizeof bytes);
}

/* The next frame that is there: its type, 0 at the end of the stream, -1 when there is none. What
 * comes after the id is in `rest`. */
static int hear(int fd, uint8_t rest[EXEC_INPUT_MAX + 64], uint32_t *ret_id, size_t *ret_length)
{
    uint8_t head[HEAD];
    ssize_t got = recv(fd, head, sizeof head, MSG_DONTWAIT);

    if (got <= 0)
        return got == 0 || errno == ECONNRESET ? 0 : -1;
    cr_assert_eq(got, HEAD);
    *ret_length = get_u32(head) - 4;
    *ret_id = get_u32(head + FRAME_HEADER_SIZE);
    cr_assert_leq(*ret_length, EXEC_INPUT_MAX + 64);
    if (*ret_length)
        cr_assert_eq(recv(fd, rest, *ret_length, 0), (ssize_t)*ret_length);
    return head[4];
}

static uint8_t rest[EXEC_INPUT_MAX + 64];
static uint32_t id;
static size_t length;

#define EXPECT(fd, type, number)                                                                   \
    do {                                                                                           \
        cr_assert_eq(hear(fd, rest, &id, &length), type);                                          \
        cr_assert_eq(get_u32(rest), (uint32_t)(number));                                           \
    } while (0)

/* An exec; the guest has got it as number `id`. */
static void open_exec(uint32_t flags)
{
    static const char strings[] = "\0true"; /* and its NUL */
    uint8_t fixed[EXEC_FIXED_SIZE - 4 + sizeof strings] = {0};
    int ends[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    bottled = ends[0];
    exec_request(sup, "0123456789abcdef", ends[1]);
    put_u32(fixed, flags);
    put_u32(fixed + 12, 1);
    memcpy(fixed + EXEC_FIXED_SIZE - 4, strings, sizeof strings);
    say(bottled, FRAME_EXEC, 0, fixed, sizeof fixed);
    turn();
    cr_assert_eq(hear(guest, rest, &id, &length), FRAME_EXEC);
    cr_assert(length == sizeof fixed && memcmp(rest, fixed, length) == 0);
}

static void say_exit(uint32_t number, uint32_t code, uint32_t signal_number)
{
    uint8_t bytes[9 + 4] = {[9] = 'w', [10] = 'h', [11] = 'y', [12] = '.'};

    put_u32(bytes, code);
    put_u32(bytes + 4, signal_number);
    say(guest, FRAME_EXEC_EXIT, number, bytes, sizeof bytes);
    turn();
}

static void expect_result(const char *state, json_int_t code)
{
    CLEANUP_JSON json_t *told = exec_result_encode(sup, "0123456789abcdef");

    cr_expect_str_eq(json_member_string(told, "state"), state);
    cr_expect_eq(json_member_integer(told, "exit_code", -1), code);
}

Test(exec, passes_on_both_ways_and_ends, .init = begin, .fini = end)
{
    open_exec(EXEC_STDIN);
    uint32_t number = id;
    say_number(bottled, FRAME_EXEC_WINDOW, 0, 1000);
    say_number(guest, FRAME_EXEC_WINDOW, number, 500);
    turn();
    EXPECT(guest, FRAME_EXEC_WINDOW, 1000);
    cr_expect_eq(id, number);
    EXPECT(bottled, FRAME_EXEC_WINDOW, 500);
    cr_expect_eq(id, 0, "bottled knows no numbers");
    say(bottled, FRAME_EXEC_INPUT, 0, "in", 2);
    say(guest, FRAME_EXEC_OUTPUT, number, "\2out", 4);
    turn();
    cr_assert(hear(guest, rest, &id, &length) == FRAME_EXEC_INPUT && length == 2);
    cr_assert(hear(bottled, rest, &id, &length) == FRAME_EXEC_OUTPUT && length == 4);
    expect_result("running", -1);
    say_exit(number, 3, 0);
    EXPECT(bottled, FRAME_EXEC_EXIT, 3);
    cr_expect_eq(length, 13);
    cr_expect_eq(hear(bottled, rest, &id, &length), 0, "nothing comes after");
    expect_result("ended", 3);
    cr_expect(!broken && sup->execs.count == 0);
}

Test(exec, a_window_is_given_in_pieces_as_bottled_reads, .init = begin, .fini = end)
{
    static const uint8_t bytes[EXEC_INPUT_MAX + 1] = {1};
    size_t given = 0, taken = 0;

    open_exec(0);
    uint32_t number = id;
    say_number(bottled, FRAME_EXEC_WINDOW, 0, EXEC_WINDOW_MAX);
    turn();
    while (hear(guest, rest, &id, &length) == FRAME_EXEC_WINDOW) {
        uint32_t more = get_u32(rest);
        cr_assert_leq(more, 16 * 1024);
        given += more;
        say(guest, FRAME_EXEC_OUTPUT, number, bytes, 1 + more);
        turn();
        if (hear(bottled, rest, &id, &length) == FRAME_EXEC_OUTPUT)
            taken += length - 1;
    }
    cr_expect(given == EXEC_WINDOW_MAX && taken == given && !broken);
    say(guest, FRAME_EXEC_OUTPUT, number, "\1x", 2);
    turn();
    cr_expect(broken, "more than that is not taken");
    (void)close(bottled);
}

Test(exec, what_bottled_may_not_say_is_stopped, .init = begin, .fini = end)
{
    static const struct {
        uint32_t flags, type, size;
    } rows[] = {
        {0, FRAME_EXEC_INPUT, 0},
        {EXEC_STDIN, FRAME_EXEC_INPUT, 1},
        {0, FRAME_EXEC_WINDOW, 4},
        {0, FRAME_EXEC_WINDOW, 3},
        {0, FRAME_EXEC_SIGNAL, 4},
        {0, FRAME_EXEC_SIGNAL, 8},
        {0, FRAME_EXEC_RESIZE, 3},
        {0, FRAME_EXEC, 40},
        {EXEC_TERMINAL, FRAME_EXEC_OUTPUT, 2},
        {0, FRAME_EXEC_EXIT, 9},
        {0, FRAME_POWEROFF, 0},
    };
    static const uint8_t zeros[64];

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        open_exec(rows[i].flags);
        uint32_t number = id;
        say(bottled, (enum frame_type)rows[i].type, 0, zeros, rows[i].size);
        turn();
        /* It runs on, and what it prints is thrown away. */
        EXPECT(guest, FRAME_EXEC_WINDOW, 16 * 1024);
        cr_expect_eq(hear(guest, rest, &id, &length), -1, "row %zu", i);
        cr_expect_eq(hear(bottled, rest, &id, &length), 0, "row %zu", i);
        (void)close(bottled);
        say_exit(number, 0, 0);
    }
    cr_expect(!broken && sup->execs.count == 0);
}

Test(exec, the_last_words_before_a_close_are_heard, .init = begin, .fini = end)
{
    open_exec(0);
    uint32_t number = id;
    say_number(bottled, FRAME_EXEC_WINDOW, 0, 10);
    turn();
    EXPECT(guest, FRAME_EXEC_WINDOW, 10);
    say_number(bottled, FRAME_EXEC_SIGNAL, 0, 9);
    (void)close(bottled);
    /* The supervisor finds out by writing. */
    const uint8_t output[HEAD + 2] = {6, [4] = FRAME_EXEC_OUTPUT, [8] = (uint8_t)number, [12] = 1};
    struct frame frame;
    cr_assert_gt(frame_parse(output, sizeof output, 64, &frame), 0);
    cr_assert_eq(exec_frame(sup, &frame), 0);
    turn();
    EXPECT(guest, FRAME_EXEC_WINDOW, 16 * 1024 - 9);
    EXPECT(guest, FRAME_EXEC_SIGNAL, 9);
    say_exit(number, 137, 9);
    expect_result("ended", 137);
    cr_expect(!broken && sup->execs.count == 0);
}

Test(exec, a_lost_one_is_no_exit, .init = begin, .fini = end)
{
    open_exec(0);
    execs_lost(sup, "the bottle ended first");
    turn();
    EXPECT(bottled, FRAME_EXEC_EXIT, EXEC_LOST);
    cr_expect_eq(hear(bottled, rest, &id, &length), 0);
    (void)close(bottled);
    CLEANUP_JSON json_t *told = exec_result_encode(sup, "0123456789abcdef");
    cr_expect(json_is_null(json_object_get(told, "exit_code")));
    cr_expect_str_eq(json_member_string(told, "reason"), "the bottle ended first");
}

Test(exec, what_the_guest_may_not_say, .init = begin, .fini = end)
{
    static const struct {
        uint32_t code, signal_number;
    } rows[] = {{256, 0}, {EXEC_LOST, 0}, {0, 65}};

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        open_exec(0);
        broken = false;
        say_exit(id, rows[i].code, rows[i].signal_number);
        cr_expect(broken, "row %zu", i);
        cr_expect_eq(hear(bottled, rest, &id, &length), -1, "row %zu: that is no end", i);
        (void)close(bottled);
        turn();
        while (hear(guest, rest, &id, &length) > 0)
            ;
    }
    broken = false;
    say_exit(sup->execs.last_number + 1, 0, 0);
    cr_expect(broken, "an id that was never given");
}

Test(exec, only_the_last_results_are_kept, .init = begin, .fini = end)
{
    char name[EXEC_ID_LENGTH + 1];

    sup->phase = PHASE_STOPPING; /* each is refused at once, and that is its result */
    for (unsigned i = 0; i < EXEC_RESULTS_MAX + 1; i++) {
        int ends[2];
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        (void)snprintf(name, sizeof name, "%016x", i);
        exec_request(sup, name, ends[1]);
        EXPECT(ends[0], FRAME_EXEC_EXIT, EXEC_LOST);
        (void)close(ends[0]);
    }
    static const char *const states[] = {"unknown", "ended"};
    for (unsigned i = 0; i < COUNT_OF(states); i++) {
        (void)snprintf(name, sizeof name, "%016x", i);
        CLEANUP_JSON json_t *told = exec_result_encode(sup, name);
        cr_expect_str_eq(json_member_string(told, "state"), states[i]);
    }
    cr_expect_eq(sup->execs.count, 0);
}
