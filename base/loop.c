#include "base/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"

enum { EVENTS_MAX = 64 };

struct loop {
    int epoll;
    bool quitting;
    struct loop_timer *timers; /* sorted, earliest first */
    struct epoll_event events[EVENTS_MAX];
    int n_events;
};

struct loop *loop_new(struct error *err)
{
    struct loop *loop = calloc(1, sizeof *loop);

    if (!loop || (loop->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) {
        error_errno(err, NULL, "event loop");
        free(loop);
        return NULL;
    }
    return loop;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    (void)close(loop->epoll);
    free(loop);
}

int loop_add(struct loop *loop, struct loop_source *source, struct error *err)
{
    struct epoll_event event = {.events = source->events, .data.ptr = source};

    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, source->fd, &event) < 0)
        return error_errno(err, NULL, "watching descriptor %d", source->fd);
    source->active = true;
    return 0;
}

int loop_modify(struct loop *loop, struct loop_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};

    if (source->events == events)
        return 0;
    source->events = events;
    return epoll_ctl(loop->epoll, EPOLL_CTL_MOD, source->fd, &event);
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
    if (!source->active)
        return;
    source->active = false;
    (void)epoll_ctl(loop->epoll, EPOLL_CTL_DEL, source->fd, NULL);
    for (int i = 0; i < loop->n_events; i++)
        if (loop->events[i].data.ptr == source)
            loop->events[i].data.ptr = NULL;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
    if (!timer->active)
        return;
    timer->active = false;
    if (timer->previous)
        timer->previous->next = timer->next;
    else
        loop->timers = timer->next;
    if (timer->next)
        timer->next->previous = timer->previous;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t at_ms)
{
    struct loop_timer *before = NULL, *after;

    loop_timer_cancel(loop, timer);
    for (after = loop->timers; after && after->at_ms <= at_ms; after = after->next)
        before = after;
    timer->at_ms = at_ms;
    timer->active = true;
    timer->previous = before;
    timer->next = after;
    if (before)
        before->next = timer;
    else
        loop->timers = timer;
    if (after)
        after->previous = timer;
}

/* Milliseconds until the first timer, for epoll_wait: -1 when there is none. */
static int next_timeout(const struct loop *loop)
{
    if (!loop->timers)
        return -1;
    int64_t left = loop->timers->at_ms - clock_monotonic_ms();
    return left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static void fire_timers(struct loop *loop)
{
    int64_t now = clock_monotonic_ms();

    while (!loop->quitting && loop->timers && loop->timers->at_ms <= now) {
        struct loop_timer *timer = loop->timers;
        loop_timer_cancel(loop, timer);
        timer->callback(timer);
    }
}

int loop_run(struct loop *loop, struct error *err)
{
    loop->quitting = false;
    while (!loop->quitting) {
        int n = epoll_wait(loop->epoll, loop->events, EVENTS_MAX, next_timeout(loop));
        if (n < 0 && errno != EINTR)
            return error_errno(err, NULL, "waiting for events");
        loop->n_events = n < 0 ? 0 : n;
        for (int i = 0; i < loop->n_events && !loop->quitting; i++) {
            struct loop_source *source = loop->events[i].data.ptr;
            if (source)
                source->callback(source, loop->events[i].events);
        }
        loop->n_events = 0;
        fire_timers(loop);
    }
    return 0;
}

void loop_quit(struct loop *loop)
{
    loop->quitting = true;
}
