/* GET /events: what happened, as a page or as an event stream, from the store. */
#include "api/spec.h"
#include "base/number.h"
#include "base/util.h"
#include "server/accept.h"
#include "server/app.h"
#include "server/event_stream.h"
#include "server/events.h"
#include "server/handlers.h"
#include "server/query.h"

#define JSON_TYPE "application/json"
#define STREAM_TYPE "text/event-stream"

enum { LIMIT_DEFAULT = 100 };

static int read_types(struct request *request, uint64_t *ret)
{
    const char *value;

    for (size_t k = 0; (value = request_query_nth(request, "type", k)); k++) {
        uint64_t named = event_types_named(value);
        if (!named) {
            reply_fault(request, "invalid-query",
                        "type: there is no event type \"%.64s\", nor a family of them like "
                        "\"bottle.*\"",
                        value);
            return -1;
        }
        *ret |= named;
    }
    return 0;
}

/* Where a stream goes on: at the client's last event when it comes back (a browser does that with
 * the query that it began with), else where it asks for, else at what comes next. */
static int read_place(struct request *request, int64_t seen, struct events_query *query)
{
    struct events_ends ends;
    struct error err = ERROR_INIT;

    if (request_query(request, "limit")) {
        reply_fault(request, "invalid-query", "limit: a stream has none; a page (%s) has",
                    JSON_TYPE);
        return -1;
    }
    if (seen >= 0)
        query->after = seen;
    if (seen >= 0 || request_query(request, "after"))
        return 0;
    if (events_ends(request_app(request)->store, &ends, &err) < 0) {
        reply_error(request, &err);
        return -1;
    }
    query->after = ends.last;
    return 0;
}

static void stream(struct request *request, int64_t seen, struct events_query *query)
{
    if (read_place(request, seen, query) < 0)
        return;
    struct error err = ERROR_INIT;
    struct event_reader *reader = event_reader_new(request_app(request), query, &err);
    if (!reader) {
        reply_error(request, &err);
        return;
    }
    reply_header(request, "X-Accel-Buffering", "no");
    reply_stream(request, 200, STREAM_TYPE, event_reader_stream(reader));
}

static void page(struct request *request, const struct events_query *query)
{
    struct error err = ERROR_INIT;
    json_t *page = events_page(request_app(request)->store, query, &err);

    if (page)
        reply_json(request, 200, page);
    else
        reply_error(request, &err);
}

void handle_events(struct request *request)
{
    static const char *const offers[] = {JSON_TYPE, STREAM_TYPE};
    int form = accept_choose(request_header(request, "Accept"), offers, COUNT_OF(offers));
    const char *id = request_header(request, "Last-Event-ID");
    struct events_query query = {.limit = LIMIT_DEFAULT, .slug = request_query(request, "slug")};
    int64_t seen = -1;

    if (form < 0) {
        reply_fault(request, "not-acceptable", "the events are to be had as %s or %s", offers[0],
                    offers[1]);
        return;
    }
    if (query_integer(request, "after", 0, EVENT_ID_MAX, &query.after) < 0 ||
        query_integer(request, "limit", 1, EVENTS_PAGE_MAX, &query.limit) < 0 ||
        read_types(request, &query.types) < 0)
        return;
    if (query.slug && !slug_valid(query.slug)) {
        reply_fault(request, "invalid-query", "slug: no bottle can have that name");
        return;
    }
    if (id && number_parse(id, 0, EVENT_ID_MAX, &seen) < 0) {
        reply_fault(request, "bad-request", "Last-Event-ID: the id of an event, as it was given");
        return;
    }
    reply_header(request, "Vary", "Accept");
    if (form == 1)
        stream(request, seen, &query);
    else
        page(request, &query);
}
