/* The agent channel's frames and the start message: what is right passes whole, what is not is
 * refused, and no bytes whatever make the parsers read beside the buffer (run it under the
 * sanitizers: `make test-asan`). */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "guest/protocol.h"

/* A copy of exactly this size, so that a sanitizer sees a read past its end. The caller frees. */
static uint8_t *exact(const void *bytes, size_t length)
{
    uint8_t *copy = malloc(length ? length : 1);

    cr_assert_not_null(copy);
    if (length)
        memcpy(copy, bytes, length);
    return copy;
}

static int64_t parse(const void *bytes, size_t length, uint32_t max, struct frame *ret)
{
    uint8_t *copy = exact(bytes, length);
    int64_t size = frame_parse(copy, length, max, ret);

    free(copy);
    return size;
}

Test(protocol, u32_is_little_endian_and_round_trips)
{
    static const uint32_t values[] = {0, 1, 0xff, 0x100, 0x12345678, 0x80000000U, UINT32_MAX};
    uint8_t bytes[4];

    put_u32(bytes, 0x12345678);
    cr_assert_arr_eq(bytes, ((const uint8_t[]){0x78, 0x56, 0x34, 0x12}), 4);
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        put_u32(bytes, values[i]);
        cr_expect_eq(get_u32(bytes), values[i]);
    }
}

Test(protocol, a_frame_round_trips_and_leaves_what_follows)
{
    uint8_t bytes[FRAME_HEADER_SIZE + 5 + 3];
    struct frame frame;

    frame_header(bytes, FRAME_OUTPUT, 5);
    memcpy(bytes + FRAME_HEADER_SIZE,
           "\1abcd"
           "xyz",
           8);
    cr_assert_eq(frame_parse(bytes, sizeof bytes, GUEST_PAYLOAD_MAX, &frame),
                 FRAME_HEADER_SIZE + 5);
    cr_expect_eq(frame.type, FRAME_OUTPUT);
    cr_expect_eq(frame.length, 5);
    cr_expect_eq(frame.payload, bytes + FRAME_HEADER_SIZE);
}

Test(protocol, an_empty_payload_is_a_whole_frame)
{
    uint8_t bytes[FRAME_HEADER_SIZE];
    struct frame frame;

    frame_header(bytes, FRAME_STARTED, 0);
    cr_assert_eq(parse(bytes, sizeof bytes, 0, &frame), FRAME_HEADER_SIZE);
    cr_expect_eq(frame.type, FRAME_STARTED);
    cr_expect_eq(frame.length, 0);
}

Test(protocol, every_part_of_a_frame_asks_for_more)
{
    uint8_t bytes[FRAME_HEADER_SIZE + 40] = {0};
    struct frame frame = {.type = FRAME_HELLO, .length = 77};

    frame_header(bytes, FRAME_FAILED, 40);
    for (size_t length = 0; length < sizeof bytes; length++)
        cr_expect_eq(parse(bytes, length, GUEST_PAYLOAD_MAX, &frame), 0, "%zu bytes", length);
    cr_expect_eq(frame.length, 77, "the result is untouched until a frame is whole");
    cr_expect_eq(parse(bytes, sizeof bytes, GUEST_PAYLOAD_MAX, &frame), (int64_t)sizeof bytes);
}

Test(protocol, a_length_over_the_bound_is_refused_from_the_header_alone)
{
    static const struct {
        uint32_t length, max;
        int64_t expected;
    } rows[] = {
        {GUEST_PAYLOAD_MAX, GUEST_PAYLOAD_MAX, 0},
        {GUEST_PAYLOAD_MAX + 1, GUEST_PAYLOAD_MAX, -1},
        {1, 0, -1},
        {START_PAYLOAD_MAX, START_PAYLOAD_MAX, 0},
        {START_PAYLOAD_MAX + 1, START_PAYLOAD_MAX, -1},
        {0x7fffffff, GUEST_PAYLOAD_MAX, -1},
        {0x80000000U, GUEST_PAYLOAD_MAX, -1},
        {UINT32_MAX, GUEST_PAYLOAD_MAX, -1},
        {UINT32_MAX - 7, START_PAYLOAD_MAX, -1},
    };
    uint8_t bytes[FRAME_HEADER_SIZE];
    struct frame frame;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        frame_header(bytes, FRAME_OUTPUT, rows[i].length);
        cr_expect_eq(parse(bytes, sizeof bytes, rows[i].max, &frame), rows[i].expected, "row %zu",
                     i);
    }
}

Test(protocol, a_reserved_byte_that_is_not_zero_is_refused)
{
    struct frame frame;

    for (size_t at = 5; at < FRAME_HEADER_SIZE; at++) {
        uint8_t bytes[FRAME_HEADER_SIZE];
        frame_header(bytes, FRAME_HELLO, 0);
        bytes[at] = 1;
        cr_expect_eq(parse(bytes, sizeof bytes, GUEST_PAYLOAD_MAX, &frame), -1, "byte %zu", at);
    }
}

/* --- START --------------------------------------------------------------------------------- */

struct payload {
    uint8_t bytes[1024];
    size_t length;
};

static void add_string(struct payload *payload, const char *string)
{
    size_t size = strlen(string) + 1;

    cr_assert_leq(payload->length + size, sizeof payload->bytes);
    memcpy(payload->bytes + payload->length, string, size);
    payload->length += size;
}

static void add_number(struct payload *payload, uint32_t number)
{
    put_u32(payload->bytes + payload->length, number);
    payload->length += 4;
}

/* The counts, and then the strings, of which the first five are the machine's. */
static struct payload strings_payload(uint32_t n_args, uint32_t n_env, const char *const *strings)
{
    struct payload payload = {.length = 8};

    put_u32(payload.bytes, n_args);
    put_u32(payload.bytes + 4, n_env);
    for (; *strings; strings++)
        add_string(&payload, *strings);
    return payload;
}

/* With what is fresh: a time, an address, and bytes that count; and no mounts. */
static struct payload start_payload(uint32_t n_args, uint32_t n_env, const char *const *strings)
{
    struct payload payload = strings_payload(n_args, n_env, strings);
    uint8_t *fresh = payload.bytes + payload.length;

    cr_assert_leq(payload.length + START_FRESH_SIZE, sizeof payload.bytes);
    put_u64(fresh, 0x123456789abcdef0U);
    memcpy(fresh + 8, "\x5a\x94\xef\0\0\x02\0\0", 8);
    for (int i = 0; i < START_ENTROPY_SIZE; i++)
        fresh[16 + i] = (uint8_t)(i + 1);
    payload.length += START_FRESH_SIZE;
    add_number(&payload, 4096); /* files */
    add_number(&payload, 0);    /* mounts */
    return payload;
}

static int parse_start(const struct payload *payload)
{
    uint8_t *copy = exact(payload->bytes, payload->length);
    struct start_message message = {0};
    int result = start_message_parse(copy, payload->length, &message);

    if (result == 0)
        start_message_free(&message);
    free(copy);
    return result;
}

#define MACHINE "box", "192.168.50.2", "192.168.50.1", "/work dir", "app:staff"

Test(protocol, a_start_message_gives_every_string_back)
{
    static const char *const strings[] = {
        MACHINE, "sh", "", "-c \n\"'$HOME\\ ", "A=", "B= x \xc3\xbf\x01\x7f ", "=", NULL};
    struct payload payload = start_payload(3, 3, strings);
    struct start_message message;

    cr_assert_eq(start_message_parse(payload.bytes, payload.length, &message), 0);
    cr_expect_str_eq(message.hostname, "box");
    cr_expect_str_eq(message.address, "192.168.50.2");
    cr_expect_str_eq(message.gateway, "192.168.50.1");
    cr_expect_str_eq(message.workdir, "/work dir");
    cr_expect_str_eq(message.user, "app:staff");
    cr_expect_eq(message.n_args, 3);
    cr_expect_eq(message.n_env, 3);
    for (size_t i = 0; i < 3; i++) {
        cr_expect_str_eq(message.args[i], strings[5 + i]);
        cr_expect_str_eq(message.env[i], strings[8 + i]);
    }
    cr_expect_null(message.args[3]);
    cr_expect_null(message.env[3]);
    cr_expect_eq(message.wall_ms, 0x123456789abcdef0U);
    cr_expect_arr_eq(message.mac, "\x5a\x94\xef\0\0\x02", 6);
    cr_expect_eq(message.entropy[0], 1);
    cr_expect_eq(message.entropy[START_ENTROPY_SIZE - 1], START_ENTROPY_SIZE);
    start_message_free(&message);
    start_message_free(&message); /* a second time is harmless */
}

Test(protocol, an_empty_environment_is_fine_but_a_command_is_needed)
{
    static const char *const strings[] = {MACHINE, "true", NULL};
    static const char *const no_command[] = {MACHINE, NULL};
    struct payload payload = start_payload(1, 0, strings);

    cr_expect_eq(parse_start(&payload), 0);
    payload = start_payload(0, 0, no_command);
    cr_expect_eq(parse_start(&payload), -1);
    payload = start_payload(0, 1, strings);
    cr_expect_eq(parse_start(&payload), -1);
}

Test(protocol, counts_that_lie_are_refused)
{
    static const char *const strings[] = {MACHINE, "a", "b", "C=d", NULL};
    static const uint32_t counts[][2] = {
        {1, 1},
        {2, 0},
        {3, 1},
        {2, 2},
        {UINT32_MAX, 1},
        {2, UINT32_MAX},
        {UINT32_MAX, 4},
        {UINT32_MAX, UINT32_MAX},
        {0x80000000U, 1},
        {0x3fffffff, 1},
        {0x20000000, 0x20000000},
    };

    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct payload payload = start_payload(counts[i][0], counts[i][1], strings);
        cr_expect_eq(parse_start(&payload), -1, "row %zu", i);
    }
    struct payload right = start_payload(2, 1, strings);
    cr_expect_eq(parse_start(&right), 0);
}

Test(protocol, a_start_message_cut_anywhere_is_refused)
{
    static const char *const strings[] = {MACHINE, "a", "b", "C=d", NULL};
    const struct payload whole = start_payload(2, 1, strings);
    struct payload cut = whole;

    for (cut.length = 0; cut.length < whole.length; cut.length++)
        cr_expect_eq(parse_start(&cut), -1, "cut at %zu", cut.length);
    cut = whole;
    cut.bytes[cut.length++] = 0;
    cr_expect_eq(parse_start(&cut), -1, "something after the end");
}

/* --- SECRETS ------------------------------------------------------------------------------- */

static struct payload secrets_payload(uint32_t count, const char *const *strings)
{
    struct payload payload = {.length = SECRETS_FIXED_SIZE};

    put_u32(payload.bytes, 7);
    put_u32(payload.bytes + 4, 1);
    put_u32(payload.bytes + 8, count);
    for (; *strings; strings++)
        add_string(&payload, *strings);
    return payload;
}

static int parse_secrets(const struct payload *payload)
{
    uint8_t *copy = exact(payload->bytes, payload->length);
    struct secrets_message message = {0};
    int result = secrets_message_parse(copy, payload->length, &message);

    if (result == 0)
        secrets_message_free(&message);
    free(copy);
    return result;
}

Test(protocol, secrets_come_as_variables)
{
    static const char *const strings[] = {"A=", "B==x\n", NULL};
    static const char *const none[] = {NULL};
    struct payload payload = secrets_payload(2, strings);
    struct secrets_message message;

    cr_assert_eq(secrets_message_parse(payload.bytes, payload.length, &message), 0);
    cr_expect_eq(message.id, 7);
    cr_expect_eq(message.signal, 1);
    cr_expect_eq(message.count, 2);
    cr_expect_str_eq(message.items[1], "B==x\n");
    cr_expect_null(message.items[2]);
    secrets_message_free(&message);
    secrets_message_free(&message);
    payload = secrets_payload(0, none);
    cr_expect_eq(parse_secrets(&payload), 0);
}

Test(protocol, secrets_that_lie_are_refused)
{
    static const char *const good[] = {"A=b", "B=c", NULL};
    static const char *const bad[][3] = {{"A=b", "B"}, {"=b", "B=c"}, {"", "B=c"}};
    static const uint32_t counts[] = {0, 1, 3, UINT32_MAX, 0x40000000};

    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct payload payload = secrets_payload(2, bad[i]);
        cr_expect_eq(parse_secrets(&payload), -1, "row %zu", i);
    }
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct payload payload = secrets_payload(counts[i], good);
        cr_expect_eq(parse_secrets(&payload), -1, "count %zu", i);
    }
    const struct payload whole = secrets_payload(2, good);
    struct payload cut = whole;
    for (cut.length = 0; cut.length < whole.length; cut.length++)
        cr_expect_eq(parse_secrets(&cut), -1, "cut at %zu", cut.length);
}

/* --- */

Test(protocol, mounts_are_the_last_part_of_a_start_message)
{
    static const char *const strings[] = {MACHINE, "a", NULL};
    struct payload whole = start_payload(1, 0, strings);
    struct start_message message;

    whole.length -= 4;
    add_number(&whole, 2);
    add_number(&whole, MOUNT_READ_ONLY);
    add_string(&whole, "fs0");
    add_string(&whole, "/work dir");
    add_number(&whole, 0);
    add_string(&whole, "fs1");
    add_string(&whole, "/b");
    cr_assert_eq(start_message_parse(whole.bytes, whole.length, &message), 0);
    cr_assert_eq(message.n_mounts, 2);
    cr_expect_eq(message.files_max, 4096);
    cr_expect_str_eq(message.mounts[0].tag, "fs0");
    cr_expect_str_eq(message.mounts[0].target, "/work dir");
    cr_expect_eq(message.mounts[0].flags, MOUNT_READ_ONLY);
    cr_expect_str_eq(message.mounts[1].target, "/b");
    cr_expect_eq(message.mounts[1].flags, 0);
    start_message_free(&message);
    struct payload cut = whole;
    for (cut.length = 0; cut.length < whole.length; cut.length++)
        cr_expect_eq(parse_start(&cut), -1, "cut at %zu", cut.length);
}

Test(protocol, mounts_that_lie_are_refused)
{
    static const char *const strings[] = {MACHINE, "a", NULL};
    static const uint32_t rows[][2] = {
        {START_MOUNTS_MAX + 1, 0}, {UINT32_MAX, 0}, {1, 2}, {1, 0x80000001U}, {2, 0}};

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct payload payload = start_payload(1, 0, strings);
        payload.length -= 4;
        add_number(&payload, rows[i][0]);
        add_number(&payload, rows[i][1]);
        add_string(&payload, "fs0");
        add_string(&payload, "/t");
        cr_expect_eq(parse_start(&payload), -1, "row %zu", i);
    }
}

/* --- EXEC ---------------------------------------------------------------------------------- */

/* `counts`: the number of arguments and of variables; the first string is the work directory. */
static struct payload exec_payload(uint32_t flags, const uint32_t counts[2],
                                   const char *const *strings)
{
    struct payload payload = {.length = EXEC_FIXED_SIZE};

    put_u32(payload.bytes, 7);
    put_u32(payload.bytes + 4, flags);
    put_u32(payload.bytes + 8, 60000);
    put_u16(payload.bytes + 12, 24);
    put_u16(payload.bytes + 14, 65535);
    put_u32(payload.bytes + 16, counts[0]);
    put_u32(payload.bytes + 20, counts[1]);
    for (; *strings; strings++)
        add_string(&payload, *strings);
    return payload;
}

static int parse_exec(const struct payload *payload)
{
    uint8_t *copy = exact(payload->bytes, payload->length);
    struct exec_message message = {0};
    int result = exec_message_parse(copy, payload->length, &message);

    if (result == 0)
        exec_message_free(&message);
    free(copy);
    return result;
}

static const char *const exec_strings[] = {"/work dir", "sh", "", "A=", "B= x \xff\n", "=", NULL};
static const uint32_t exec_counts[2] = {2, 3};

Test(protocol, an_exec_message_gives_all_back)
{
    struct payload payload = exec_payload(EXEC_TERMINAL | EXEC_STDIN, exec_counts, exec_strings);
    struct exec_message message;

    cr_assert_eq(exec_message_parse(payload.bytes, payload.length, &message), 0);
    cr_expect(message.id == 7 && message.flags == (EXEC_TERMINAL | EXEC_STDIN));
    cr_expect(message.timeout_ms == 60000 && message.rows == 24 && message.columns == 65535);
    cr_expect_str_eq(message.workdir, "/work dir");
    cr_assert(message.n_args == 2 && message.n_env == 3);
    for (size_t i = 0; i < 2; i++)
        cr_expect_str_eq(message.args[i], exec_strings[1 + i]);
    for (size_t i = 0; i < 3; i++)
        cr_expect_str_eq(message.env[i], exec_strings[3 + i]);
    cr_expect(!message.args[2] && !message.env[3]);
    exec_message_free(&message);
    exec_message_free(&message); /* a second time is harmless */
}

Test(protocol, an_exec_message_cut_anywhere_is_refused)
{
    const struct payload whole = exec_payload(0, exec_counts, exec_strings);
    struct payload cut = whole;

    for (cut.length = 0; cut.length < whole.length; cut.length++)
        cr_expect_eq(parse_exec(&cut), -1, "cut at %zu", cut.length);
    cut = whole;
    cr_expect_eq(parse_exec(&cut), 0);
    cut.bytes[cut.length++] = 0;
    cr_expect_eq(parse_exec(&cut), -1, "something after the end");
}

Test(protocol, an_exec_message_that_lies_is_refused)
{
    static const uint32_t counts[][2] = {{0, 5},          {1, 3},          {2, 2},
                                         {3, 3},          {UINT32_MAX, 3}, {2, UINT32_MAX},
                                         {UINT32_MAX, 6}, {0x80000000U, 3}};

    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct payload payload = exec_payload(0, counts[i], exec_strings);
        cr_expect_eq(parse_exec(&payload), -1, "row %zu", i);
    }
    for (uint32_t flag = EXEC_FLAGS + 1; flag; flag <<= 1) {
        struct payload payload = exec_payload(flag, exec_counts, exec_strings);
        cr_expect_eq(parse_exec(&payload), -1, "flag %x", flag);
    }
}

/* --- Random bytes -------------------------------------------------------------------------- */

/* xorshift32: the same numbers in each run, so that a failure can be looked at again. */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

Test(protocol, random_bytes_never_crash_the_frame_parser)
{
    uint32_t state = 20260102;
    uint8_t bytes[64];

    for (int round = 0; round < 100000; round++) {
        size_t length = next_random(&state) % sizeof bytes;
        struct frame frame = {0};
        for (size_t i = 0; i < length; i++)
            bytes[i] = (uint8_t)next_random(&state);
        if (length >= FRAME_HEADER_SIZE && round % 2) /* half of them nearly right */
            frame_header(bytes, (enum frame_type)(next_random(&state) % 80),
                         next_random(&state) % 70);
        int64_t size = parse(bytes, length, 48, &frame);
        cr_assert(size >= -1 && size <= (int64_t)length, "round %d: %lld", round, (long long)size);
        if (size > 0)
            cr_assert_eq(size, (int64_t)FRAME_HEADER_SIZE + frame.length, "round %d", round);
    }
}

Test(protocol, random_changes_never_crash_the_start_parser)
{
    static const char *const strings[] = {MACHINE, "sh", "-c", "true", "A=b", "C=d", NULL};
    const struct payload right = start_payload(3, 2, strings);
    uint32_t state = 7;

    for (int round = 0; round < 100000; round++) {
        struct payload payload = right;
        uint32_t changes = 1 + next_random(&state) % 8;
        for (uint32_t i = 0; i < changes; i++)
            payload.bytes[next_random(&state) % payload.length] =
                next_random(&state) % 3 ? (uint8_t)next_random(&state) : 0;
        if (round % 3 == 0)
            payload.length = next_random(&state) % (payload.length + 1);
        (void)parse_start(&payload);
    }
}

Test(protocol, random_changes_never_crash_the_exec_parser)
{
    const struct payload right = exec_payload(0, exec_counts, exec_strings);
    uint32_t state = 77;

    for (int round = 0; round < 100000; round++) {
        struct payload payload = right;
        uint32_t changes = 1 + next_random(&state) % 8;
        for (uint32_t i = 0; i < changes; i++)
            payload.bytes[next_random(&state) % payload.length] =
                next_random(&state) % 3 ? (uint8_t)next_random(&state) : 0;
        if (round % 3 == 0)
            payload.length = next_random(&state) % (payload.length + 1);
        (void)parse_exec(&payload);
    }
}
