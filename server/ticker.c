/* The ticker: one thread that wakes what libmicrohttpd leaves asleep, and looks for clients that
 * are too slow.
 *
 * A content reader that returns 0 is called again at once, for ever; so a stream with nothing to
 * say suspends its connection (parks) and is resumed within 100 ms. A suspended connection never
 * notices that its client left; so those that wait for more than a second are looked at once a
 * second. With neither, the thread sleeps. */
#include "server/request_internal.h"

#include <poll.h>
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

bool ticker_park(struct http *http, struct parked *parked, struct MHD_Connection *connection,
                 int fd)
{
    (void)pthread_mutex_lock(&http->lock);
    bool parks = !http->stopping;
    if (parks) {
        *parked = (struct parked){.connection = connection, .fd = fd, .next = http->parked};
        http->parked = parked;
        MHD_suspend_connection(connection);
        waker_watch(http, parked);
        (void)pthread_cond_broadcast(&http->changed);
    }
    (void)pthread_mutex_unlock(&http->lock);
    return parks;
}

/* Under the lock. */
static void resume_parked(struct http *http)
{
    struct parked *next;

    /* Resumed, a connection may end at once and take its `parked` with it: read `next` first. */
    for (struct parked *parked = http->parked; parked; parked = next) {
        next = parked->next;
        waker_forget(http, parked);
        MHD_resume_connection(parked->connection);
    }
    http->parked = NULL;
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

static void wait_ms(struct http *http, int64_t ms)
{
    struct timespec until;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    /* Whatever wakes it early does no harm: streams are only asked a little sooner. */
    (void)pthread_cond_timedwait(&http->changed, &http->lock, &until);
}

static void *tick(void *context)
{
    struct http *http = context;
    int64_t looked_ms = 0, resumed_ms = 0;

    (void)pthread_mutex_lock(&http->lock);
    while (!http->stopping) {
        int64_t now = clock_monotonic_ms();
        if (http->parked && now - resumed_ms >= STREAM_MS) {
            resume_parked(http);
            resumed_ms = now;
        }
        if ((http->suspended || http->connections) && now - looked_ms >= LOOK_MS) {
            drop_gone(http);
            connections_tick(http);
            looked_ms = now;
        }
        connections_linger(http, false);
        if (http->n_lingering)
            wait_ms(http, LINGER_MS);
        else if (http->parked)
            wait_ms(http, STREAM_MS - (now - resumed_ms) > 0 ? STREAM_MS - (now - resumed_ms) : 1);
        else if (http->suspended || http->connections)
            wait_ms(http, LOOK_MS);
        else
            (void)pthread_cond_wait(&http->changed, &http->lock);
    }
    resume_parked(http);
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
