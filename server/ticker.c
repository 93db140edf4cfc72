/* The ticker: one thread that wakes what libmicrohttpd leaves asleep, and looks for clients that
 * are too slow.
 *
 * A content reader that returns 0 is called again at once, for ever; so a stream with nothing to
 * say suspends its connection (parks) and is resumed within 100 ms. One that knows when it will
 * have something to say rests instead, until http_ring(): a thousand of them cost nothing
 * meanwhile. A suspended connection never notices that its client left; so requests that wait for
 * more than a second are looked at once a second, and the waker looks after streams that rest. With
 * none of them, the thread sleeps. */
#include "server/http.h"
#include "server/request_internal.h"

#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

#include "base/clock.h"

enum { STREAM_MS = 100, LOOK_MS = 1000, LINGER_MS = 50 };

static int connection_fd(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    return info ? info->connect_fd : -1;
}

bool connection_gone(struct MHD_Connection *connection, bool tcp)
{
    /* A TCP peer that closed shows as a half-closed one; a Unix peer that half-closed is still
     * there to read. */
    struct pollfd state = {.fd = connection_fd(connection), .events = (short)(tcp ? POLLRDHUP : 0)};

    return poll(&state, 1, 0) > 0 && state.revents & (POLLHUP | POLLERR | POLLRDHUP);
}

/* In whole rounds, so that those of one round are resumed together. */
static int64_t round_after(int64_t ms)
{
    return ((clock_monotonic_ms() + ms) / STREAM_MS + 1) * STREAM_MS;
}

/* Under the lock. */
static void park(struct http *http, struct parked *parked, struct parked row)
{
    row.next = http->parked;
    *parked = row;
    http->parked = parked;
    MHD_suspend_connection(row.connection);
    waker_watch(http, parked);
    if (row.due_ms < http->ticker_due_ms)
        (void)pthread_cond_broadcast(&http->changed);
}

enum park ticker_park(struct http *http, struct parked *parked, struct MHD_Connection *connection,
                      int fd)
{
    (void)pthread_mutex_lock(&http->lock);
    enum park ret = http->stopping ? PARK_ENDING : PARK_PARKED;
    if (ret == PARK_PARKED)
        park(http, parked,
             (struct parked){
                 .connection = connection, .fd = fd, .events = EPOLLIN, .due_ms = round_after(0)});
    (void)pthread_mutex_unlock(&http->lock);
    return ret;
}

enum park ticker_rest(struct http *http, struct parked *parked, struct MHD_Connection *connection,
                      bool tcp, int rest_ms, unsigned rings)
{
    (void)pthread_mutex_lock(&http->lock);
    enum park ret = http->stopping                       ? PARK_ENDING
                    : atomic_load(&http->rings) != rings ? PARK_RANG
                                                         : PARK_PARKED;
    if (ret == PARK_PARKED)
        park(http, parked,
             (struct parked){.connection = connection,
                             .fd = connection_fd(connection),
                             .events = tcp ? EPOLLRDHUP : 0, /* EPOLLHUP comes unasked */
                             .due_ms = round_after(rest_ms),
                             .rests = true});
    (void)pthread_mutex_unlock(&http->lock);
    return ret;
}

/* Under the lock: resumes those that are due (or that rest, when `rung`), and gives when the next
 * of the others is. */
static int64_t resume_parked(struct http *http, int64_t now, bool rung)
{
    int64_t next_ms = INT64_MAX;

    for (struct parked **at = &http->parked; *at;) {
        struct parked *parked = *at;
        if (parked->due_ms > now && !(rung && parked->rests)) {
            next_ms = parked->due_ms < next_ms ? parked->due_ms : next_ms;
            at = &parked->next;
            continue;
        }
        /* Resumed, a connection may end at once and take its `parked` with it. */
        *at = parked->next;
        waker_forget(http, parked);
        MHD_resume_connection(parked->connection);
    }
    return next_ms;
}

void http_ring(void *context)
{
    struct http *http = context;

    (void)pthread_mutex_lock(&http->lock);
    (void)atomic_fetch_add(&http->rings, 1);
    (void)resume_parked(http, INT64_MIN, true);
    (void)pthread_mutex_unlock(&http->lock);
}

/* Under the lock. */
static void drop_gone(struct http *http)
{
    int64_t now = clock_monotonic_ms();
    struct request *next;

    for (struct request *request = http->suspended; request; request = next) {
        next = request->next;
        if (now - request->suspended_ms >= LOOK_MS &&
            connection_gone(request->connection, request->listener->tcp))
            request_abandon(request, 499, NULL);
    }
}

/* Whatever wakes it early does no harm. */
static void wait_until(struct http *http, int64_t at_ms)
{
    const struct timespec until = {.tv_sec = at_ms / 1000, .tv_nsec = at_ms % 1000 * 1000000};

    http->ticker_due_ms = at_ms;
    if (at_ms == INT64_MAX)
        (void)pthread_cond_wait(&http->changed, &http->lock);
    else
        (void)pthread_cond_timedwait(&http->changed, &http->lock, &until);
}

static void *tick(void *context)
{
    struct http *http = context;
    int64_t looked_ms = 0;

    (void)pthread_mutex_lock(&http->lock);
    while (!http->stopping) {
        int64_t now = clock_monotonic_ms();
        int64_t due_ms = resume_parked(http, now, false);
        if ((http->suspended || http->connections) && now - looked_ms >= LOOK_MS) {
            drop_gone(http);
            connections_tick(http);
            looked_ms = now;
        }
        connections_linger(http, false);
        if ((http->suspended || http->connections) && looked_ms + LOOK_MS < due_ms)
            due_ms = looked_ms + LOOK_MS;
        if (http->n_lingering && now + LINGER_MS < due_ms)
            due_ms = now + LINGER_MS;
        wait_until(http, due_ms);
    }
    (void)resume_parked(http, INT64_MAX, false);
    (void)pthread_mutex_unlock(&http->lock);
    return NULL;
}

int ticker_start(struct http *http, struct error *err)
{
    int result = pthread_create(&http->ticker, NULL, tick, http);

    if (result)
        return error_set(err, NULL, "no thread for the ticker (error %d)", result);
    http->ticker_runs = true;
    return 0;
}
