#include "server/events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/bottle.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/log.h"
#include "server/row.h"

static const char *const other_types[] = {
    "bottle.expired", "sidecar.ready",   "sidecar.exited",   "egress.allowed",
    "egress.denied",  "egress.lost",     "exec.finished",    "cleanup.finished",
    "image.progress", "image.ready",     "image.failed",     "image.deleted",
    "template.made",  "template.failed", "secrets.reloaded", "guest.out-of-memory",
    "guest.disk-full"};

static const char *const state_types[N_STATES] = {
    [STATE_PREPARED] = "bottle.prepared", [STATE_STARTING] = "bottle.starting",
    [STATE_RUNNING] = "bottle.running",   [STATE_PAUSED] = "bottle.paused",
    [STATE_STOPPING] = "bottle.stopping", [STATE_RESTARTING] = "bottle.restarting",
    [STATE_STOPPED] = "bottle.stopped",   [STATE_EXITED] = "bottle.exited",
    [STATE_FAILED] = "bottle.failed",     [STATE_DELETING] = "bottle.deleting"};

_Static_assert(N_STATES + COUNT_OF(other_types) <= EVENT_TYPES_MAX, "a bit each");

const char *event_type(int n)
{
    if (n >= 0 && n < N_STATES)
        return state_types[n];
    n -= N_STATES;
    return n >= 0 && n < (int)COUNT_OF(other_types) ? other_types[n] : NULL;
}

int event_type_parse(const char *name)
{
    const char *type;

    for (int i = 0; (type = event_type(i)); i++)
        if (strcmp(type, name) == 0)
            return i;
    return -1;
}

/* --- Statements that are used once ------------------------------------------------------------ */

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql, struct error *err)
{
    sqlite3_stmt *ret = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &ret, NULL) != SQLITE_OK)
        error_set(err, "store-failed", "the state database: %s", sqlite3_errmsg(db));
    return ret;
}

struct bound {
    int64_t rows;
};

static int bound_apply(sqlite3 *db, void *context, struct error *err)
{
    static const char *const commands[] = {
        "INSERT INTO meta (name, value) VALUES ('event_rows', ?1)"
        " ON CONFLICT (name) DO UPDATE SET value = ?1",
        "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?1"};
    const struct bound *bound = context;

    for (size_t i = 0; i < COUNT_OF(commands); i++) {
        sqlite3_stmt *command = prepare(db, commands[i], err);
        if (!command)
            return -1;
        (void)sqlite3_bind_int64(command, 1, bound->rows);
        int result = sqlite3_step(command);
        (void)sqlite3_finalize(command);
        if (result != SQLITE_DONE)
            return error_set(err, "store-failed", "the state database: %s", sqlite3_errmsg(db));
    }
    return 0;
}

int events_bound(struct store *store, int64_t rows, struct error *err)
{
    struct bound bound = {rows};

    return store_read(store, bound_apply, &bound, err);
}

/* --- Writing ---------------------------------------------------------------------------------- */

struct event {
    const char *type; /* static */
    char *detail;
};

struct event_list {
    char slug[SLUG_MAX + 1];
    int64_t time_ms;
    struct event *events;
    size_t count, room;
};

struct event_list *event_list_new(const char *slug)
{
    struct event_list *list = calloc(1, sizeof *list);

    if (!list)
        return NULL;
    (void)snprintf(list->slug, sizeof list->slug, "%s", slug);
    list->time_ms = clock_wall_ms();
    return list;
}

void event_list_add(struct event_list *list, const char *type, json_t *detail)
{
    if (list && list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 8;
        struct event *larger = realloc(list->events, room * sizeof *larger);
        list->room = larger ? room : list->room;
        list->events = larger ? larger : list->events;
    }
    if (list && list->count < list->room)
        list->events[list->count++] = (struct event){type, detail ? json_text(detail) : NULL};
    json_decref(detail);
}

static int list_apply(sqlite3 *db, void *context, struct error *err)
{
    const struct event_list *list = context;

    for (size_t i = 0; i < list->count; i++)
        if (event_insert(db, list->time_ms, list->slug, list->events[i].type,
                         list->events[i].detail, err) < 0)
            return -1;
    return 0;
}

static void list_done(void *context, const struct error *failure)
{
    struct event_list *list = context;

    if (failure)
        log_event(LEVEL_ERROR, "events could not be stored", LOG_TEXT("slug", list->slug),
                  LOG_NUMBER("count", (int64_t)list->count), LOG_TEXT("detail", failure->text));
    for (size_t i = 0; i < list->count; i++)
        free(list->events[i].detail);
    free(list->events);
    free(list);
}

void event_list_submit(struct event_list *list, struct store *store)
{
    if (list && list->count)
        store_submit(store, &(struct store_write){list_apply, list_done, list});
    else if (list)
        list_done(list, NULL);
}

/* --- A page ----------------------------------------------------------------------------------- */

struct page {
    const struct events_query *query;
    json_t *events;
    int64_t first, last; /* of what is kept; last + 1 and the last that ever was, when nothing is */
    int64_t next;
};

static int read_ends(sqlite3 *db, struct page *page, struct error *err)
{
    sqlite3_stmt *from = prepare(db,
                                 "SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'events'),"
                                 " (SELECT min(id) FROM events)",
                                 err);
    int result = from ? sqlite3_step(from) : SQLITE_ERROR;

    if (result == SQLITE_ROW) {
        page->last = sqlite3_column_int64(from, 0);
        page->first = sqlite3_column_type(from, 1) == SQLITE_INTEGER ? sqlite3_column_int64(from, 1)
                                                                     : page->last + 1;
    } else if (from) {
        error_set(err, "store-failed", "reading the events: %s", sqlite3_errmsg(db));
    }
    (void)sqlite3_finalize(from);
    return result == SQLITE_ROW ? 0 : -1;
}

static const char *column(sqlite3_stmt *from, int number)
{
    const char *text = (const char *)sqlite3_column_text(from, number);

    return text ? text : "";
}

static void add(struct page *page, sqlite3_stmt *from)
{
    const char *detail_text = column(from, 4);
    json_t *detail = json_parse(detail_text, strlen(detail_text), NULL);
    char stamp[TIMESTAMP_SIZE];

    timestamp_format(sqlite3_column_int64(from, 1), stamp);
    (void)json_array_append_new(page->events,
                                json_pack("{s:I, s:s, s:s, s:s, s:o}", "id",
                                          (json_int_t)sqlite3_column_int64(from, 0), "time", stamp,
                                          "slug", column(from, 2), "type", column(from, 3),
                                          "detail", detail ? detail : json_object()));
}

static bool wanted(const struct events_query *query, const char *type)
{
    int number = event_type_parse(type);

    return !query->types || (number >= 0 && query->types >> number & 1);
}

static int read_rows(sqlite3 *db, struct page *page, struct error *err)
{
    const struct events_query *query = page->query;
    sqlite3_stmt *from = prepare(db,
                                 "SELECT id, time, slug, type, detail FROM events WHERE id > ?1"
                                 " AND (?2 IS NULL OR slug = ?2) ORDER BY id",
                                 err);
    int step = SQLITE_DONE;

    if (!from)
        return -1;
    (void)sqlite3_bind_int64(from, 1, query->after);
    if (query->slug)
        (void)sqlite3_bind_text(from, 2, query->slug, -1, SQLITE_STATIC);
    page->next = page->last;
    while ((step = sqlite3_step(from)) == SQLITE_ROW) {
        if (!wanted(query, column(from, 3)))
            continue;
        add(page, from);
        if ((int64_t)json_array_size(page->events) < query->limit)
            continue;
        page->next = sqlite3_column_int64(from, 0);
        step = SQLITE_DONE;
        break;
    }
    if (step != SQLITE_DONE)
        error_set(err, "store-failed", "reading the events: %s", sqlite3_errmsg(db));
    (void)sqlite3_finalize(from);
    return step == SQLITE_DONE ? 0 : -1;
}

static int read_page(sqlite3 *db, void *context, struct error *err)
{
    struct page *page = context;

    return read_ends(db, page, err) < 0 ? -1 : read_rows(db, page, err);
}

json_t *events_page(struct store *store, const struct events_query *query, struct error *err)
{
    struct page page = {.query = query, .events = json_array()};

    if (store_look(store, read_page, &page, err) < 0) {
        json_decref(page.events);
        return NULL;
    }
    /* An id that was never given comes from another database, whose events are gone as well. */
    bool gap = query->after + 1 < page.first || query->after > page.last;
    return json_pack("{s:o, s:I, s:I, s:b}", "events", page.events, "next", (json_int_t)page.next,
                     "first", (json_int_t)page.first, "gap", (int)gap);
}
