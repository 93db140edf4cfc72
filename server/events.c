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
#include "server/sql.h"

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

uint64_t event_types_named(const char *name)
{
    size_t length = strlen(name);
    bool family = length > 2 && strcmp(name + length - 2, ".*") == 0;
    const char *type;
    uint64_t ret = 0;

    for (int i = 0; (type = event_type(i)); i++)
        if (family ? strncmp(type, name, length - 1) == 0 : strcmp(type, name) == 0)
            ret |= UINT64_C(1) << i;
    return ret;
}

/* --- How many are kept ------------------------------------------------------------------------ */

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
        sqlite3_stmt *command = sql_prepare(db, commands[i], err);
        if (!command)
            return -1;
        (void)sqlite3_bind_int64(command, 1, bound->rows);
        if (sql_finish(db, command, err) < 0)
            return -1;
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

/* --- Reading ---------------------------------------------------------------------------------- */

struct scan {
    const struct events_query *query;
    int64_t until;
    struct events_ends *ends;
    bool (*row)(struct scan *scan, sqlite3_stmt *from, int type);
    events_visit *visit;
    void *context;
};

static int read_ends(sqlite3 *db, void *context, struct error *err)
{
    struct events_ends *ends = context;
    sqlite3_stmt *from =
        sql_prepare(db,
                    "SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'events'),"
                    " (SELECT min(id) FROM events)",
                    err);
    int result = from ? sqlite3_step(from) : SQLITE_ERROR;

    if (result == SQLITE_ROW) {
        ends->last = sqlite3_column_int64(from, 0);
        ends->first = sqlite3_column_type(from, 1) == SQLITE_INTEGER ? sqlite3_column_int64(from, 1)
                                                                     : ends->last + 1;
    } else if (from) {
        (void)sql_failed(db, err);
    }
    (void)sqlite3_finalize(from);
    return result == SQLITE_ROW ? 0 : -1;
}

int events_ends(struct store *store, struct events_ends *ret, struct error *err)
{
    return store_look(store, read_ends, ret, err);
}

static json_t *encode(sqlite3_stmt *from)
{
    const char *detail_text = sql_text(from, 4);
    json_t *detail = json_parse(detail_text, strlen(detail_text), NULL);
    char stamp[TIMESTAMP_SIZE];

    timestamp_format(sqlite3_column_int64(from, 1), stamp);
    return json_pack("{s:I, s:s, s:s, s:s, s:o}", "id", (json_int_t)sqlite3_column_int64(from, 0),
                     "time", stamp, "slug", sql_text(from, 2), "type", sql_text(from, 3), "detail",
                     detail ? detail : json_object());
}

static int read_rows(sqlite3 *db, void *context, struct error *err)
{
    struct scan *scan = context;
    const struct events_query *query = scan->query;
    int step = SQLITE_DONE;
    bool more = true;

    if (read_ends(db, scan->ends, err) < 0)
        return -1;
    sqlite3_stmt *from =
        sql_prepare(db,
                    "SELECT id, time, slug, type, detail FROM events WHERE id > ?1 AND id <= ?3"
                    " AND (?2 IS NULL OR slug = ?2) ORDER BY id",
                    err);
    if (!from)
        return -1;
    (void)sqlite3_bind_int64(from, 1, query->after);
    (void)sqlite3_bind_int64(from, 3, scan->until);
    if (query->slug)
        (void)sqlite3_bind_text(from, 2, query->slug, -1, SQLITE_STATIC);
    while (more && (step = sqlite3_step(from)) == SQLITE_ROW) {
        int type = event_type_parse(sql_text(from, 3));
        if (!query->types || (type >= 0 && query->types >> type & 1))
            more = scan->row(scan, from, type);
    }
    if (more && step != SQLITE_DONE)
        (void)sql_failed(db, err);
    (void)sqlite3_finalize(from);
    return !more || step == SQLITE_DONE ? 0 : -1;
}

static bool show_row(struct scan *scan, sqlite3_stmt *from, int type)
{
    CLEANUP_JSON json_t *event = encode(from);
    CLEANUP_FREE char *json = event ? json_text(event) : NULL;
    const struct event_seen seen = {.id = sqlite3_column_int64(from, 0),
                                    .type = type,
                                    .slug = sql_text(from, 2),
                                    .json = json ? json : "{}"};

    return scan->visit(scan->context, &seen);
}

int events_scan(struct store *store, const struct events_query *query, int64_t until,
                struct events_ends *ends, events_visit *visit, void *context, struct error *err)
{
    struct scan scan = {.query = query,
                        .until = until,
                        .ends = ends,
                        .row = show_row,
                        .visit = visit,
                        .context = context};

    return store_look(store, read_rows, &scan, err);
}

/* --- A page ----------------------------------------------------------------------------------- */

struct page {
    json_t *events;
    int64_t next; /* 0: the page has all that there is */
};

static bool add_row(struct scan *scan, sqlite3_stmt *from, int type)
{
    struct page *page = scan->context;

    (void)type;
    (void)json_array_append_new(page->events, encode(from));
    if ((int64_t)json_array_size(page->events) < scan->query->limit)
        return true;
    page->next = sqlite3_column_int64(from, 0);
    return false;
}

json_t *events_page(struct store *store, const struct events_query *query, struct error *err)
{
    struct page page = {.events = json_array()};
    struct events_ends ends = {0};
    struct scan scan = {
        .query = query, .until = INT64_MAX, .ends = &ends, .row = add_row, .context = &page};

    if (store_look(store, read_rows, &scan, err) < 0) {
        json_decref(page.events);
        return NULL;
    }
    /* An id that was never given comes from another database, whose events are gone as well. */
    bool gap = query->after + 1 < ends.first || query->after > ends.last;
    return json_pack("{s:o, s:I, s:I, s:b}", "events", page.events, "next",
                     (json_int_t)(page.next ? page.next : ends.last), "first",
                     (json_int_t)ends.first, "gap", (int)gap);
}
