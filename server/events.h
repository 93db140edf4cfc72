/* The table of events: a window on the last ones, read in pages.
 *
 * Ids are dense and rising, over restarts too: the database gives them, and takes one back when its
 * transaction is undone. Only the oldest are removed, by a trigger (server/row.c). */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/store.h"

enum { EVENTS_PAGE_MAX = 1000, EVENT_TYPES_MAX = 32 };

/* The n-th type that an event may have ("bottle.running"), or NULL. */
const char *event_type(int n);
/* Its number, or -1. */
int event_type_parse(const char *name);

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
    uint32_t types;   /* a bit each, 0: any */
};

/* {"events": […], "next", "first", "gap"}: `next` is the `after` of the next page, `first` the
 * oldest event that is kept, `gap` whether events after `after` are gone. From any thread. NULL on
 * failure. */
json_t *events_page(struct store *store, const struct events_query *query, struct error *err);
