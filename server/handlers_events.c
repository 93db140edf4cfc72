/* GET /events: a page of what happened, from the store. */
#include "api/spec.h"
#include "server/app.h"
#include "server/events.h"
#include "server/handlers.h"
#include "server/query.h"

enum { LIMIT_DEFAULT = 100 };

static int read_types(struct request *request, uint32_t *ret)
{
    const char *value;

    for (size_t k = 0; (value = request_query_nth(request, "type", k)); k++) {
        int number = event_type_parse(value);
        if (number < 0) {
            reply_fault(request, "invalid-query", "type: there is no event type \"%.64s\"", value);
            return -1;
        }
        *ret |= UINT32_C(1) << number;
    }
    return 0;
}

void handle_events(struct request *request)
{
    struct events_query query = {.limit = LIMIT_DEFAULT, .slug = request_query(request, "slug")};
    struct error err = ERROR_INIT;

    if (query_integer(request, "after", 0, INT64_MAX - 1, &query.after) < 0 ||
        query_integer(request, "limit", 1, EVENTS_PAGE_MAX, &query.limit) < 0 ||
        read_types(request, &query.types) < 0)
        return;
    if (query.slug && !slug_valid(query.slug)) {
        reply_fault(request, "invalid-query", "slug: no bottle can have that name");
        return;
    }
    json_t *page = events_page(request_app(request)->store, &query, &err);
    if (page)
        reply_json(request, 200, page);
    else
        reply_error(request, &err);
}
