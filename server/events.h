/* The table of events: a window on the last ones, read in pages. (Their live end is feed.h.)
 *
 * Ids are dense and rising, over restarts too: the database gives them, and takes one back when its
 * transaction is undone. Only the oldest are removed, by a trigger (server/row.c). */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/store.h"

enum { EVENTS_PAGE_MAX = 1000, EVENT_TYPES_MAX = 64 };
/* The largest whole number that every reader of JSON has exactly (RFC 8259, 6). */
#define EVENT_ID_MAX ((INT64_C(1) << 53) - 1)

/* The n-th type that an event may have ("bottle.running"), or NULL. */
const char *event_type(int n);
/* Its number, or -1. */
int event_type_parse(const char *name);
/* A bit for each type that this names: a type, or the types of a family ("bottle.*"). 0: none. */
uint64_t event_types_named(const char *name);

/* Keeps the last `rows` events from here on. Before the store is written by others. */
int events_bound(struct store *store, int64_t rows, struct error *err);

/* Events of one bottle that happened together; `detail` is JSON. */
struct event_list;
/* NULL when memory is short. */
struct event_list *event_list_new(const char *slug);
/* Takes `detail` over (NULL: none). */
void event_list_add(struct event_list *list, const char *type, json_t *detail);
/* Queues them to be stored, in one transaction, and takes the list over (NULL: none). What could
 * not be stored is logged. */
void event_list_submit(struct event_list *list, struct store *store);

struct events_query {
    int64_t after;
    int64_t limit;    /* 1 … EVENTS_PAGE_MAX */
    const char *slug; /* NULL: any */
    uint64_t types;   /* a bit each, 0: any */
};

/* What is kept: last + 1 and the last that ever was, when nothing is. */
struct events_ends {
    int64_t first, last;
};
int events_ends(struct store *store, struct events_ends *ret, struct error *err);

/* An event as JSON, borrowed for the call. False: no more. */
struct event_seen {
    int64_t id;
    int type; /* -1: unknown here */
    const char *slug, *json;
};
typedef bool events_visit(void *context, const struct event_seen *seen);
/* Shows what the query wants of the ids up to `until`, in order; `limit` is not looked at. *ends
 * are there before the first is shown. From any thread. */
int events_scan(struct store *store, const struct events_query *query, int64_t until,
                struct events_ends *ends, events_visit *visit, void *context, struct error *err);

/* {"events": […], "next", "first", "gap"}: `next` is the `after` of the next page, `first` the
 * oldest event that is kept, `gap` whether events after `after` are gone. From any thread. NULL on
 * failure. */
json_t *events_page(struct store *store, const struct events_query *query, struct error *err);
