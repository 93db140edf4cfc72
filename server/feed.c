/* One thread follows the table: the store tells it of each commit, it reads what is new, keeps that
 * in a ring, and rings. It rests a moment after each round, so that under a flood of events a
 * thousand readers are woken some fifty times a second and not for every event. Without a reader it
 * lets them pass; with the first one it begins anew, at the store's end. */
#include "server/feed.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "api/spec.h"
#include "base/clock.h"
#include "base/util.h"
#include "server/log.h"

enum { ROUND_MS = 20, ROUND_EVENTS = 1000, RETRY_MS = 1000 };

/* Its frame is behind it, in the same block. */
struct kept {
    int type;
    size_t length;
    char slug[SLUG_MAX + 1];
    char frame[];
};

struct feed {
    struct store *store;
    pthread_t thread;
    bool runs;
    bool behind; /* of the thread alone: events have passed that it did not read */

    pthread_mutex_t lock; /* up to `ending`; never held for long: the store's writer waits for it */
    pthread_cond_t told_one;
    bool told, ending;
    unsigned readers;

    pthread_mutex_t listen_lock; /* up to `listener`; held while it rings */
    void (*ring)(void *context);
    void *listener;

    pthread_rwlock_t ring_lock;
    int64_t rows;
    struct kept *events[FEED_EVENTS]; /* by id, modulo */
    int64_t before, last;             /* ids behind `before`, up to `last`, are here */
    size_t bytes;
};

void feed_frame(struct text *out, const struct event_seen *seen)
{
    text_addf(out, "id: %lld\ndata: %s\n\n", (long long)seen->id, seen->json);
}

static struct kept **place(struct feed *feed, int64_t id)
{
    return &feed->events[id % FEED_EVENTS];
}

static void drop_oldest(struct feed *feed)
{
    struct kept **kept = place(feed, ++feed->before);

    feed->bytes -= *kept ? (*kept)->length : 0;
    free(*kept);
    *kept = NULL;
}

static void drop_all(struct feed *feed, int64_t last)
{
    while (feed->before < feed->last)
        drop_oldest(feed);
    feed->before = feed->last = last;
}

/* --- Following -------------------------------------------------------------------------------- */

struct round {
    struct feed *feed;
    struct events_query query;
    unsigned count;
};

static struct kept *keep(const struct event_seen *seen)
{
    CLEANUP_TEXT struct text frame = TEXT_INIT;

    feed_frame(&frame, seen);
    struct kept *ret = frame.failed ? NULL : malloc(sizeof *ret + frame.length);
    if (!ret)
        return NULL;
    ret->type = seen->type;
    ret->length = frame.length;
    (void)snprintf(ret->slug, sizeof ret->slug, "%s", seen->slug);
    memcpy(ret->frame, frame.data, frame.length);
    return ret;
}

static bool add(void *context, const struct event_seen *seen)
{
    struct round *round = context;
    struct feed *feed = round->feed;
    struct kept *kept = keep(seen);

    (void)pthread_rwlock_wrlock(&feed->ring_lock);
    /* Ids have no holes; were there one, or no memory, readers go to the store for it. */
    if (!kept || seen->id != feed->last + 1)
        drop_all(feed, kept ? seen->id - 1 : seen->id);
    while (kept && feed->before < feed->last &&
           (feed->last - feed->before == feed->rows || feed->bytes + kept->length > FEED_BYTES))
        drop_oldest(feed);
    if (kept) {
        *place(feed, seen->id) = kept;
        feed->bytes += kept->length;
        feed->last = seen->id;
    }
    (void)pthread_rwlock_unlock(&feed->ring_lock);
    return ++round->count < ROUND_EVENTS;
}

static void wake_readers(struct feed *feed)
{
    (void)pthread_mutex_lock(&feed->listen_lock);
    if (feed->ring)
        feed->ring(feed->listener);
    (void)pthread_mutex_unlock(&feed->listen_lock);
}

/* What is kept begins at `last`; what is not is the store's. */
static void begin_at(struct feed *feed, int64_t last)
{
    (void)pthread_rwlock_wrlock(&feed->ring_lock);
    drop_all(feed, last);
    (void)pthread_rwlock_unlock(&feed->ring_lock);
}

/* Goes on where the store is: its reader has been there, or is rung to go. */
static int catch_up(struct feed *feed, struct error *err)
{
    struct events_ends ends;

    if (events_ends(feed->store, &ends, err) < 0)
        return -1;
    begin_at(feed, ends.last);
    feed->behind = false;
    wake_readers(feed);
    return 0;
}

static int read_new(struct feed *feed, struct error *err)
{
    struct round round = {.feed = feed};
    struct events_ends ends;

    do {
        round.count = 0;
        round.query.after = feed->last; /* changed by this thread alone */
        if (events_scan(feed->store, &round.query, INT64_MAX, &ends, add, &round, err) < 0)
            return -1;
        if (round.count)
            wake_readers(feed);
    } while (round.count == ROUND_EVENTS);
    return 0;
}

/* How long to rest, in milliseconds. */
static int follow(struct feed *feed, bool read)
{
    struct error err = ERROR_INIT;

    if (!read && !feed->behind)
        begin_at(feed, feed->last);
    feed->behind = feed->behind || !read;
    if (!read || ((!feed->behind || catch_up(feed, &err) == 0) && read_new(feed, &err) == 0))
        return ROUND_MS;
    log_event(LEVEL_WARNING, "the events can not be followed", LOG_TEXT("detail", err.text));
    return RETRY_MS;
}

/* Under the lock. */
static void rest(struct feed *feed, int ms)
{
    int64_t until_ms = clock_monotonic_ms() + ms;
    const struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};

    while (!feed->ending && clock_monotonic_ms() < until_ms)
        (void)pthread_cond_clockwait(&feed->told_one, &feed->lock, CLOCK_MONOTONIC, &until);
}

static void *feed_main(void *context)
{
    struct feed *feed = context;

    (void)pthread_setname_np(pthread_self(), "feed");
    (void)pthread_mutex_lock(&feed->lock);
    while (!feed->ending) {
        if (!feed->told) {
            (void)pthread_cond_wait(&feed->told_one, &feed->lock);
            continue;
        }
        feed->told = false;
        bool read = feed->readers > 0;
        (void)pthread_mutex_unlock(&feed->lock);
        int ms = follow(feed, read);
        (void)pthread_mutex_lock(&feed->lock);
        feed->told = feed->told || ms == RETRY_MS;
        rest(feed, ms);
    }
    (void)pthread_mutex_unlock(&feed->lock);
    return NULL;
}

/* On the store's writer thread. */
static void tell(void *context)
{
    struct feed *feed = context;

    (void)pthread_mutex_lock(&feed->lock);
    feed->told = true;
    (void)pthread_cond_signal(&feed->told_one);
    (void)pthread_mutex_unlock(&feed->lock);
}

/* --- Outside ---------------------------------------------------------------------------------- */

struct feed *feed_start(struct store *store, int64_t rows, struct error *err)
{
    struct feed *feed = calloc(1, sizeof *feed);
    struct events_ends ends;

    if (!feed) {
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    feed->store = store;
    feed->rows = rows < FEED_EVENTS ? rows : FEED_EVENTS;
    (void)pthread_mutex_init(&feed->lock, NULL);
    (void)pthread_mutex_init(&feed->listen_lock, NULL);
    (void)pthread_cond_init(&feed->told_one, NULL);
    (void)pthread_rwlock_init(&feed->ring_lock, NULL);
    if (events_ends(store, &ends, err) == 0) {
        feed->before = feed->last = ends.last;
        int result = pthread_create(&feed->thread, NULL, feed_main, feed);
        feed->runs = result == 0;
        if (result)
            error_set(err, NULL, "no thread for the events (error %d)", result);
    }
    if (feed->runs) {
        store_tell(store, tell, feed);
        return feed;
    }
    feed_free(feed);
    return NULL;
}

void feed_free(struct feed *feed)
{
    if (!feed)
        return;
    if (feed->runs) {
        store_tell(feed->store, NULL, NULL);
        (void)pthread_mutex_lock(&feed->lock);
        feed->ending = true;
        (void)pthread_cond_broadcast(&feed->told_one);
        (void)pthread_mutex_unlock(&feed->lock);
        (void)pthread_join(feed->thread, NULL);
    }
    drop_all(feed, feed->last);
    (void)pthread_rwlock_destroy(&feed->ring_lock);
    (void)pthread_cond_destroy(&feed->told_one);
    (void)pthread_mutex_destroy(&feed->listen_lock);
    (void)pthread_mutex_destroy(&feed->lock);
    free(feed);
}

void feed_listen(struct feed *feed, void (*ring)(void *context), void *context)
{
    (void)pthread_mutex_lock(&feed->listen_lock);
    feed->ring = ring;
    feed->listener = context;
    (void)pthread_mutex_unlock(&feed->listen_lock);
}

void feed_join(struct feed *feed)
{
    (void)pthread_mutex_lock(&feed->lock);
    if (feed->readers++ == 0)
        feed->told = true;
    (void)pthread_cond_signal(&feed->told_one);
    (void)pthread_mutex_unlock(&feed->lock);
}

void feed_leave(struct feed *feed)
{
    (void)pthread_mutex_lock(&feed->lock);
    feed->readers--;
    (void)pthread_mutex_unlock(&feed->lock);
}

static bool wanted(const struct events_query *query, const struct kept *kept)
{
    return (!query->types || (kept->type >= 0 && query->types >> kept->type & 1)) &&
           (!query->slug || strcmp(query->slug, kept->slug) == 0);
}

bool feed_take(struct feed *feed, struct events_query *query, struct text *out, size_t most)
{
    (void)pthread_rwlock_rdlock(&feed->ring_lock);
    bool here = query->after >= feed->before;
    while (here && query->after < feed->last && out->length < most) {
        const struct kept *kept = *place(feed, ++query->after);
        if (wanted(query, kept))
            text_add_bytes(out, kept->frame, kept->length);
    }
    (void)pthread_rwlock_unlock(&feed->ring_lock);
    return here;
}
