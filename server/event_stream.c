/* A reader is its query, and one piece of text that is on its way. It is asked for more when its
 * client has taken that; so a client that does not read holds a piece, and its place in the events.
 *
 * An `id` without data dispatches nothing, but is where a client that comes back goes on: the first
 * one says where the stream begins, later ones where a filtered or silent stream has got to. */
#include "server/event_stream.h"

#include <stdatomic.h>
#include <stdio.h>

#include "api/spec.h"
#include "base/clock.h"
#include "base/util.h"
#include "server/feed.h"
#include "server/log.h"

enum {
    PIECE = 16 * 1024,
    SCAN_EVENTS = 500, /* of the store's, at one time */
    RETRY_MS = 1000,   /* when the client is to come back */
};

static atomic_llong n_readers;

struct event_reader {
    struct app *app;
    struct events_query query;
    char slug[SLUG_MAX + 1];
    int heartbeat_ms;
    int64_t spoke_ms;
    bool begun;
    struct text say;
    size_t said;
};

static void say_place(struct event_reader *reader)
{
    text_addf(&reader->say, "id: %lld\n\n", (long long)reader->query.after);
}

/* --- From the store --------------------------------------------------------------------------- */

struct scan {
    struct event_reader *reader;
    struct events_ends ends;
    int64_t after;
};

/* What is kept begins later than the reader would go on, or ends sooner (then its events were those
 * of another database). */
static void tell_gap(struct scan *scan)
{
    const struct events_ends *ends = &scan->ends;
    int64_t after = scan->after;

    if (after > ends->last)
        scan->after = ends->last;
    else if (after + 1 < ends->first)
        scan->after = ends->first - 1;
    if (scan->after != after)
        text_addf(&scan->reader->say,
                  "event: gap\nid: %lld\ndata: {\"after\":%lld,\"next\":%lld}\n\n",
                  (long long)scan->after, (long long)after, (long long)scan->after);
}

static bool add(void *context, const struct event_seen *seen)
{
    struct scan *scan = context;

    tell_gap(scan);
    feed_frame(&scan->reader->say, seen);
    scan->after = seen->id;
    return scan->reader->say.length < PIECE;
}

static int catch_up(struct event_reader *reader)
{
    struct scan scan = {.reader = reader, .after = reader->query.after};
    int64_t until = reader->query.after + SCAN_EVENTS;
    struct error err = ERROR_INIT;

    /* What is kept may begin behind `until`: then the next call goes on from there. */
    if (events_scan(reader->app->store, &reader->query, until, &scan.ends, add, &scan, &err) < 0) {
        log_event(LEVEL_WARNING, "a reader of events is cut off", LOG_TEXT("detail", err.text));
        return -1;
    }
    tell_gap(&scan);
    if (reader->say.length < PIECE && scan.after < until)
        scan.after = until < scan.ends.last ? until : scan.ends.last;
    reader->query.after = scan.after;
    if (reader->say.length == 0)
        say_place(reader);
    return 0;
}

/* --- The body --------------------------------------------------------------------------------- */

static int fill(struct event_reader *reader)
{
    int64_t now = clock_monotonic_ms();

    text_free(&reader->say);
    reader->said = 0;
    if (!reader->begun) {
        text_addf(&reader->say, "retry: %d\n", RETRY_MS);
        say_place(reader);
    }
    /* Begins with the store, which knows whether it ever gave that id. */
    if ((!reader->begun || !feed_take(reader->app->feed, &reader->query, &reader->say, PIECE)) &&
        catch_up(reader) < 0)
        return -1;
    reader->begun = true;
    if (reader->say.length == 0 && now - reader->spoke_ms >= reader->heartbeat_ms / 2) {
        text_add(&reader->say, ": still here\n");
        say_place(reader);
    }
    if (reader->say.length)
        reader->spoke_ms = now;
    return reader->say.failed ? -1 : 0;
}

static ssize_t next(void *context, char *out, size_t room)
{
    struct event_reader *reader = context;

    if (reader->said == reader->say.length && fill(reader) < 0)
        return STREAM_END;
    size_t left = reader->say.length - reader->said, length = left < room ? left : room;
    if (length)
        memcpy(out, reader->say.data + reader->said, length);
    reader->said += length;
    return (ssize_t)length;
}

static void done(void *context)
{
    struct event_reader *reader = context;

    feed_leave(reader->app->feed);
    text_free(&reader->say);
    free(reader);
    (void)atomic_fetch_sub(&n_readers, 1);
}

struct event_reader *event_reader_new(struct app *app, const struct events_query *query,
                                      struct error *err)
{
    const long long most = app->config.max_event_readers;
    bool room = atomic_fetch_add(&n_readers, 1) < most;
    struct event_reader *reader = room ? calloc(1, sizeof *reader) : NULL;

    if (!reader) {
        (void)atomic_fetch_sub(&n_readers, 1);
        (void)error_set(err, room ? "internal" : "too-many-readers",
                        room ? "out of memory"
                             : "as many clients follow the events as this daemon takes "
                               "(max_event_readers); read them in pages, or try again later");
        return NULL;
    }
    reader->app = app;
    feed_join(app->feed);
    reader->query = *query;
    if (query->slug) {
        (void)snprintf(reader->slug, sizeof reader->slug, "%s", query->slug);
        reader->query.slug = reader->slug;
    }
    reader->heartbeat_ms = (int)app->config.event_heartbeat_ms;
    reader->spoke_ms = clock_monotonic_ms();
    return reader;
}

struct stream event_reader_stream(struct event_reader *reader)
{
    return (struct stream){
        .next = next, .done = done, .context = reader, .rest_ms = reader->heartbeat_ms / 2};
}
