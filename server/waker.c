/* The waker: one thread that resumes a parked stream as soon as its descriptor has something to
 * read (for one that rests: as soon as its client is gone), and does not leave it to the ticker.
 *
 * A descriptor is watched from when its stream parks until whoever is first, ticker or waker,
 * resumes it; http->lock decides. */
#include "server/request_internal.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/file.h"

enum { EVENTS_MAX = 64 };

void waker_watch(struct http *http, struct parked *parked)
{
    struct epoll_event event = {.events = parked->events | EPOLLONESHOT, .data.ptr = parked};

    /* When that fails the ticker is still there. */
    if (parked->fd >= 0)
        (void)epoll_ctl(http->waker_epoll, EPOLL_CTL_ADD, parked->fd, &event);
}

void waker_forget(struct http *http, const struct parked *parked)
{
    if (parked->fd >= 0)
        (void)epoll_ctl(http->waker_epoll, EPOLL_CTL_DEL, parked->fd, NULL);
}

/* Under the lock. The event may be of one that the ticker has resumed since: then it is not in the
 * list, or parked again, and is only asked a little sooner. */
static void resume(struct http *http, const struct parked *found)
{
    for (struct parked **at = &http->parked; *at; at = &(*at)->next) {
        struct parked *parked = *at;
        if (parked != found)
            continue;
        *at = parked->next;
        waker_forget(http, parked);
        MHD_resume_connection(parked->connection);
        return;
    }
}

static void *wake(void *context)
{
    struct http *http = context;
    struct epoll_event events[EVENTS_MAX];
    bool ends = false;

    while (!ends) {
        int count = epoll_wait(http->waker_epoll, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR)
            break;
        (void)pthread_mutex_lock(&http->lock);
        for (int i = 0; i < count; i++) {
            ends = ends || !events[i].data.ptr;
            resume(http, events[i].data.ptr);
        }
        (void)pthread_mutex_unlock(&http->lock);
    }
    return NULL;
}

int waker_start(struct http *http, struct error *err)
{
    struct epoll_event end = {.events = EPOLLIN, .data.ptr = NULL};

    http->waker_epoll = epoll_create1(EPOLL_CLOEXEC);
    http->waker_end = eventfd(0, EFD_CLOEXEC);
    if (http->waker_epoll < 0 || http->waker_end < 0 ||
        epoll_ctl(http->waker_epoll, EPOLL_CTL_ADD, http->waker_end, &end) < 0)
        return error_errno(err, NULL, "the waker");
    int result = pthread_create(&http->waker, NULL, wake, http);
    if (result)
        return error_set(err, NULL, "no thread for the waker (error %d)", result);
    http->waker_runs = true;
    return 0;
}

void waker_stop(struct http *http)
{
    const uint64_t one = 1;

    if (http->waker_runs && write_all(http->waker_end, (const char *)&one, sizeof one) == 0)
        (void)pthread_join(http->waker, NULL);
    http->waker_runs = false;
    if (http->waker_epoll >= 0)
        (void)close(http->waker_epoll);
    if (http->waker_end >= 0)
        (void)close(http->waker_end);
    http->waker_epoll = http->waker_end = -1;
}
