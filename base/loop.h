/* One epoll loop per process or thread: descriptors, timers and nothing else.
 *
 * A source is embedded in whatever it serves; its callback gets it back and reaches its owner by
 * container_of-like arithmetic (`data`). Removing a source inside any callback is allowed: events
 * already fetched for it are dropped. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct loop;
struct loop_source;
typedef void loop_callback(struct loop_source *source, uint32_t events);

struct loop_source {
    int fd;
    uint32_t events;
    loop_callback *callback;
    void *data;
    bool active;
};

struct loop_timer {
    int64_t at_ms; /* monotonic */
    void (*callback)(struct loop_timer *timer);
    void *data;
    bool active;
    struct loop_timer *next, *previous;
};

struct loop *loop_new(struct error *err);
void loop_free(struct loop *loop); /* sources and timers belong to their owners */
/* Watches source->fd for source->events. */
int loop_add(struct loop *loop, struct loop_source *source, struct error *err);
int loop_modify(struct loop *loop, struct loop_source *source, uint32_t events);
void loop_remove(struct loop *loop, struct loop_source *source);
/* (Re)arms a timer to fire once at `at_ms` on the monotonic clock. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, int64_t at_ms);
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);
/* Runs until loop_quit; -1 when waiting itself failed. */
int loop_run(struct loop *loop, struct error *err);
/* Only from the loop's own thread. */
void loop_quit(struct loop *loop);
