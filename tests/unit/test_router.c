/* The route table, walked row by row; the router's verdicts; request targets; Accept; log files. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/text.h"
#include "base/util.h"
#include "server/accept.h"
#include "server/log_reader.h"
#include "server/routes.h"
#include "server/uri.h"

static enum route_verdict find(const char *method, const char *target, struct route_match *match)
{
    struct uri uri = {0};
    const char *why = NULL;

    cr_assert_eq(uri_parse(target, &uri, &why), 0, "%s: %s", target, why);
    enum route_verdict verdict = route_find(method, &uri, match);
    /* The values of parameters lie in the uri. */
    uri_free(&uri);
    return verdict;
}

/* The pattern with its parameters filled in. */
static void fill_in(const char *pattern, char *ret, size_t size)
{
    static const struct {
        const char *name, *value;
    } parameters[] = {{"{slug}", "my-bottle"},
                      {"{name}", "gvproxy.yaml"},
                      {"{exec}", "0123456789abcdef"},
                      {"{id}", "0123456789abcdef"}};
    size_t length = 0;

    while (*pattern && length + 1 < size) {
        size_t i = 0;
        while (i < COUNT_OF(parameters) &&
               strncmp(pattern, parameters[i].name, strlen(parameters[i].name)) != 0)
            i++;
        if (i == COUNT_OF(parameters)) {
            ret[length++] = *pattern++;
            continue;
        }
        length += (size_t)snprintf(ret + length, size - length, "%s", parameters[i].value);
        pattern += strlen(parameters[i].name);
    }
    ret[length < size ? length : size - 1] = '\0';
}

Test(router, every_row_is_found)
{
    static const char *const methods[] = {"GET",    "HEAD",    "POST",  "PUT",  "PATCH",
                                          "DELETE", "OPTIONS", "TRACE", "BREW", "get"};

    for (size_t i = 0; i < n_routes; i++) {
        const struct route *route = &routes[i];
        struct route_match match;
        char path[128];
        fill_in(route->pattern, path, sizeof path);
        cr_expect(route->handle && route->summary && *route->summary);
        cr_expect(route->role > ROLE_NONE && route->role < N_ROLES, "%s has no role", path);
        cr_expect_eq(find(route->method, path, &match), ROUTE_FOUND, "%s", path);
        cr_expect_eq(match.route, route, "%s %s is shadowed", route->method, route->pattern);
        cr_expect_eq(find("OPTIONS", path, &match), ROUTE_OPTIONS, "%s", path);
        char allow[ALLOW_SIZE];
        memcpy(allow, match.allow, sizeof allow);
        cr_expect_not_null(strstr(allow, route->method));
        for (size_t k = 0; k < COUNT_OF(methods); k++) {
            enum route_verdict verdict = find(methods[k], path, &match);
            bool named = strstr(allow, methods[k]) != NULL;
            cr_expect_neq(verdict, ROUTE_NO_PATH, "%s %s", methods[k], path);
            if (strcmp(methods[k], "OPTIONS") == 0)
                cr_expect_eq(verdict, ROUTE_OPTIONS);
            else
                cr_expect_eq(verdict, named ? ROUTE_FOUND : ROUTE_WRONG_METHOD, "%s %s: %s",
                             methods[k], path, allow);
            cr_expect_str_eq(match.allow, verdict == ROUTE_FOUND ? "" : allow);
        }
    }
}

Test(router, rows_take_their_own_query_only)
{
    for (size_t i = 0; i < n_routes; i++) {
        struct error err = ERROR_INIT;
        struct uri uri = {0};
        const char *why;
        cr_assert_eq(uri_parse("/x?bogus=1", &uri, &why), 0);
        cr_expect_eq(route_check_query(&routes[i], &uri, &err), -1);
        cr_expect_str_eq(err.kind, "invalid-query");
        cr_expect_not_null(strstr(err.text, "bogus"));
        for (size_t k = 0; k < ROUTE_QUERY_MAX && routes[i].query[k].name; k++)
            cr_expect_not_null(strstr(err.text, routes[i].query[k].name), "%s", err.text);
        uri_free(&uri);
        unsigned all = 0;
        for (size_t k = 0; k < ROUTE_QUERY_MAX && routes[i].query[k].name; k++)
            all += routes[i].query[k].most;
        cr_expect_leq(all, QUERY_MAX, "%s", routes[i].pattern);
        for (size_t k = 0; k < ROUTE_QUERY_MAX && routes[i].query[k].name; k++) {
            const struct route_query *row = &routes[i].query[k];
            char target[128];
            (void)snprintf(target, sizeof target, "/x?%s=1", row->name);
            cr_assert_eq(uri_parse(target, &uri, &why), 0);
            cr_expect_eq(route_check_query(&routes[i], &uri, &err), 0);
            uri_free(&uri);
            for (unsigned times = row->most; times <= row->most + 1; times++) {
                struct text many = TEXT_INIT;
                text_add(&many, "/x?");
                for (unsigned n = 0; n < times; n++)
                    text_addf(&many, "%s=%u&", row->name, n);
                cr_assert_eq(uri_parse(many.data, &uri, &why), 0);
                cr_expect_eq(route_check_query(&routes[i], &uri, &err), times > row->most ? -1 : 0,
                             "%s", many.data);
                text_free(&many);
                uri_free(&uri);
            }
        }
    }
}

Test(router, parameters_keep_to_their_characters)
{
    static const char *const nowhere[] = {
        "/",
        "/nope",
        "/healthz/",
        "//healthz",
        "/bottles/",
        "/bottles//plan",
        "/bottles/Bad",
        "/bottles/a_b",
        "/bottles/-a",
        "/bottles/a-",
        "/bottles/..",
        "/bottles/%2e%2e",
        "/bottles/%c3%a4",
        "/bottles/a/plan/files/",
        "/bottles/a/plan/files/..",
        "/bottles/a/plan/files/.hidden",
        "/bottles/a/plan/files/A.yaml",
        "/bottles/a/plan/files/a%20b",
        "/bottles/a/plan/files/x/y",
        "/Healthz",
        "/bottles/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "/a/b/c/d/e/f/g/h/i/j/k/l",
        "/bottles/a/plan/files/x/y/z/1/2/3/4",
    };
    struct route_match match;

    for (size_t i = 0; i < COUNT_OF(nowhere); i++) {
        cr_expect_eq(find("GET", nowhere[i], &match), ROUTE_NO_PATH, "%s", nowhere[i]);
        cr_expect_str_empty(match.allow);
    }
    cr_expect_eq(find("GET", "/%62ottles", &match), ROUTE_FOUND);
    cr_expect_eq(find("GET", "/bottles/a?x=/", &match), ROUTE_FOUND);
}

Test(router, parameters_are_given)
{
    struct route_match match;
    struct uri uri = {0};
    const char *why;

    cr_assert_eq(uri_parse("/bottles/my-bottle/plan/files/squid.conf", &uri, &why), 0);
    cr_assert_eq(route_find("GET", &uri, &match), ROUTE_FOUND);
    cr_expect_str_eq(match.params[0].name, "slug");
    cr_expect_str_eq(match.params[0].value, "my-bottle");
    cr_expect_str_eq(match.params[1].name, "name");
    cr_expect_str_eq(match.params[1].value, "squid.conf");
    uri_free(&uri);
}

Test(uri, targets)
{
    static const struct {
        const char *raw;
        bool taken;
    } rows[] = {
        {"/", true},         {"/a/b?c=d", true},   {"/a?c", true},      {"/a?", true},
        {"/a?&&x=1&", true}, {"/%41", true},       {"/a?x=%00", false}, {"/a%00b", false},
        {"/%", false},       {"/%4", false},       {"/%zz", false},     {"/%ff", false},
        {"/%c0%80", false},  {"/a?x=%ff", false},  {"", false},         {"a", false},
        {"*", true},         {"http://x/", false}, {"/a b", false},     {"/a\tb", false},
        {"/a\x7f", false},   {"/\xc3\xa4", false}, {"/a#b", false},     {"/%c3%a4", true},
        {"/a%2fb", false},   {"/a%2F", false},     {"*x", false},       {"/a?b=%2f", true},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct uri uri = {0};
        const char *why = NULL;
        cr_expect_eq(uri_parse(rows[i].raw, &uri, &why) == 0, rows[i].taken, "%s", rows[i].raw);
        cr_expect_eq(why != NULL, !rows[i].taken, "%s", rows[i].raw);
        uri_free(&uri);
    }
}

Test(uri, query_is_decoded)
{
    struct uri uri = {0};
    const char *why;

    cr_assert_eq(uri_parse("/a+b?label=k%3Dv&label=a+b%2Bc&flag&=x&e=", &uri, &why), 0);
    cr_expect_str_eq(uri.path, "/a+b");
    cr_expect_str_eq(uri.segments[0], "a+b");
    cr_assert_eq(uri.n_query, 5);
    cr_expect_str_eq(uri.query[0].value, "k=v");
    cr_expect_str_eq(uri.query[1].value, "a b+c");
    cr_expect_str_eq(uri.query[2].name, "flag");
    cr_expect_str_eq(uri.query[2].value, "");
    cr_expect_str_eq(uri.query[3].name, "");
    cr_expect_str_eq(uri.query[4].value, "");
    uri_free(&uri);
}

Test(accept, choices)
{
    static const char *const offers[] = {"application/json", "text/plain"};
    static const struct {
        const char *header;
        int choice;
    } rows[] = {
        {NULL, 0},
        {"", 0},
        {"*/*", 0},
        {"text/plain", 1},
        {"TEXT/Plain; charset=utf-8", 1},
        {"text/*", 1},
        {"application/*", 0},
        {"text/plain, application/json", 0},
        {"text/plain, application/json;q=0.5", 1},
        {"text/plain;q=0.3, */*;q=0.1", 1},
        {"application/json;q=0, */*", 1},
        {"application/json;q=0", -1},
        {"text/html", -1},
        {"text/html, application/xhtml+xml, */*;q=0.8", 0},
        {"image/png;q=1.0,text/plain;q=0.001", 1},
        {"application/jsonx", -1},
        {"nonsense", -1},
        {"text/plain;q=x", -1},
        {", ,text/plain", 1},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_expect_eq(accept_choose(rows[i].header, offers, COUNT_OF(offers)), rows[i].choice, "%s",
                     rows[i].header ? rows[i].header : "(none)");
}

/* --- Log files ------------------------------------------------------------------------------ */

static char folder[64];

static void make_folder(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/bottled-logs-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    (void)directory_remove(folder, NULL, NULL);
}

static const char *in_folder(const char *name)
{
    static char path[128];

    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void append(const char *name, const char *text)
{
    CLEANUP_CLOSE int fd = open(in_folder(name), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    cr_assert_eq(write_all(fd, text, strlen(text)), 0);
}

static void rotate(void)
{
    char from[128];

    (void)snprintf(from, sizeof from, "%s", in_folder("command.log"));
    cr_assert_eq(rename(from, in_folder("command.log.1")), 0);
}

typedef ssize_t read_log(struct log_reader *reader, char *out, size_t room);

/* All that can be read now, by small pieces. */
static const char *read_all(struct log_reader *reader, read_log *next)
{
    static char all[4096];
    size_t length = 0;
    ssize_t got;

    while ((got = next(reader, all + length, 3)) > 0)
        length += (size_t)got;
    all[length] = '\0';
    return all;
}

static void expect_tail(int64_t tail, const char *want)
{
    struct log_reader *reader = log_reader_new(folder, "command", tail);

    cr_expect_str_eq(read_all(reader, log_reader_present), want, "tail %lld", (long long)tail);
    log_reader_free(reader);
    reader = log_reader_new(folder, "command", tail);
    cr_expect_str_eq(read_all(reader, log_reader_follow), want, "tail %lld, followed",
                     (long long)tail);
    log_reader_free(reader);
}

Test(log_reader, tails, .init = make_folder, .fini = remove_folder)
{
    expect_tail(-1, "");
    expect_tail(3, "");
    append("command.log.1", "1\n2\n3\n");
    append("command.log", "4\n\n6");
    expect_tail(-1, "1\n2\n3\n4\n\n6");
    expect_tail(0, "");
    expect_tail(1, "6");
    expect_tail(2, "\n6");
    expect_tail(3, "4\n\n6");
    expect_tail(4, "3\n4\n\n6");
    expect_tail(6, "1\n2\n3\n4\n\n6");
    expect_tail(1000000, "1\n2\n3\n4\n\n6");
    append("command.log", "\n");
    expect_tail(1, "6\n");
}

Test(log_reader, present_does_not_chase_a_writer, .init = make_folder, .fini = remove_folder)
{
    append("command.log", "a\n");
    struct log_reader *reader = log_reader_new(folder, "command", -1);
    append("command.log", "b\n");
    cr_expect_str_eq(read_all(reader, log_reader_present), "a\n");
    log_reader_free(reader);
}

Test(log_reader, follow_survives_rotations, .init = make_folder, .fini = remove_folder)
{
    struct log_reader *reader = log_reader_new(folder, "command", -1);

    cr_expect_str_eq(read_all(reader, log_reader_follow), "");
    append("command.log", "1\n");
    cr_expect_str_eq(read_all(reader, log_reader_follow), "1\n");
    append("command.log", "2\n");
    rotate();
    append("command.log.1", "3\n");
    cr_expect_str_eq(read_all(reader, log_reader_follow), "2\n3\n");
    append("command.log", "4\n");
    cr_expect_str_eq(read_all(reader, log_reader_follow), "4\n");
    /* Two rotations between two looks: the one in the middle is not lost, and since there may have
     * been more, a line says so. */
    rotate();
    append("command.log", "5\n");
    rotate();
    append("command.log", "6\n");
    cr_expect_str_eq(read_all(reader, log_reader_follow),
                     "[bottled: the log was rotated faster than it was read; lines may be missing "
                     "here]\n5\n6\n");
    /* Emptied in place. */
    cr_assert_eq(truncate(in_folder("command.log"), 0), 0);
    cr_expect_str_eq(read_all(reader, log_reader_follow), "");
    append("command.log", "7\n");
    cr_expect_str_eq(read_all(reader, log_reader_follow), "7\n");
    log_reader_free(reader);
}

Test(log_reader, opens_plain_files_only, .init = make_folder, .fini = remove_folder)
{
    append("other", "secret\n");
    cr_assert_eq(symlink("other", in_folder("command.log")), 0);
    expect_tail(-1, "");
    cr_assert_eq(unlink(in_folder("command.log")), 0);
    cr_assert_eq(mkfifo(in_folder("command.log"), 0600), 0);
    expect_tail(-1, "");
    cr_assert_eq(unlink(in_folder("command.log")), 0);
    char other[128];
    (void)snprintf(other, sizeof other, "%s", in_folder("other"));
    cr_assert_eq(link(other, in_folder("command.log")), 0);
    expect_tail(-1, "");
}
