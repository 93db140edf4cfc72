/* A request's line and headers, and what is decided from them before a handler is asked
 * (server/intake.c). The input is such a head; what libmicrohttpd would hand over of it is handed
 * over here, in its place, so that no connection is needed. The first byte: bit 0 over TCP, where
 * nobody has a token, bit 1 numbers and states are read from the query. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/number.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/query.h"
#include "server/request_internal.h"
#include "tests/fuzz/take.h"

enum { HEADERS_MAX = 64 };

static struct {
    char *names[HEADERS_MAX], *values[HEADERS_MAX];
    int count;
    bool handed_over; /* else nothing of this would be tested */
} head;

/* In libmicrohttpd's place. */
int MHD_get_connection_values_n(struct MHD_Connection *connection, enum MHD_ValueKind kind,
                                MHD_KeyValueIteratorN iterator, void *context)
{
    (void)connection;
    for (int i = 0; i < head.count; i++) {
        const char *name = head.names[i], *value = head.values[i];
        MUST(iterator(context, kind, name, strlen(name), value, value ? strlen(value) : 0) ==
             MHD_YES);
    }
    head.handed_over = true;
    return head.count;
}

const union MHD_ConnectionInfo *MHD_get_connection_info(struct MHD_Connection *connection,
                                                        enum MHD_ConnectionInfoType type, ...)
{
    static union MHD_ConnectionInfo descriptor, context;
    static struct connection known;
    static int ends[2];

    (void)connection;
    if (!ends[0]) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        descriptor.connect_fd = ends[0]; /* our own: one that may */
        context.socket_context = &known;
        known.has_peer = auth_peer(ends[0], &known.peer);
        MUST(known.has_peer);
    }
    return type == MHD_CONNECTION_INFO_SOCKET_CONTEXT ? &context : &descriptor;
}

static unsigned count_of(const char *name)
{
    unsigned count = 0;

    for (int i = 0; i < head.count; i++)
        count += strcasecmp(head.names[i], name) == 0;
    return count;
}

static void read_head(struct input *input)
{
    for (head.count = 0; head.count < HEADERS_MAX && input->at < input->end; head.count++) {
        char *line = take_line(input, '\n', NULL);
        char *colon = strchr(line, ':');
        line[strcspn(line, "\r")] = '\0';
        if (colon)
            *colon++ = '\0';
        if (strcasecmp(line, "Cookie") == 0) /* as the front has it */
            line[0] = FRONT_COOKIE[0];
        head.names[head.count] = line;
        head.values[head.count] = colon ? colon + strspn(colon, " \t") : NULL;
    }
}

/* A request that gets as far as a handler or an answer of its own. */
static void passed(const struct request *request)
{
    uint64_t declared = 0;
    int64_t number;

    MUST(!request->uri_fault && !request->misframed);
    const char *length = request_header(request, "Content-Length");
    if (length && count_of("Content-Length") == 1 &&
        number_parse(length, 0, INT64_MAX, &number) == 0)
        declared = (uint64_t)number;
    MUST(request->declared == declared || count_of("Content-Length") > 1);
    MUST(request->options || request->match.route);
    MUST(!request->listener->tcp);
    MUST(!request_header(request, "Authorization") && !request_header(request, FRONT_COOKIE));
    const char *origin = request_header(request, "Origin");
    MUST(request->changes ==
         (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0 &&
          strcmp(request->method, "OPTIONS") != 0));
    MUST(!origin || !request->changes || strcmp(origin, "https://page.example") == 0 ||
         strstr(origin, "://"));
    if (request->has_body && !request->options)
        MUST(request->match.route->body != BODY_NONE);
    for (size_t i = 0; !request->options && i < request->uri.n_query; i++) {
        const struct route_query *query = request->match.route->query;
        while (query->name && strcmp(query->name, request->uri.query[i].name) != 0)
            query++;
        MUST(query->name);
        MUST(!request_query_nth(request, query->name, query->most));
    }
}

/* Every value of the query, read as each kind of value that there is. */
static void read_values(struct request *request)
{
    request->taking = true; /* a problem is kept, not sent */
    for (size_t i = 0; i < request->uri.n_query; i++) {
        const char *name = request->uri.query[i].name;
        bool flag;
        int64_t number = 0;
        unsigned set = 0;
        (void)query_flag(request, name, &flag);
        if (query_duration(request, name, 3600000, &number) == 0)
            MUST(number >= 0 && number <= 3600000);
        number = 7;
        if (query_integer(request, name, 0, 1000, &number) == 0)
            MUST(number >= 0 && number <= 1000);
        if (query_states(request, name, 3, &set) == 0)
            MUST((set & ~3U) == 0);
        problem_free(&request->early);
        request->early = (struct problem){0};
    }
}

static void release(struct request *request)
{
    struct header *lists[] = {request->headers, request->reply_headers};

    for (size_t i = 0; i < 2; i++)
        for (struct header *header = lists[i], *next; header; header = next) {
            next = header->next;
            free(header);
        }
    uri_free(&request->uri);
    problem_free(&request->early);
    for (int i = 0; i < head.count; i++)
        free(head.names[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct app app = {.config.max_body_bytes = 1 << 20};
    static struct http http = {.app = &app, .run_number = 7};
    const struct config config = {.state_dir = "/nonexistent",
                                  .token_file = "",
                                  .server_names = "",
                                  .cors_origins = "https://page.example",
                                  .socket_group = "",
                                  .socket_group_role = "read"};
    struct input input = {bytes, bytes + length};
    uint8_t mode = take_byte(&input);
    const struct listener listener = {
        .http = &http, .tcp = mode & 1, .fd = -1, .address = "127.0.0.1:8080"};
    struct request request = {.http = &http, .listener = &listener};
    char *method = take_line(&input, ' ', NULL), *target = take_line(&input, ' ', NULL),
         *version = take_line(&input, '\n', NULL);

    if (uri_parse(target, &request.uri, &request.uri_fault) == 0)
        request.uri_fault = NULL;
    version[strcspn(version, "\r")] = '\0';
    read_head(&input);
    if (!http.access)
        MUST((http.access = access_new(&config, NULL)));
    head.handed_over = false;
    intake(&request, method);
    MUST(head.handed_over);
    MUST(request.id[0] && strlen(request.id) < sizeof request.id);
    MUST(!request.misframed || request.early.type);
    if (request.early.type)
        MUST(request.early.type->status >= 400 && request.early.detail[0]);
    else
        passed(&request);
    if ((mode & 2) && !request.early.type)
        read_values(&request);
    release(&request);
    free(method);
    free(target);
    free(version);
    return 0;
}
