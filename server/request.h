/* One HTTP request as the handlers see it; libmicrohttpd stays behind http.c.
 *
 * A handler answers exactly once, by one of the reply functions, from any thread, either before it
 * returns or later: a request that was not answered when its handler returns is suspended until it
 * is. After the reply the request must not be touched. A handler that only reads never blocks; one
 * that must wait for a commit or a state replies from the callback. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "api/problem.h"

struct app;
struct request;

struct app *request_app(const struct request *request);
const char *request_method(const struct request *request);
const char *request_path(const struct request *request);
/* A path parameter of the route ("slug", "name"): charset already checked, never NULL for a name in
 * the route. */
const char *request_param(const struct request *request, const char *name);
/* A query parameter, decoded, or NULL. Unknown and doubled ones were refused (400 invalid-query)
 * from the route's list. */
const char *request_query(const struct request *request, const char *name);
/* The k-th value of a query parameter that may be repeated ("label"), or NULL. */
const char *request_query_nth(const struct request *request, const char *name, size_t k);
const char *request_header_n(const struct request *request, const char *name, size_t length);
static inline const char *request_header(const struct request *request, const char *name)
{
    return request_header_n(request, name, strlen(name));
}
const char *request_body(const struct request *request, size_t *ret_length);
/* Of one that is not answered yet, from any thread: has its client left? */
bool request_left(const struct request *request);
/* The body's length as the client declared it; 0 when it did not. */
uint64_t request_declared(const struct request *request);

/* A body shared by many replies: immutable, reference-counted. */
struct shared_bytes;
struct shared_bytes *
shared_bytes_new(char *data, size_t length); /* takes `data` over; NULL: freed, no memory */
struct shared_bytes *shared_bytes_ref(struct shared_bytes *bytes);
void shared_bytes_unref(struct shared_bytes *bytes);

/* Adds a response header; before the reply. Values are copied; line breaks are refused (dropped).
 */
void reply_header(struct request *request, const char *name, const char *value);
bool reply_has_header(const struct request *request, const char *name);
/* Steals `body`. */
void reply_json(struct request *request, unsigned status, json_t *body);
void reply_shared(struct request *request, unsigned status, const char *content_type,
                  struct shared_bytes *bytes); /* takes its own reference */
/* JSON with its ETag: the same for the same bytes, always. */
void reply_tagged(struct request *request, unsigned status, struct shared_bytes *bytes,
                  const char *etag);
/* Steals `data`. */
void reply_text(struct request *request, unsigned status, const char *content_type, char *data);
void reply_empty(struct request *request, unsigned status);
void reply_problem(struct request *request, const struct problem *problem);
/* A problem with just type and words. */
void reply_fault(struct request *request, const char *type, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void reply_error(struct request *request, const struct error *err);

/* A body that is made piece by piece: `next` fills at most `room` bytes and returns their number, 0
 * for "nothing now: ask again soon" (within 100 ms without burning a core), STREAM_END, or
 * STREAM_CUT where the client must not take it for whole. `done` is called once, always. */
enum { STREAM_END = -1, STREAM_CUT = -2 };
struct stream {
    ssize_t (*next)(void *context, char *out, size_t room);
    void (*done)(void *context);
    void *context;
    const int *fd; /* it is asked again as soon as there is something to read; NULL: none */
    int rest_ms;   /* not 0: it is asked again after http_ring(), and else only after so long */
    bool whole;    /* where bottled ends before it does, it is cut */
    bool sized;    /* it has `size` bytes: its Content-Length */
    uint64_t size;
};
void reply_stream(struct request *request, unsigned status, const char *content_type,
                  struct stream stream);

/* What goes on in a request until it is answered, in the connection's own thread: where an answer
 * has to wait for a descriptor, or a body is not to be kept. `look` is called once the body is
 * over, and again as soon as `fd` has something to read, and soon in any case, until it has
 * answered. `take`, of a route with BODY_STREAM, gets the body as it comes: how many bytes it took,
 * fewer where there is no room now; or -1 where it wants no more: then it has replied with a
 * problem, which goes out after the body. `done` is called once, always. */
struct worker {
    ssize_t (*take)(void *context, struct request *request, const char *bytes, size_t length);
    void (*look)(void *context, struct request *request);
    void (*done)(void *context);
    void *context;
    const int *fd;
};
/* In place of an answer. The handler of a route with BODY_STREAM is called before the body, and
 * does either this or replies with a problem. */
void request_work(struct request *request, struct worker worker);
