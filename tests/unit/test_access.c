/* The single proofs of who a client is: token files, the store of tokens, Host and Origin, counted
 * attempts, sessions. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/util.h"
#include "server/attempts.h"
#include "server/auth.h"
#include "server/origin.h"
#include "server/sessions.h"
#include "server/tokens.h"

static int load_token(const char *bytes, mode_t mode, struct auth *auth)
{
    char path[] = "/tmp/bottled-token-XXXXXX";
    int fd = mkstemp(path);

    cr_assert_eq(write_all(fd, bytes, strlen(bytes)), 0);
    cr_assert_eq(fchmod(fd, mode), 0);
    (void)close(fd);
    int result = auth_load(path, auth, NULL);
    (void)unlink(path);
    return result;
}

Test(auth, token_files)
{
    struct auth auth = {0};
    char digest[SHA256_HEX_SIZE];

    cr_expect_eq(load_token("0123456789abcdef\n", 0644, &auth), -1);
    cr_expect_eq(load_token("0123456789abcdef\n", 0640, &auth), -1);
    cr_expect_eq(load_token("short\n", 0600, &auth), -1);
    cr_expect_eq(load_token("", 0600, &auth), -1);
    cr_expect_eq(load_token("0123456789 abcdef\n", 0600, &auth), -1);
    cr_assert_eq(load_token("0123456789abcdef\r\nsecond line\n", 0600, &auth), 0);
    sha256_hex("0123456789abcdef", 16, digest);
    cr_expect(auth.has_token);
    cr_expect_str_eq(auth.token_digest, digest);
    cr_assert_eq(auth_load("", &auth, NULL), 0);
    cr_expect_not(auth.has_token);
}

Test(auth, bearers)
{
    static const struct {
        const char *header, *token;
    } rows[] = {
        {"Bearer abc", "abc"}, {"bearer  abc", "abc"}, {"Bearer ", ""}, {"Bearer abc ", "abc "},
        {"Bearer", NULL},      {"Basic abc", NULL},    {"abc", NULL},   {"", NULL},
        {NULL, NULL}};

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const char *token = auth_bearer(rows[i].header);
        cr_expect_eq(!token, !rows[i].token, "%zu", i);
        if (token && rows[i].token)
            cr_expect_str_eq(token, rows[i].token);
    }
}

Test(auth, hosts)
{
    static const struct {
        const char *local, *names, *host;
        bool tls, fits;
    } rows[] = {
        {"127.0.0.1:8080", "", "127.0.0.1:8080", false, true},
        {"127.0.0.1:8080", "", "localhost:8080", false, true},
        {"127.0.0.1:8080", "", "LocalHost:8080", true, true},
        {"127.0.0.1:8080", "", "127.0.0.1", false, false},
        {"127.0.0.1:8080", "", "localhost", false, false},
        {"127.0.0.1:8080", "", "127.0.0.1:8081", false, false},
        {"127.0.0.1:8080", "", "evil.example:8080", false, false},
        {"127.0.0.1:8080", "", "localhost.evil.example:8080", false, false},
        {"127.0.0.1:8080", "", "", false, false},
        {"127.0.0.1:8080", "", NULL, false, false},
        {"127.0.0.1:80", "", "localhost", false, true},
        {"127.0.0.1:80", "", "localhost", true, false},
        {"127.0.0.1:443", "", "localhost", true, true},
        {"127.0.0.1:80", "", "127.0.0.1", false, true},
        {"127.0.0.1:80", "", "127.0.0.2", false, false},
        {"[::1]:8080", "", "[::1]:8080", false, true},
        {"[::1]:8080", "", "localhost:8080", false, true},
        {"[::1]:80", "", "[::1]", false, true},
        {"[::ffff:127.0.0.1]:80", "", "127.0.0.1", false, true},
        {"192.0.2.1:8443", "", "192.0.2.1:8443", true, true},
        {"192.0.2.1:8443", "", "localhost:8443", true, false},
        {"192.0.2.1:8443", "a.example,b.example:9000", "a.example:8443", true, true},
        {"192.0.2.1:8443", "a.example,b.example:9000", "a.example", true, false},
        {"192.0.2.1:443", "a.example,b.example:9000", "A.example", true, true},
        {"192.0.2.1:8443", "a.example,b.example:9000", "b.example:9000", true, true},
        {"192.0.2.1:8443", "a.example,b.example:9000", "b.example:8443", true, false},
        {"192.0.2.1:8443", "a.example,b.example:9000", "xa.example:8443", true, false},
        {"192.0.2.1:8443", "a.example,b.example:9000", "a.example.evil:8443", true, false},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        union address local;
        cr_assert_gt(address_parse(rows[i].local, &local), 0);
        cr_expect_eq(host_fits(&local, rows[i].tls, rows[i].names, rows[i].host), rows[i].fits,
                     "%s %s", rows[i].local, rows[i].host ? rows[i].host : "-");
    }
}

Test(auth, origins)
{
    static const struct {
        const char *origin, *host;
        bool tls, same;
    } rows[] = {
        {"http://127.0.0.1:8080", "127.0.0.1:8080", false, true},
        {"https://127.0.0.1:8080", "127.0.0.1:8080", false, true},
        {"https://127.0.0.1:8080", "127.0.0.1:8080", true, true},
        {"http://127.0.0.1:8080", "127.0.0.1:8080", true, false},
        {"http://127.0.0.1:8081", "127.0.0.1:8080", false, false},
        {"http://127.0.0.1:8080.evil", "127.0.0.1:8080", false, false},
        {"http://evil.example", "127.0.0.1:8080", false, false},
        {"null", "127.0.0.1:8080", false, false},
        {"", "", false, false},
        {"http://", NULL, false, false},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_expect_eq(origin_is_same(rows[i].origin, rows[i].host, rows[i].tls), rows[i].same, "%zu",
                     i);
    cr_expect(list_has("https://a,https://b", "https://a"));
    cr_expect(list_has("https://a,https://b", "https://b"));
    cr_expect_not(list_has("https://a,https://b", "https://"));
    cr_expect_not(list_has("https://a,https://b", "https://a,https://b"));
    cr_expect_not(list_has("", ""));
}

Test(auth, addresses)
{
    static const struct {
        const char *text, *again; /* NULL: none */
        bool loopback;
    } rows[] = {
        {"127.0.0.1:80", "127.0.0.1:80", true},
        {"localhost:80", "127.0.0.1:80", true},
        {"127.9.9.9:0", "127.9.9.9:0", true},
        {"[::1]:8080", "[::1]:8080", true},
        {"0.0.0.0:80", "0.0.0.0:80", false},
        {"[::]:80", "[::]:80", false},
        {"[0:0::1]:80", "[::1]:80", true},
        {"[::ffff:127.0.0.1]:80", "127.0.0.1:80", true},
        {"[::ffff:9.9.9.9]:80", "9.9.9.9:80", false},
        {"127.1:80", NULL, false},
        {"127.0.0.1", NULL, false},
        {"127.0.0.1:65536", NULL, false},
        {"::1:80", NULL, false},
        {"[::1:80", NULL, false},
        {"example.org:80", NULL, false},
        {":80", NULL, false},
        {"", NULL, false},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        union address address;
        char again[ADDRESS_SIZE];
        cr_expect_eq(address_parse(rows[i].text, &address) > 0, rows[i].again != NULL, "%s",
                     rows[i].text);
        if (!rows[i].again)
            continue;
        address_format(&address, again);
        cr_expect_str_eq(again, rows[i].again);
        cr_expect_eq(address_is_loopback(&address), rows[i].loopback, "%s", rows[i].text);
    }
}

/* --- The store ------------------------------------------------------------------------------ */

static void value_digest(const char *value, char ret[SHA256_HEX_SIZE])
{
    sha256_hex(value, strlen(value), ret);
}

Test(tokens, come_and_go_under_a_watch)
{
    char folder[] = "/tmp/bottled-tokens-XXXXXX";
    char first[TOKEN_VALUE_SIZE], second[TOKEN_VALUE_SIZE], digest[SHA256_HEX_SIZE];
    struct token_watch watch;
    struct error err = ERROR_INIT;

    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(watch_open(&watch, folder, &err), 0);
    cr_expect_eq(watch.tokens.count, 0);
    cr_assert_eq(token_create(folder, "one", ROLE_READ, 0, first, &err), 0, "%s", err.text);
    cr_assert_eq(token_create(folder, "two", ROLE_ADMIN, 1000, second, &err), 0, "%s", err.text);
    cr_expect_str_neq(first, second);
    cr_expect_eq(strlen(first), TOKEN_VALUE_SIZE - 1);
    watch_refresh(&watch);
    cr_assert_eq(watch.tokens.count, 2);
    value_digest(second, digest);
    const struct token *token = token_find(watch.tokens.rows, watch.tokens.count, digest);
    cr_assert_not_null(token);
    cr_expect_str_eq(token->name, "two");
    cr_expect_eq(token->role, ROLE_ADMIN);
    cr_expect(token_expired(token, 1000));
    cr_expect_not(token_expired(token, 999));
    value_digest(first, digest);
    cr_expect_not(token_expired(token_find(watch.tokens.rows, 2, digest), INT64_MAX));
    digest[0] ^= 1;
    cr_expect_null(token_find(watch.tokens.rows, watch.tokens.count, digest));
    cr_assert_eq(token_revoke(folder, "one", &err), 0);
    watch_refresh(&watch);
    cr_expect_eq(watch.tokens.count, 1);
    cr_expect_null(token_named(&watch.tokens, "one"));
    cr_expect_eq(token_revoke(folder, "one", &err), -1);
    cr_expect_str_eq(err.kind, "not-found");
    watch_close(&watch);
    (void)directory_remove(folder, NULL, NULL);
}

Test(tokens, are_bounded)
{
    char folder[] = "/tmp/bottled-tokens-XXXXXX", name[16], value[TOKEN_VALUE_SIZE];
    struct error err = ERROR_INIT;

    cr_assert_not_null(mkdtemp(folder));
    for (int i = 0; i < TOKENS_MAX; i++) {
        (void)snprintf(name, sizeof name, "t%d", i);
        cr_assert_eq(token_create(folder, name, ROLE_READ, 0, value, &err), 0, "%s", err.text);
    }
    cr_expect_eq(token_create(folder, "more", ROLE_READ, 0, value, &err), -1);
    cr_expect_not_null(strstr(err.text, "revoke one first"));
    (void)directory_remove(folder, NULL, NULL);
}

Test(tokens, names)
{
    static const char *const valid[] = {"a", "ci", "9", "a.b_c-d"};
    static const char *const wrong[] = {"", "A", "-a", ".a", "a b", "a/b", "\xc3\xa4"};
    char longest[IDENTITY_NAME_SIZE + 1];

    for (size_t i = 0; i < COUNT_OF(valid); i++)
        cr_expect(token_name_valid(valid[i]), "%s", valid[i]);
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        cr_expect_not(token_name_valid(wrong[i]), "%s", wrong[i]);
    memset(longest, 'a', sizeof longest);
    longest[IDENTITY_NAME_SIZE] = '\0';
    cr_expect_not(token_name_valid(longest));
    longest[IDENTITY_NAME_SIZE - 1] = '\0';
    cr_expect(token_name_valid(longest));
}

/* --- Attempts and sessions ------------------------------------------------------------------ */

static union address peer(const char *text)
{
    union address ret;

    cr_assert_gt(address_parse(text, &ret), 0);
    return ret;
}

Test(attempts, wait_for_the_end_of_their_minute)
{
    static struct attempts attempts;
    const union address one = peer("127.0.0.1:1"), again = peer("127.0.0.1:2"),
                        two = peer("127.0.0.2:1");

    for (int i = 0; i < 3; i++) {
        cr_expect_eq(attempts_wait_ms(&attempts, &one, 3, 5000 + i), 0);
        attempts_add(&attempts, i % 2 ? &again : &one, 5000 + i);
    }
    cr_expect_eq(attempts_wait_ms(&attempts, &again, 3, 5003), 59997);
    cr_expect_eq(attempts_wait_ms(&attempts, &two, 3, 5003), 0);
    cr_expect_eq(attempts_wait_ms(&attempts, &one, 3, 64999), 1);
    cr_expect_eq(attempts_wait_ms(&attempts, &one, 3, 65000), 0);
    attempts_add(&attempts, &one, 65000);
    cr_expect_eq(attempts_wait_ms(&attempts, &one, 2, 65001), 0, "counted anew");
}

Test(attempts, count_a_network_of_ipv6_as_one)
{
    static struct attempts attempts;
    const union address one = peer("[2001:db8::1]:1"), near = peer("[2001:db8::2]:1"),
                        far = peer("[2001:db8:0:1::1]:1");

    attempts_add(&attempts, &one, 1);
    cr_expect_gt(attempts_wait_ms(&attempts, &near, 1, 2), 0);
    cr_expect_eq(attempts_wait_ms(&attempts, &far, 1, 2), 0);
}

Test(attempts, full_table_lets_the_oldest_go)
{
    static struct attempts attempts;
    char text[32];

    for (int i = 0; i <= ATTEMPTS_PEERS; i++) {
        (void)snprintf(text, sizeof text, "10.0.%d.%d:1", i / 256, i % 256);
        const union address one = peer(text);
        attempts_add(&attempts, &one, 100 + i);
    }
    const union address oldest = peer("10.0.0.0:1"), second = peer("10.0.0.1:1");
    cr_expect_eq(attempts_wait_ms(&attempts, &oldest, 1, 1000), 0);
    cr_expect_gt(attempts_wait_ms(&attempts, &second, 1, 1000), 0);
}

Test(sessions, are_bounded_in_number_and_time)
{
    static struct sessions sessions;
    char cookie[SHA256_HEX_SIZE], digest[SHA256_HEX_SIZE], first[SHA256_HEX_SIZE];
    char token[SHA256_HEX_SIZE], other[SHA256_HEX_SIZE];

    value_digest("token", token);
    value_digest("other", other);
    for (int i = 0; i <= SESSIONS_OF_TOKEN; i++) {
        cr_assert_not_null(session_open(&sessions, token, 100, 1000, cookie, NULL));
        value_digest(cookie, digest);
        if (i == 0)
            memcpy(first, digest, sizeof first);
    }
    cr_expect_null(session_find(&sessions, first, 200), "the oldest of that token went");
    struct session *session = session_find(&sessions, digest, 200);
    cr_assert_not_null(session);
    cr_expect_str_eq(session->token_digest, token);
    cr_expect_str_neq(session->csrf, cookie);
    cr_expect_str_neq(session->digest, cookie);
    cr_expect_null(session_find(&sessions, digest, 1000), "its time is over");
    cr_assert_not_null(session_open(&sessions, other, 300, 1000, cookie, NULL));
    cr_expect_not_null(session_find(&sessions, digest, 400));
    session_close(session);
    cr_expect_null(session_find(&sessions, digest, 400));
}

Test(sessions, full_table_lets_the_oldest_go)
{
    static struct sessions sessions;
    char cookie[SHA256_HEX_SIZE], first[SHA256_HEX_SIZE], token[SHA256_HEX_SIZE], name[16];

    for (int i = 0; i <= SESSIONS_MAX; i++) {
        (void)snprintf(name, sizeof name, "token %d", i);
        value_digest(name, token);
        cr_assert_not_null(session_open(&sessions, token, 100, 9000, cookie, NULL));
        if (i == 0)
            value_digest(cookie, first);
    }
    cr_expect_null(session_find(&sessions, first, 1000));
    value_digest(cookie, first);
    cr_expect_not_null(session_find(&sessions, first, 1000));
}
