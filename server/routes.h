/* The routes are rows: method, path, what it takes, who may call it, who answers. The router finds
 * the row, or says why there is none (404, 405 with what would be allowed), from the same table. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "server/access.h"
#include "server/handlers.h"
#include "server/uri.h"

enum { ROUTE_QUERY_MAX = 6, ROUTE_PARAMS_MAX = 2, ALLOW_SIZE = 64 };

enum route_body {
    BODY_NONE,
    BODY_JSON,
    BODY_BYTES,
    BODY_STREAM, /* of any size; the handler gets it as it comes (struct worker) */
};

struct route_query {
    const char *name;
    unsigned most; /* so many times it may be there; all together fit QUERY_MAX */
};

struct route {
    const char *method;  /* a GET row also answers HEAD */
    const char *pattern; /* "/bottles/{slug}/plan/files/{name}" */
    handler *handle;
    enum route_body body;
    enum role role; /* the least that may call it */
    const char *summary;
    struct route_query
        query[ROUTE_QUERY_MAX]; /* what the query string may hold; ends at a NULL name */
};

/* Needs a TCP client no token? Then the answer holds nothing of this machine. */
bool route_open(const struct route *route);

/* What an Idempotency-Key of a POST rests on; see idempotency.h. */
enum route_retry { RETRY_AGAIN, RETRY_ONCE, RETRY_WRITES, RETRY_UNKEPT };
enum route_retry route_retry(const struct route *route);

extern const struct route routes[];
extern const size_t n_routes;

struct route_param {
    const char *name;  /* "slug", "name" or "id"; static */
    const char *value; /* borrowed from the uri */
};

enum route_verdict {
    ROUTE_FOUND,
    ROUTE_OPTIONS,      /* the path is known and OPTIONS was asked: `allow` is the answer */
    ROUTE_NO_PATH,      /* 404 */
    ROUTE_WRONG_METHOD, /* 405 with `allow` */
};

struct route_match {
    const struct route *route; /* only when ROUTE_FOUND */
    struct route_param params[ROUTE_PARAMS_MAX];
    char allow[ALLOW_SIZE]; /* "GET, HEAD, OPTIONS"; "" when found, or there is no such path */
};

enum route_verdict route_find(const char *method, const struct uri *uri, struct route_match *ret);
/* Is the query one that the route takes? 0, or -1 with kind "invalid-query". */
int route_check_query(const struct route *route, const struct uri *uri, struct error *err);
