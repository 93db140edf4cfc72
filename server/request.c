/* What handlers see of a request, and how their answers become responses. */
#include "server/request.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/util.h"
#include "server/log.h"
#include "server/made.h"
#include "server/negotiate.h"
#include "server/request_internal.h"

#define JSON_TYPE "application/json"
#define PROBLEM_TYPE "application/problem+json"
#define RETRY_SECONDS "1" /* after a 503 */

enum {
    STREAM_BLOCK = 16 * 1024,
    TAGGED_HEADERS = 5, /* those of dress(), and the ETag */
};

struct app *request_app(const struct request *request)
{
    return request->http->app;
}

const char *request_method(const struct request *request)
{
    return request->method;
}

const char *request_path(const struct request *request)
{
    return request->uri.path;
}

const char *request_param(const struct request *request, const char *name)
{
    for (size_t i = 0; i < ROUTE_PARAMS_MAX; i++)
        if (request->match.params[i].name && strcmp(request->match.params[i].name, name) == 0)
            return request->match.params[i].value;
    return NULL;
}

const char *request_query_nth(const struct request *request, const char *name, size_t k)
{
    for (size_t i = 0; i < request->uri.n_query; i++)
        if (strcmp(request->uri.query[i].name, name) == 0 && k-- == 0)
            return request->uri.query[i].value;
    return NULL;
}

const char *request_query(const struct request *request, const char *name)
{
    return request_query_nth(request, name, 0);
}

static const struct header *find(const struct header *list, const char *name, size_t length)
{
    while (list && (list->name_length != length || strcasecmp(list->name, name) != 0))
        list = list->next;
    return list;
}

const struct header *header_find(const struct header *list, const char *name)
{
    return find(list, name, strlen(name));
}

struct header *header_new(const char *name, size_t name_length, const char *value,
                          size_t value_length, struct header *next)
{
    struct header *header = malloc(sizeof *header + name_length + value_length + 2);

    if (!header)
        return NULL;
    char *bytes = (char *)(header + 1);
    memcpy(bytes, name, name_length);
    bytes[name_length] = '\0';
    *header = (struct header){bytes, bytes + name_length + 1, name_length, next};
    bytes += name_length + 1;
    memcpy(bytes, value, value_length);
    bytes[value_length] = '\0';
    return header;
}

const char *request_header_n(const struct request *request, const char *name, size_t length)
{
    const struct header *header = find(request->headers, name, length);

    return header ? header->value : NULL;
}

const char *request_body(const struct request *request, size_t *ret_length)
{
    if (ret_length)
        *ret_length = request->body.length;
    return request->body.data ? request->body.data : "";
}

uint64_t request_declared(const struct request *request)
{
    return request->declared;
}

void request_work(struct request *request, struct worker worker)
{
    request->worker = worker;
}

/* --- Shared bodies ------------------------------------------------------------------------- */

struct shared_bytes {
    atomic_uint references;
    size_t length;
    char *data;
};

struct shared_bytes *shared_bytes_new(char *data, size_t length)
{
    struct shared_bytes *bytes = data ? malloc(sizeof *bytes) : NULL;

    if (!bytes) {
        free(data);
        return NULL;
    }
    *bytes = (struct shared_bytes){.references = 1, .length = length, .data = data};
    return bytes;
}

struct shared_bytes *shared_bytes_ref(struct shared_bytes *bytes)
{
    if (bytes)
        (void)atomic_fetch_add_explicit(&bytes->references, 1, memory_order_relaxed);
    return bytes;
}

void shared_bytes_unref(struct shared_bytes *bytes)
{
    if (!bytes || atomic_fetch_sub_explicit(&bytes->references, 1, memory_order_acq_rel) != 1)
        return;
    free(bytes->data);
    free(bytes);
}

static void drop_shared(void *bytes)
{
    shared_bytes_unref(bytes);
}

/* --- Replies ------------------------------------------------------------------------------- */

void reply_header(struct request *request, const char *name, const char *value)
{
    if (strpbrk(value, "\r\n") || request->n_reply_headers == RESPONSE_HEADERS_MAX)
        return;
    struct header *header =
        header_new(name, strlen(name), value, strlen(value), request->reply_headers);
    if (!header)
        return;
    request->reply_headers = header;
    request->n_reply_headers++;
}

bool reply_has_header(const struct request *request, const char *name)
{
    return header_find(request->reply_headers, name) != NULL;
}

/* Adds the headers that every answer has, and the request's own. */
static void dress(const struct request *request, struct MHD_Response *response,
                  const char *content_type)
{
    if (!response)
        return;
    if (content_type) {
        (void)MHD_add_response_header(response, "Content-Type", content_type);
        /* What a guest wrote into a log is text, whatever a browser would like to see in it. */
        (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    }
    if (!reply_has_header(request, "Cache-Control"))
        (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    if (request->id[0])
        (void)MHD_add_response_header(response, "X-Request-Id", request->id);
    for (const struct header *header = request->reply_headers; header; header = header->next)
        (void)MHD_add_response_header(response, header->name, header->value);
}

/* A response whose body is these bytes: kept first, when the request is to be answered the same
 * again. */
static void answer(struct request *request, unsigned status, const char *content_type,
                   const char *bytes, size_t length, struct MHD_Response *response)
{
    if (request->claim && response)
        idempotency_answer(request, status, content_type, bytes, length, response);
    else
        http_deliver(request, status, response);
}

/* Of the bytes, as they are or packed; NULL: no memory. */
static struct MHD_Response *shared_response(struct request *request, const char *content_type,
                                            struct shared_bytes *bytes)
{
    struct MHD_Response *response = NULL;
    struct shared_bytes *sent =
        bytes ? negotiate_pack(request, content_type, bytes->data, bytes->length) : NULL;

    if (bytes && !sent)
        sent = shared_bytes_ref(bytes);
    if (sent)
        response = MHD_create_response_from_buffer_with_free_callback_cls(sent->length, sent->data,
                                                                          drop_shared, sent);
    if (sent && !response)
        shared_bytes_unref(sent);
    dress(request, response, content_type);
    return response;
}

void reply_shared(struct request *request, unsigned status, const char *content_type,
                  struct shared_bytes *bytes)
{
    answer(request, status, content_type, bytes ? bytes->data : NULL, bytes ? bytes->length : 0,
           shared_response(request, content_type, bytes));
}

void reply_tagged(struct request *request, unsigned status, struct shared_bytes *bytes,
                  const char *etag)
{
    /* What else would be said with them is not said to the next who asks. */
    const bool alone = status == 200 && !request->reply_headers && !request->claim && bytes &&
                       bytes->length <= MADE_BYTES_MAX && http_asks(request);
    struct made *made = alone ? made_take(bytes, request->id) : NULL;

    if (!made)
        reply_header(request, "ETag", etag);
    if (!alone) {
        reply_shared(request, status, JSON_TYPE, bytes);
        return;
    }
    struct MHD_Response *response =
        made ? made->response : shared_response(request, JSON_TYPE, bytes);
    /* One that lacks a header, for want of memory, is sent this once. */
    if (!made && response && MHD_get_response_headers(response, NULL, NULL) == TAGGED_HEADERS &&
        reply_has_header(request, "ETag"))
        made = made_new(bytes, response, request->id);
    request->made = made;
    http_deliver(request, status, response);
}

void reply_text(struct request *request, unsigned status, const char *content_type, char *data)
{
    struct shared_bytes *bytes = shared_bytes_new(data, data ? strlen(data) : 0);

    if (!bytes) {
        reply_fault(request, "internal", "out of memory");
        return;
    }
    reply_shared(request, status, content_type, bytes);
    shared_bytes_unref(bytes);
}

/* Compact JSON and a newline; NULL when memory is short. */
static char *json_line(const json_t *body)
{
    CLEANUP_FREE char *compact = body ? json_text(body) : NULL;
    char *line = NULL;

    if (!compact || asprintf(&line, "%s\n", compact) < 0)
        return NULL;
    return line;
}

void reply_json(struct request *request, unsigned status, json_t *body)
{
    char *line = json_line(body);

    json_decref(body);
    reply_text(request, status, JSON_TYPE, line);
}

void reply_empty(struct request *request, unsigned status)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);

    dress(request, response, NULL);
    answer(request, status, NULL, NULL, 0, response);
}

char *problem_words(const struct request *request, const struct problem *problem)
{
    json_t *body = problem_encode(problem, request->uri.path);
    char *line = json_line(body);

    json_decref(body);
    return line;
}

struct MHD_Response *problem_response(const struct request *request, const struct problem *problem)
{
    char *line = problem_words(request, problem);
    struct MHD_Response *response =
        line ? MHD_create_response_from_buffer(strlen(line), line, MHD_RESPMEM_MUST_FREE) : NULL;

    if (line && !response)
        free(line);
    dress(request, response, PROBLEM_TYPE);
    if (response && problem->type->status == 503)
        (void)MHD_add_response_header(response, "Retry-After", RETRY_SECONDS);
    return response;
}

void reply_problem(struct request *request, const struct problem *problem)
{
    unsigned status = problem->type ? (unsigned)problem->type->status : 500;

    if (request->taking) {
        request->early = problem_ref(problem); /* for after the body */
        return;
    }
    if (status >= 500)
        log_event(LEVEL_WARNING, "problem",
                  LOG_TEXT("type", problem->type ? problem->type->name : "internal"),
                  LOG_TEXT("detail", problem->detail), LOG_TEXT("path", request->uri.path),
                  LOG_TEXT("id", request->id));
    CLEANUP_FREE char *words = request->claim ? problem_words(request, problem) : NULL;
    answer(request, status, PROBLEM_TYPE, words, words ? strlen(words) : 0,
           problem_response(request, problem));
}

void reply_fault(struct request *request, const char *type, const char *format, ...)
{
    struct problem problem = PROBLEM_INIT;
    va_list args;

    va_start(args, format);
    problem_vset(&problem, type, format, args);
    va_end(args);
    reply_problem(request, &problem);
    problem_free(&problem);
}

void reply_error(struct request *request, const struct error *err)
{
    struct problem problem = PROBLEM_INIT;

    problem_from_error(&problem, err);
    reply_problem(request, &problem);
    problem_free(&problem);
}

/* --- Streams ------------------------------------------------------------------------------- */

struct stream_body {
    struct stream stream;
    struct parked parked;
    struct http *http;
    struct MHD_Connection *connection;
    bool tcp;
    struct identity identity; /* whose right to it may end before it does */
};

static enum park stream_park(struct stream_body *body, unsigned rings)
{
    const struct stream *stream = &body->stream;

    if (connection_gone(body->connection, body->tcp))
        return PARK_ENDING;
    if (stream->rest_ms)
        return ticker_rest(body->http, &body->parked, body->connection, body->tcp, stream->rest_ms,
                           rings);
    return ticker_park(body->http, &body->parked, body->connection, stream->fd ? *stream->fd : -1);
}

static ssize_t stream_read(void *context, uint64_t position, char *out, size_t room)
{
    struct stream_body *body = context;
    enum park park = PARK_RANG;

    (void)position;
    if (!access_holds(body->http->access, &body->identity))
        return MHD_CONTENT_READER_END_WITH_ERROR;
    while (park == PARK_RANG) {
        unsigned rings = atomic_load(&body->http->rings);
        ssize_t length = body->stream.next(body->stream.context, out, room);
        if (length > 0)
            return length;
        if (length == STREAM_CUT)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (length < 0)
            return MHD_CONTENT_READER_END_OF_STREAM;
        park = stream_park(body, rings);
    }
    if (park == PARK_PARKED)
        return 0;
    return body->stream.whole ? MHD_CONTENT_READER_END_WITH_ERROR
                              : MHD_CONTENT_READER_END_OF_STREAM;
}

static void stream_end(void *context)
{
    struct stream_body *body = context;

    body->stream.done(body->stream.context);
    free(body);
}

void reply_stream(struct request *request, unsigned status, const char *content_type,
                  struct stream stream)
{
    struct stream_body *body = malloc(sizeof *body);
    struct MHD_Response *response = NULL;
    const struct stream *kept =
        request->claim ? idempotency_stream(request, status, content_type, &stream) : NULL;

    if (kept)
        stream = *kept;
    if (body) {
        *body = (struct stream_body){.stream = stream,
                                     .http = request->http,
                                     .connection = request->connection,
                                     .tcp = request->listener->tcp,
                                     .identity = request->identity};
        response = MHD_create_response_from_callback(stream.sized ? stream.size : MHD_SIZE_UNKNOWN,
                                                     STREAM_BLOCK, stream_read, body, stream_end);
    }
    if (!response) {
        stream.done(stream.context);
        free(body);
        reply_fault(request, "internal", "out of memory");
        return;
    }
    dress(request, response, content_type);
    http_deliver(request, status, response);
}
