/* Heads of requests, and the front that lets them through: what comes out is the same however the
 * bytes are cut. (What each kind of fault is answered with is in tests/e2e/test_hygiene.py.) */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/util.h"
#include "server/front.h"

static enum head_fault_row fault_of(const char *bytes, size_t length)
{
    struct head head;

    switch (head_read(bytes, length, false, &head)) {
    case HEAD_MORE:
        return N_HEAD_FAULTS;
    case HEAD_WHOLE:
        return HEAD_OK;
    case HEAD_REFUSED:
        return head.fault;
    }
    return N_HEAD_FAULTS;
}

Test(head, every_fault_has_words)
{
    for (int i = HEAD_OK + 1; i < N_HEAD_FAULTS; i++) {
        cr_expect_not_null(head_faults[i].type, "row %d", i);
        cr_expect(head_faults[i].words && head_faults[i].words[0], "row %d", i);
    }
}

Test(head, framing)
{
    static const char request[] =
        "POST http://H/a HTTP/1.1\r\nhost: h\r\nContent-Length: 12 \r\n\r\n";
    struct head head;

    cr_assert_eq(head_read(request, strlen(request), false, &head), HEAD_WHOLE);
    cr_expect_eq(head.length, strlen(request));
    cr_expect_eq(head.body_length, 12);
    cr_expect_not(head.chunked);
    cr_expect_eq(head.origin_at, 5);
    cr_expect_eq(head.origin_length, strlen("http://H"));
    for (size_t i = 1; i < strlen(request); i++)
        cr_expect_eq(fault_of(request, i), N_HEAD_FAULTS, "%zu bytes are not the whole", i);
    cr_expect_eq(head_read(request, 20, true, &head), HEAD_REFUSED);
    cr_expect_eq(head.fault, HEAD_ENDS);
}

Test(head, every_byte_in_every_place)
{
    static const char good[] = "GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
    char bytes[sizeof good];

    /* A control character is let through nowhere, whatever else it breaks. */
    for (size_t at = 0; at < sizeof good - 1; at++)
        for (int c = 0; c < 0x20; c++) {
            memcpy(bytes, good, sizeof good);
            bytes[at] = (char)c;
            if (c == good[at] || (c == '\t' && at > 21 && good[at] != '\r' && good[at] != '\n'))
                continue;
            cr_expect_neq(fault_of(bytes, sizeof good - 1), HEAD_OK, "%02x at %zu", (unsigned)c,
                          at);
        }
}

Test(head, chunk_sizes)
{
    static const struct {
        const char *line;
        long long size; /* -1: none */
    } rows[] = {
        {"0", 0},
        {"1a", 26},
        {"FF", 255},
        {"0007", 7},
        {"5;a=b", 5},
        {"", -1},
        {" 5", -1},
        {"5 ", -1},
        {"-5", -1},
        {"0x5", -1},
        {"g", -1},
        {";a", -1},
        {"5;\x01", -1},
        {"fffffffffffffff", 0xfffffffffffffff},
        {"ffffffffffffffff", -1},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint64_t size = 0;
        int result = head_chunk_size(rows[i].line, strlen(rows[i].line), &size);
        cr_expect_eq(result, rows[i].size < 0 ? -1 : 0, "%s", rows[i].line);
        if (result == 0)
            cr_expect_eq(size, (uint64_t)rows[i].size, "%s", rows[i].line);
    }
}

/* --- The front ------------------------------------------------------------------------------ */

static ssize_t from_socket(void *context, char *out, size_t room)
{
    return recvfrom(*(int *)context, out, room, MSG_DONTWAIT, NULL, NULL);
}

/* Sends `bytes` in pieces of `step`, reads in pieces of `room`; what came out, and how many
 * requests. The caller frees. */
static char *through(const char *bytes, size_t length, size_t step, size_t room,
                     unsigned *ret_heads)
{
    int pair[2];
    char *out = calloc(1, length * 8 + 1024);
    size_t got = 0;
    bool found = true;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct front *front = front_open(pair[0], false, false);
    for (size_t at = 0; at < length || at == 0; at += step) {
        size_t piece = length - at < step ? length - at : step;
        cr_assert_eq(send(pair[1], bytes + at, piece, MSG_NOSIGNAL), (ssize_t)piece);
        for (;;) {
            ssize_t part =
                front_read(pair[0], false, from_socket, &pair[0], out + got, room, &found);
            cr_assert(found);
            if (part < 0)
                cr_assert_eq(errno, EAGAIN);
            if (part <= 0)
                break;
            got += (size_t)part;
        }
    }
    for (*ret_heads = 0; front_saw(front);)
        ++*ret_heads;
    front_close(front);
    (void)close(pair[0]);
    (void)close(pair[1]);
    return out;
}

Test(front, what_comes_out_is_the_same_however_it_is_cut)
{
    static const struct {
        const char *in, *out;
        unsigned heads;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1},
        {"\r\nGET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /b HTTP/1.1\r\nHost: a\r\n\r\n", 1},
        {"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1},
        {"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: "
         "a\r\n\r\n",
         "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: "
         "a\r\n\r\n",
         2},
        {"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
         "03;x=y\r\nabc\r\n0\r\nT: u\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
         "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
         "3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
         2},
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost : a\r\n\r\nGET / HTTP/1.1\r\n",
         "GET / HTTP/1.1\r\nHost: a\r\n\r\nHEAD !13 HTTP/1.1\r\nHost: -\r\nConnection: "
         "close\r\n\r\n",
         2},
        {"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
         "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nx", 1},
    };

    cr_assert_eq(HEAD_NAME, 13);
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (size_t step = 1; step < 200; step = step * 2 + 1)
            for (size_t room = 1; room < 5000; room = room * 3 + 1) {
                unsigned heads;
                CLEANUP_FREE char *out =
                    through(rows[i].in, strlen(rows[i].in), step, room, &heads);
                cr_expect_str_eq(out, rows[i].out, "row %zu, pieces of %zu and %zu", i, step, room);
                cr_expect_eq(heads, rows[i].heads);
            }
}

Test(front, refusals_have_numbers)
{
    char target[16];

    cr_expect_eq(front_refused("/"), HEAD_OK);
    cr_expect_eq(front_refused("*"), HEAD_OK);
    for (int i = HEAD_OK + 1; i < N_HEAD_FAULTS; i++) {
        (void)snprintf(target, sizeof target, "!%d", i);
        cr_expect_eq((int)front_refused(target), i);
    }
    cr_expect_neq(front_refused("!0"), HEAD_OK);
    cr_expect_neq(front_refused("!999"), HEAD_OK);
}

Test(front, without_one_nothing_is_read)
{
    bool found = true;
    char byte;

    cr_expect_eq(front_read(0, false, from_socket, NULL, &byte, 1, &found), 0);
    cr_expect_not(found);
    cr_expect_eq(front_saw(NULL), 0, "and no request was let through");
}
