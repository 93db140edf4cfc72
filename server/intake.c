/* The checks before a handler is asked, in order; the first that fails is the answer. A row each,
 * so that the order can be read: what frames the message, who sent it, what it asks for, what comes
 * with it. */
#include "server/request_internal.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/number.h"
#include "base/util.h"
#include "server/front.h"
#include "server/negotiate.h"

#define NOTED(name, value, secret)                                                                 \
    {                                                                                              \
        (name), sizeof(name) - 1, (value), (secret)                                                \
    }

enum { NUMBERS = 1000 }; /* that a thread takes at once to name requests */

/* What is counted while the headers are copied. */
struct tally {
    struct request *request;
    const char *host, *length, *encoding, *authorization, *cookie; /* borrowed */
    struct claim claim;
};

static enum MHD_Result on_header(void *context, enum MHD_ValueKind kind, const char *name,
                                 size_t name_length, const char *value, size_t value_length)
{
    struct tally *tally = context;
    struct request *request = tally->request;
    const struct {
        const char *name;
        size_t length;
        const char **value;
        bool secret; /* looked at once and kept nowhere */
    } noted[] = {NOTED("Host", &tally->host, false), NOTED("Content-Length", &tally->length, false),
                 NOTED("Transfer-Encoding", &tally->encoding, false),
                 NOTED("Authorization", &tally->authorization, true),
                 NOTED(FRONT_COOKIE, &tally->cookie, true)};
    size_t row = 0;

    (void)kind;
    value = value ? value : "";
    while (row < COUNT_OF(noted) &&
           (name_length != noted[row].length || strcasecmp(name, noted[row].name) != 0))
        row++;
    if (row < COUNT_OF(noted))
        *noted[row].value = value;
    if (row < COUNT_OF(noted) && noted[row].secret)
        return MHD_YES;
    struct header *header = header_new(name, name_length, value, value_length, request->headers);
    if (header)
        request->headers = header;
    else
        problem_set(&request->early, "internal", "out of memory");
    return MHD_YES;
}

/* "0123abcd-1f": of every request, hence by hand. */
static void write_id(char *ret, unsigned run_number, unsigned long long count)
{
    static const char digits[] = "0123456789abcdef";
    int shift = 28;

    for (; shift >= 0; shift -= 4)
        *ret++ = digits[run_number >> shift & 15];
    *ret++ = '-';
    for (shift = 60; shift > 0 && !(count >> shift); shift -= 4)
        ;
    for (; shift >= 0; shift -= 4)
        *ret++ = digits[count >> shift & 15];
    *ret = '\0';
}

/* The client's X-Request-Id where it is a plain word, else one of our own: a prefix of this run and
 * a count. */
static void name_request(struct request *request)
{
    static atomic_ullong taken;
    static _Thread_local unsigned long long last, end; /* numbers that are this thread's own */
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    const char *sent = request_header(request, "X-Request-Id");
    size_t length = sent ? strspn(sent, plain) : 0;

    if (length > 0 && length < REQUEST_ID_SIZE && sent[length] == '\0') {
        (void)snprintf(request->id, sizeof request->id, "%s", sent);
        return;
    }
    if (last == end) {
        last = atomic_fetch_add(&taken, NUMBERS);
        end = last + NUMBERS;
    }
    write_id(request->id, request->http->run_number, ++last);
}

/* The head's form was checked before it was read (head.h). */
static void check_framing(struct tally *tally)
{
    struct request *request = tally->request;
    const char *expect = request_header(request, "Expect");
    int64_t declared = 0;

    if (tally->length)
        (void)number_parse(tally->length, 0, INT64_MAX, &declared);
    request->declared = (uint64_t)declared;
    request->has_body = declared > 0 || tally->encoding;
    request->expects_continue = expect != NULL;
    if (request->uri_fault)
        problem_set(&request->early, "bad-request", "%s", request->uri_fault);
    else if (expect && strcasecmp(expect, "100-continue") != 0)
        problem_set(&request->early, "expectation-failed",
                    "the only expectation that is met is 100-continue");
}

static bool method_changes(const char *method)
{
    static const char *const looks[] = {"GET", "HEAD", "OPTIONS"};

    for (size_t i = 0; i < COUNT_OF(looks); i++)
        if (strcmp(method, looks[i]) == 0)
            return false;
    return true;
}

/* The answer to a browser that asks before it lets a page of another origin call. */
static void allow_origin(struct request *request, const struct tally *tally)
{
    static const char exposed[] = "ETag, Location, Allow, Retry-After, X-Request-Id";

    reply_header(request, "Access-Control-Allow-Origin", tally->claim.origin);
    reply_header(request, "Access-Control-Expose-Headers", exposed);
    request->preflight = strcmp(request->method, "OPTIONS") == 0 &&
                         request_header(request, "Access-Control-Request-Method");
    if (!request->preflight)
        return;
    reply_header(request, "Access-Control-Allow-Headers",
                 "Authorization, Accept, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
                 "Last-Event-ID, X-Request-Id");
    reply_header(request, "Access-Control-Max-Age", "600");
}

/* Where from: the connection, the Host and the Origin. */
static void check_origin(struct tally *tally)
{
    struct request *request = tally->request;
    const struct listener *listener = request->listener;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct error err = ERROR_INIT;
    union address peer;
    bool cors;

    tally->claim.fd = info ? info->connect_fd : -1;
    tally->claim.tcp = listener->tcp;
    tally->claim.peer = connection_peer(request->connection);
    tally->claim.tls = listener->http->tls != NULL;
    tally->claim.changes = request->changes;
    tally->claim.host = tally->host;
    tally->claim.origin = request_header(request, "Origin");
    tally->claim.csrf = request_header(request, "X-CSRF-Token");
    tally->claim.authorization = tally->authorization;
    tally->claim.cookie = tally->cookie;
    if (listener->tcp && address_peer(tally->claim.fd, &peer) == 0)
        address_format(&peer, request->from);
    if (access_check_origin(request->http->access, &tally->claim, &cors, &err) < 0)
        problem_from_error(&request->early, &err);
    else if (cors)
        allow_origin(request, tally);
    if (tally->claim.origin)
        reply_header(request, "Vary", "Origin");
}

/* A page that a browser opens can show no token; what it loads by itself can't, either. */
static bool is_open(const struct tally *tally)
{
    struct route_match match;

    return tally->claim.tcp && !tally->claim.authorization &&
           route_find(tally->request->method, &tally->request->uri, &match) == ROUTE_FOUND &&
           route_open(match.route);
}

/* Who: a browser's question in advance comes without credentials. */
static void check_peer(struct tally *tally)
{
    struct request *request = tally->request;
    struct error err = ERROR_INIT;
    int64_t wait_s;
    char words[24];

    if (request->preflight || is_open(tally) ||
        access_identify(request->http->access, &tally->claim, &request->identity, &wait_s, &err) ==
            0)
        return;
    problem_from_error(&request->early, &err);
    if (wait_s > 0) {
        (void)snprintf(words, sizeof words, "%lld", (long long)wait_s);
        reply_header(request, "Retry-After", words);
    } else if (request->early.type->status == 401) {
        reply_header(request, "WWW-Authenticate", "Bearer realm=\"bottled\"");
    }
}

static void check_route(struct tally *tally)
{
    struct request *request = tally->request;
    struct error err = ERROR_INIT;

    if (strcmp(request->uri.path, "*") == 0) {
        request->options = true;
        reply_header(request, "Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        return;
    }
    switch (route_find(request->method, &request->uri, &request->match)) {
    case ROUTE_FOUND:
        if (route_check_query(request->match.route, &request->uri, &err) < 0 ||
            negotiate_media(request->match.route, request_header(request, "Accept"), &err) < 0)
            problem_from_error(&request->early, &err);
        return;
    case ROUTE_OPTIONS:
        request->options = true;
        reply_header(request, "Allow", request->match.allow);
        if (request->preflight)
            reply_header(request, "Access-Control-Allow-Methods", request->match.allow);
        return;
    case ROUTE_NO_PATH:
        problem_set(&request->early, "not-found",
                    "there is no such path; GET /openapi.yaml describes what there is");
        return;
    case ROUTE_WRONG_METHOD:
        problem_set(&request->early, "method-not-allowed", "%s is not for this path; there are %s",
                    request->method, request->match.allow);
        reply_header(request, "Allow", request->match.allow);
        return;
    }
}

static void check_role(struct tally *tally)
{
    struct request *request = tally->request;

    if (request->options || is_open(tally) || request->identity.role >= request->match.route->role)
        return;
    problem_set(&request->early, "forbidden-role", "this call is for the role %s; \"%s\" has %s",
                role_names[request->match.route->role], request->identity.name,
                role_names[request->identity.role]);
}

/* Is the type one that a body of JSON comes with? curl -d says x-www-form-urlencoded unless told
 * otherwise, and nobody sends forms here: what counts is that the body parses. */
static bool is_json(const char *type)
{
    static const char *const taken[] = {"application/json", "application/x-www-form-urlencoded",
                                        "text/json"};
    size_t length = strcspn(type, "; \t");
    const char *charset = strcasestr(type + length, "charset=");

    if (charset && strncasecmp(charset + 8, "utf-8", 5) != 0 &&
        strncasecmp(charset + 8, "\"utf-8\"", 7) != 0)
        return false;
    for (size_t i = 0; i < COUNT_OF(taken); i++)
        if (strlen(taken[i]) == length && strncasecmp(type, taken[i], length) == 0)
            return true;
    return length > 17 && strncasecmp(type, "application/", 12) == 0 &&
           strncasecmp(type + length - 5, "+json", 5) == 0;
}

static void check_body(struct tally *tally)
{
    struct request *request = tally->request;
    const char *type = request_header(request, "Content-Type");
    const char *encoding = request_header(request, "Content-Encoding");

    if (!request->has_body)
        return;
    if (request->options || request->match.route->body == BODY_NONE)
        problem_set(&request->early, "bad-request", "this call takes no body");
    else if (request->declared > request_body_max(request) &&
             request->match.route->body != BODY_STREAM)
        problem_set(
            &request->early, "body-too-large", "a body may have %llu bytes, this one has %llu",
            (unsigned long long)request_body_max(request), (unsigned long long)request->declared);
    else if ((type && request->match.route->body == BODY_JSON && !is_json(type)) ||
             (encoding && strcasecmp(encoding, "identity") != 0))
        problem_set(&request->early, "unsupported-media-type",
                    "send the body as application/json in UTF-8, without a Content-Encoding");
}

void intake(struct request *request, const char *method)
{
    static void (*const checks[])(struct tally * tally) = {check_framing, check_origin, check_peer,
                                                           check_route,   check_role,   check_body};
    struct tally tally = {.request = request};

    memcpy(request->method, method, strnlen(method, sizeof request->method - 1));
    request->changes = method_changes(request->method);
    (void)MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, on_header, &tally);
    name_request(request);
    for (size_t i = 0; i < COUNT_OF(checks) && !request->early.type; i++)
        checks[i](&tally);
}
