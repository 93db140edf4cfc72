/* What decides and notes a bottle's egress, without a network: the matcher, request heads, TLS
 * hellos, the log. Most rows are hostile. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/rule_match.h"
#include "base/json.h"
#include "base/util.h"
#include "renderers/private_ranges.h"
#include "shim/egress_log.h"
#include "shim/protocol.h"
#include "shim/relay_request.h"
#include "shim/tls_hello.h"

/* ── rules ── */

static struct egress_rule *rules_of(const char *text, size_t *ret_count)
{
    CLEANUP_JSON json_t *list = json_parse(text, strlen(text), NULL);
    struct egress_rule *rules = NULL;
    struct error err = ERROR_INIT;

    cr_assert_eq(rules_decode(list, &rules, ret_count, &err), 0, "%s", err.text);
    return rules;
}

#define LABEL_63 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define NAME_253 LABEL_63 "." LABEL_63 "." LABEL_63 "." LABEL_63 "a"

static const struct {
    const char *host;
    int port;
    const char *rule; /* NULL: none */
} matches[] = {
    {"api.example.com", 443, "api.example.com"},
    {"api.example.com", 80, "api.example.com"},
    {"api.example.com", 8443, NULL},
    {"api.example.com", 0, NULL},
    {"API.Example.COM", 443, "api.example.com"},
    {"api.example.com.", 443, "api.example.com"},
    {"api.example.com..", 443, NULL},
    {".api.example.com", 443, NULL},
    {"api..example.com", 443, NULL},
    {"xapi.example.com", 443, NULL},
    {"api.example.com.evil.test", 443, NULL},
    {"api.example.comx", 443, NULL},
    {"user@api.example.com", 443, NULL},
    {"api.example.com:443", 443, NULL},
    {"api.example.com/", 443, NULL},
    {"api.example.com#", 443, NULL},
    {"api.example.com%2e", 443, NULL},
    {"api.example.com ", 443, NULL},
    {" api.example.com", 443, NULL},
    {"\xc3\xa4pi.example.com", 443, NULL},
    {"api\xe3\x80\x82"
     "example.com",
     443, NULL},
    {"www.example.org", 443, "*.example.org"},
    {"a.b.example.org.", 443, "*.example.org"},
    {"example.org", 443, NULL},
    {".example.org", 443, NULL},
    {"evilexample.org", 443, NULL},
    {"www.example.org.evil.test", 443, NULL},
    {"www.example.org", 22, NULL},
    {"git.test", 22, "git.test:22"},
    {"git.test", 443, NULL},
    {"192.0.2.1", 443, "192.0.2.1"},
    {"192.0.2.1.", 443, "192.0.2.1"},
    {"192.0.2.2", 443, NULL},
    {"192.0.2.01", 443, NULL},
    {"192.0.513", 443, NULL},
    {"3221225985", 443, NULL},
    {"0xc0000201", 443, NULL},
    {"0300.0.2.1", 443, NULL},
    {"192.0.2.0x1", 443, NULL},
    {"::ffff:192.0.2.1", 443, NULL},
    {"[::ffff:192.0.2.1]", 443, NULL},
    {"[192.0.2.1]", 443, NULL},
    {"192.0.2.1.example.org", 443, "*.example.org"},
    {"", 443, NULL},
    {".", 443, NULL},
    {"*", 443, NULL},
    {"*.example.org", 443, NULL},
    {NAME_253, 443, NULL},
    {NAME_253 "aa", 443, NULL},
    {"localhost", 443, NULL},
};

Test(rules, match)
{
    size_t count;
    struct egress_rule *rules = rules_of("[\"api.example.com\", \"*.Example.org.\", "
                                         "{\"host\": \"git.test:22\", \"private\": true}, "
                                         "\"192.0.2.1\"]",
                                         &count);

    for (size_t i = 0; i < COUNT_OF(matches); i++) {
        char text[RULE_TEXT_SIZE] = "none";
        const struct egress_rule *rule =
            rules_match(rules, count, matches[i].host, (uint16_t)matches[i].port);
        if (rule)
            rule_text(rule, text);
        cr_expect_str_eq(text, matches[i].rule ? matches[i].rule : "none", "%s:%d", matches[i].host,
                         matches[i].port);
    }
    cr_expect_null(rules_match(NULL, 0, "api.example.com", 443));
    rules_free(rules, count);
}

/* What can lead to no public address takes a rule that says so, a later one as well. */
Test(rules, private)
{
    static const struct {
        const char *host;
        bool is;
    } hosts[] = {
        {"0.0.0.0", true},
        {"9.255.255.255", false},
        {"10.0.0.0", true},
        {"10.255.255.255", true},
        {"11.0.0.0", false},
        {"100.63.255.255", false},
        {"100.64.0.0", true},
        {"100.127.255.255", true},
        {"100.128.0.0", false},
        {"127.0.0.1", true},
        {"172.15.255.255", false},
        {"172.31.255.255", true},
        {"172.32.0.0", false},
        {"192.0.1.0", false},
        {"192.169.0.0", false},
        {"198.19.255.255", true},
        {"223.255.255.255", false},
        {"224.0.0.1", true},
        {"255.255.255.255", true},
        {"::", true},
        {"::1", true},
        {"::2", false},
        {"::ffff:10.0.0.1", true},
        {"::ffff:9.9.9.9", false},
        {"64:ff9b::1", true},
        {"2002::1", true},
        {"2003::1", false},
        {"fdff::1", true},
        {"fe80::1", true},
        {"fec0::1", true},
        {"ff02::1", true},
        {"2001:db8::1", false},
        {"localhost", true},
        {"a.localhost", true},
        {"notlocalhost", false},
        {"localhost.example", false},
    };
    size_t count;

    for (size_t i = 0; i < COUNT_OF(hosts); i++)
        cr_expect_eq(host_is_private(hosts[i].host), hosts[i].is, "%s", hosts[i].host);
    struct egress_rule *rules = rules_of(
        "[\"10.0.0.1\", \"localhost\", {\"host\": \"10.0.0.1\", \"private\": true}]", &count);
    cr_expect_eq(rules_match(rules, count, "10.0.0.1", 443), &rules[2]);
    cr_expect_null(rules_match(rules, count, "LocalHost.", 443));
    rules_free(rules, count);
}

Test(rules, a_host_with_a_nul_is_none)
{
    char normal[RULE_HOST_MAX + 1] = "untouched";

    cr_expect_not_null(rule_host_normal("api.example.com\0.evil.test", 26, normal));
    cr_expect_str_eq(normal, "untouched");
}

Test(rules, a_list_that_is_none_is_refused)
{
    static const char *const lists[] = {"{}", "[1]", "[\"a b\"]", "[{}]", "[\"ok.test\", \"*\"]"};

    for (size_t i = 0; i < COUNT_OF(lists); i++) {
        CLEANUP_JSON json_t *list = json_parse(lists[i], strlen(lists[i]), NULL);
        struct egress_rule *rules = NULL;
        size_t count;
        cr_expect_eq(rules_decode(list, &rules, &count, NULL), -1, "%s", lists[i]);
    }
    cr_expect_eq(rules_decode(NULL, &(struct egress_rule *){NULL}, &(size_t){0}, NULL), -1);
}

/* ── request heads ── */

#define GOOD_HOST "\r\nHost: a.test\r\n"

static const struct {
    const char *head;
    const char *host; /* NULL: refused */
    int port;
} heads[] = {
    {"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", "a.test", 443},
    {"CONNECT a.test:22 HTTP/1.0\r\n\r\n", "a.test", 22},
    {"CONNECT a.test:443 HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "a.test", 443},
    {"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", "::1", 443},
    {"CONNECT 0x7f.1:443 HTTP/1.1\r\n\r\n", "0x7f.1", 443},
    {"CONNECT a.test HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test: HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test:0 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test:0443 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test:65536 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test:443x HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test:443:80 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT :443 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT u@a.test:443 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test:443@b.test:443 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT [::1:443 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT http://a.test:443 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\n", NULL, 0},
    {"CONNECT a.test:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", NULL, 0},
    {"CONNECT a.test:443 HTTP/2.0\r\n\r\n", NULL, 0},
    {"CONNECT a.test:443\r\n\r\n", NULL, 0},
    {"CONNECT  a.test:443 HTTP/1.1\r\n\r\n", NULL, 0},
    {"CONNECT a.test:443 HTTP/1.1 \r\n\r\n", NULL, 0},
    {"CONNECT a.t\xc3\xa4st:443 HTTP/1.1\r\n\r\n", NULL, 0},
    {" CONNECT a.test:443 HTTP/1.1\r\n\r\n", NULL, 0},
    {"PRI * HTTP/2.0\r\n\r\n", NULL, 0},
    {"\r\nGET http://a.test/ HTTP/1.1" GOOD_HOST "\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "\r\n", "a.test", 80},
    {"GET HTTP://A.test:80/x?y#z HTTP/1.1" GOOD_HOST "\r\n", "A.test", 80},
    {"GET http://a.test HTTP/1.1\r\nhost:\ta.test:80 \r\n\r\n", "a.test", 80},
    {"GET http://a.test:8080/ HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", "a.test", 8080},
    {"GET http://a.test?q HTTP/1.1" GOOD_HOST "\r\n", "a.test", 80},
    {"GET http://a.test/ HTTP/1.0\r\n\r\n", "a.test", 80},
    {"GET http://a.test/ HTTP/1.1\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1\r\nHost: a.test:81\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "Host: a.test\r\n\r\n", NULL, 0},
    {"GET http://u:p@a.test/ HTTP/1.1" GOOD_HOST "\r\n", NULL, 0},
    {"GET http://a.test\\@b.test/ HTTP/1.1" GOOD_HOST "\r\n", NULL, 0},
    {"GET http:///x HTTP/1.1" GOOD_HOST "\r\n", NULL, 0},
    {"GET / HTTP/1.1" GOOD_HOST "\r\n", NULL, 0},
    {"GET //a.test/ HTTP/1.1" GOOD_HOST "\r\n", NULL, 0},
    {"OPTIONS * HTTP/1.1" GOOD_HOST "\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", NULL,
     0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "Content-Length: +3\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "Content-Length: 3, 3\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "Content-Length:\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "Content-Length: 9999999999999999999\r\n\r\n", NULL,
     0},
    {"POST http://a.test/ HTTP/1.1" GOOD_HOST
     "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
     NULL, 0},
    {"POST http://a.test/ HTTP/1.1" GOOD_HOST
     "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
     NULL, 0},
    {"POST http://a.test/ HTTP/1.1" GOOD_HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", NULL, 0},
    {"POST http://a.test/ HTTP/1.1" GOOD_HOST "Transfer-Encoding : chunked\r\n\r\n", NULL, 0},
    {"POST http://a.test/ HTTP/1.1" GOOD_HOST "Transfer-Encoding: \vchunked\r\n\r\n", NULL, 0},
    {"POST http://a.test/ HTTP/1.0" GOOD_HOST "Transfer-Encoding: chunked\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "X: a\r\n folded\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "no colon\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST ": empty\r\n\r\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1\nHost: a.test\n\n", NULL, 0},
    {"GET http://a.test/ HTTP/1.1" GOOD_HOST "X: a\rb\r\n\r\n", NULL, 0},
    {"https", NULL, 0},
};

Test(request, heads)
{
    for (size_t i = 0; i < COUNT_OF(heads); i++) {
        struct proxy_request request = {0};
        size_t length = strlen(heads[i].head);
        int head = head_length(heads[i].head, length);
        bool good = head == (int)length && !request_read(heads[i].head, length, &request);
        cr_expect_eq(good, heads[i].host != NULL, "%s", heads[i].head);
        cr_expect_str_eq(request.host, heads[i].host ? heads[i].host : "", "%s", heads[i].head);
        cr_expect_eq(request.port, heads[i].port, "%s", heads[i].head);
        for (int cut = 0; cut < head; cut++) /* no part of it is taken for the whole */
            cr_expect_eq(head_length(heads[i].head, (size_t)cut), 0, "%s cut at %d", heads[i].head,
                         cut);
    }
    cr_expect_eq(head_length("GET a\0b", 7), -1);
}

Test(request, other_schemes_are_named)
{
    static const char head[] = "GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n";
    struct proxy_request request;

    cr_assert_null(request_read(head, sizeof head - 1, &request));
    cr_expect_eq(request.kind, REQUEST_OTHER);
    cr_expect_str_eq(request.host, "a.test");
}

Test(request, is_made_the_last_of_its_connection)
{
    static const char head[] = "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n"
                               "connection: keep-alive\r\nProxy-Connection: x\r\nKeep-Alive: 5\r\n"
                               "Content-Length: 7\r\n\r\n";
    char out[sizeof head + REQUEST_CLOSE_MORE];
    struct proxy_request request;

    size_t length = request_close(head, sizeof head - 1, out);
    out[length] = '\0';
    cr_expect_str_eq(out, "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n"
                          "Content-Length: 7\r\nConnection: close\r\n\r\n");
    cr_assert_null(request_read(out, length, &request));
    cr_expect_eq(request.body, 7);
    static const char bare[] = "GET http://a.test/ HTTP/1.0\r\n\r\n";
    char grown[sizeof bare - 1 + REQUEST_CLOSE_MORE];
    cr_expect_eq(request_close(bare, sizeof bare - 1, grown), sizeof grown);
}

Test(request, long_targets_are_bounded)
{
    char head[8000];
    struct proxy_request request;

    int length = snprintf(head, sizeof head, "CONNECT %0*d:443 HTTP/1.1\r\n\r\n", 7000, 1);
    cr_assert_null(request_read(head, (size_t)length, &request));
    cr_expect_eq(strlen(request.host), REQUEST_HOST_MAX);
}

Test(request, answers)
{
    cr_expect_eq(answer_status("HTTP/1.1 200 Connection established\r\n\r\n", 39), 200);
    cr_expect_eq(answer_status("HTTP/1.0 403\r\n\r\n", 16), 403);
    cr_expect_eq(answer_status("HTTP/1.1 2x0 OK\r\n\r\n", 19), -1);
    cr_expect_eq(answer_status("SSH-2.0-x\r\n\r\n\r\n", 15), -1);
    cr_expect_eq(answer_status("HTTP/1.1", 8), -1);
}

/* ── TLS hellos ── */

struct hello {
    uint8_t bytes[40000];
    size_t length;
};

static void put(struct hello *hello, size_t value, size_t width)
{
    while (width-- > 0)
        hello->bytes[hello->length++] = (uint8_t)(value >> (8 * width));
}

static void put_bytes(struct hello *hello, const void *bytes, size_t length)
{
    memcpy(hello->bytes + hello->length, bytes, length);
    hello->length += length;
}

/* A server_name extension. */
static void put_name(struct hello *hello, const char *name, size_t length)
{
    put(hello, 0, 2);
    put(hello, length + 5, 2);
    put(hello, length + 3, 2);
    put(hello, 0, 1);
    put(hello, length, 2);
    put_bytes(hello, name, length);
}

/* The handshake message around these extensions. */
static struct hello *message(const struct hello *extensions)
{
    struct hello *ret = calloc(1, sizeof *ret);

    put(ret, 1, 1);
    put(ret, 0, 3);
    put(ret, 0x0303, 2);
    ret->length += 32;
    put(ret, 0, 1);
    put(ret, 2, 2);
    put(ret, 0x1301, 2);
    put(ret, 1, 1);
    put(ret, 0, 1);
    if (extensions) {
        put(ret, extensions->length, 2);
        put_bytes(ret, extensions->bytes, extensions->length);
    }
    ret->bytes[2] = (uint8_t)((ret->length - 4) >> 8);
    ret->bytes[3] = (uint8_t)(ret->length - 4);
    return ret;
}

/* In records of at most `size` bytes. */
static struct hello *records(const struct hello *whole, size_t size)
{
    struct hello *ret = calloc(1, sizeof *ret);

    for (size_t at = 0; at < whole->length; at += size) {
        size_t here = whole->length - at < size ? whole->length - at : size;
        put(ret, 22, 1);
        put(ret, 0x0301, 2);
        put(ret, here, 2);
        put_bytes(ret, whole->bytes + at, here);
    }
    return ret;
}

static struct hello *named(const char *name, size_t length, size_t record)
{
    struct hello extensions = {0};

    put(&extensions, 0x2a2a, 2); /* grease */
    put(&extensions, 0, 2);
    put_name(&extensions, name, length);
    put(&extensions, 43, 2);
    put(&extensions, 3, 2);
    put(&extensions, 0x020304, 3);
    CLEANUP_FREE struct hello *whole = message(&extensions);
    return records(whole, record);
}

Test(hello, is_read_in_records_of_any_size_and_only_when_whole)
{
    static const size_t sizes[] = {1, 2, 3, 5, 16, 100, 16000};

    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        char name[TLS_NAME_MAX + 1] = "";
        CLEANUP_FREE struct hello *hello = named("Api.example.com", 15, sizes[i]);
        for (size_t cut = 0; cut < hello->length; cut++)
            cr_assert_eq(tls_hello_read(hello->bytes, cut, name), TLS_HELLO_MORE,
                         "records of %zu, %zu bytes", sizes[i], cut);
        cr_expect_eq(tls_hello_read(hello->bytes, hello->length, name), TLS_HELLO_NAME);
        cr_expect_str_eq(name, "Api.example.com");
        hello->bytes[hello->length] = 0x17; /* what follows is not looked at */
        cr_expect_eq(tls_hello_read(hello->bytes, hello->length + 1, name), TLS_HELLO_NAME);
    }
}

Test(hello, without_a_name)
{
    char name[TLS_NAME_MAX + 1] = "untouched";
    CLEANUP_FREE struct hello *bare = message(NULL), *in_records = records(bare, 1000);
    struct hello none = {0};
    CLEANUP_FREE struct hello *empty = message(&none), *in_records_too = records(empty, 7);

    cr_expect_eq(tls_hello_read(in_records->bytes, in_records->length, name), TLS_HELLO_NO_NAME);
    cr_expect_eq(tls_hello_read(in_records_too->bytes, in_records_too->length, name),
                 TLS_HELLO_NO_NAME);
    cr_expect_str_eq(name, "untouched");
}

Test(hello, other_protocols)
{
    static const char *const firsts[] = {"SSH-2.0-x\r\n", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0",
                                         "\x16\x02",      "\x80\x2e\x01",       "\x17\x03\x03"};

    for (size_t i = 0; i < COUNT_OF(firsts); i++)
        cr_expect_eq(tls_hello_read((const uint8_t *)firsts[i], strlen(firsts[i]),
                                    (char[TLS_NAME_MAX + 1]){0}),
                     TLS_HELLO_NONE, "row %zu", i);
}

static enum tls_hello read_extensions(const struct hello *extensions)
{
    CLEANUP_FREE struct hello *whole = message(extensions), *hello = records(whole, 1000);

    return tls_hello_read(hello->bytes, hello->length, (char[TLS_NAME_MAX + 1]){0});
}

Test(hello, names_that_are_none)
{
    struct hello twice = {0}, empty = {0}, with_nul = {0}, kind = {0}, two = {0}, none = {0},
                 more = {0};

    put_name(&twice, "a.test", 6);
    put_name(&twice, "b.test", 6);
    put_name(&empty, "", 0);
    put_name(&with_nul, "a.test\0.b.test", 14);
    put_name(&kind, "a.test", 6);
    kind.bytes[6] = 1;
    put(&two, 0, 2); /* one extension, two names */
    put(&two, 14, 2);
    put(&two, 12, 2);
    for (int i = 0; i < 2; i++) {
        put(&two, 0, 1);
        put(&two, 3, 2);
        put_bytes(&two, "a.b", 3);
    }
    put(&none, 0, 4);
    put_name(&more, "a.test", 6);
    more.bytes[3]++; /* a byte behind the list */
    put(&more, 0, 1);
    const struct hello *const rows[] = {&twice, &empty, &with_nul, &kind, &two, &none, &more};
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_expect_eq(read_extensions(rows[i]), TLS_HELLO_BROKEN, "row %zu", i);
}

/* Every length, and every other byte, made a lie: no read goes beyond the end (a sanitizer sees),
 * and no name comes out that is not in the bytes. */
Test(hello, lies)
{
    for (size_t record = 1; record < 200; record += 60) {
        CLEANUP_FREE struct hello *good = named("api.example.com", 15, record);
        for (size_t at = 0; at < good->length; at++) {
            static const uint8_t lies[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
            for (size_t i = 0; i < COUNT_OF(lies); i++) {
                char name[TLS_NAME_MAX + 1] = "";
                CLEANUP_FREE uint8_t *exact = malloc(good->length);
                memcpy(exact, good->bytes, good->length);
                exact[at] = lies[i];
                enum tls_hello found = tls_hello_read(exact, good->length, name);
                cr_expect(found == TLS_HELLO_NAME || name[0] == '\0');
                cr_expect(strlen(name) <= 15);
            }
        }
    }
}

Test(hello, is_bounded)
{
    static uint8_t endless[TLS_HELLO_MAX];

    memcpy(endless, "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc", 9);
    cr_expect_eq(tls_hello_read(endless, sizeof endless - 1, (char[TLS_NAME_MAX + 1]){0}),
                 TLS_HELLO_MORE);
    cr_expect_eq(tls_hello_read(endless, sizeof endless, (char[TLS_NAME_MAX + 1]){0}),
                 TLS_HELLO_BROKEN);
    endless[6] = 1; /* a message of 64 KiB and more */
    cr_expect_eq(tls_hello_read(endless, 9, (char[TLS_NAME_MAX + 1]){0}), TLS_HELLO_BROKEN);
    endless[3] = endless[4] = 0; /* an empty record */
    cr_expect_eq(tls_hello_read(endless, 5, (char[TLS_NAME_MAX + 1]){0}), TLS_HELLO_BROKEN);
}

/* ── the log ── */

static json_int_t number_of(const json_t *packet, const char *object, const char *key)
{
    return json_member_integer(json_object_get(packet, object), key, -1);
}

Test(log, like_notes_are_one_entry)
{
    struct egress_log *log = egress_log_new();
    struct egress_note note = {
        .verdict = RULE_ALLOWED, .host = "a.test", .port = 443, .rule = "*.test"};

    cr_expect_not(egress_log_has_news(log));
    egress_log_note(log, &note, 1000);
    egress_log_note(log, &note, 2000);
    note.again = true;
    note.bytes_out = 3;
    note.bytes_in = 4;
    egress_log_note(log, &note, 3000);
    CLEANUP_JSON json_t *packet = egress_log_take(log, CONTROL_PACKET_MAX);
    CLEANUP_FREE char *text = json_text(packet);
    cr_expect_str_eq(text, "{\"egress\":[{\"verdict\":\"allowed\",\"host\":\"a.test\",\"port\":443,"
                           "\"rule\":\"*.test\",\"why\":null,\"count\":2,\"bytes_out\":3,"
                           "\"bytes_in\":4,\"last_ms\":3000}],\"lost\":0,\"totals\":{\"allowed\":2,"
                           "\"denied\":0,\"bytes_out\":3,\"bytes_in\":4}}");
    cr_expect_not(egress_log_has_news(log));
    egress_log_free(log);
}

/* 10,000 hosts between two packets: bounded, and nothing is lost unsaid. */
Test(log, floods_are_bounded_and_counted)
{
    struct egress_log *log = egress_log_new();
    json_int_t told = 0, lost = 0;
    size_t packets = 0;
    char host[300];

    for (int i = 0; i < 10000; i++) {
        (void)snprintf(host, sizeof host, "%0250d", i);
        const struct egress_note note = {
            .verdict = RULE_DENIED, .host = host, .port = 443, .why = "no rule"};
        egress_log_note(log, &note, 1);
    }
    while (egress_log_has_news(log)) {
        CLEANUP_JSON json_t *packet = egress_log_take(log, CONTROL_PACKET_MAX);
        CLEANUP_FREE char *text = json_text(packet);
        cr_expect_leq(strlen(text), CONTROL_PACKET_MAX);
        told += (json_int_t)json_array_size(json_object_get(packet, "egress"));
        lost += json_member_integer(packet, "lost", 0);
        cr_expect_eq(number_of(packet, "totals", "denied"), 10000);
        cr_assert_lt(++packets, 10);
    }
    cr_expect_eq(told, EGRESS_ENTRIES);
    cr_expect_eq(told + lost, 10000);
    egress_log_free(log);
}

Test(log, no_log_is_none)
{
    egress_log_note(NULL, &(struct egress_note){.host = "a"}, 1);
    cr_expect_not(egress_log_has_news(NULL));
}
