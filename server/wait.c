/* Waiting for a state: a list of waiters, each with a timer; and watching all of them. Once a
 * second those whose answer nobody wants any more are let go: a client that left keeps no place.
 *
 * Every published snapshot is shown to every waiter and watcher, in order, so that a state that
 * lasts a millisecond is not missed. The list is bounded by max_waiters; walking it costs less than
 * making the snapshot. */
#include <stdio.h>
#include <utlist.h>

#include "base/clock.h"
#include "base/util.h"
#include "server/engine_internal.h"

enum { LOOK_MS = 1000 };

struct waiter {
    struct message message;
    struct waiter *prev, *next;
    struct engine *engine;
    char slug[SLUG_MAX + 1];
    unsigned states;
    int64_t timeout_ms;
    struct loop_timer timer;
    engine_wanted *wanted;
    engine_done *done;
    void *context;
};

/* Here, or at rest: then nothing comes by itself any more. */
static bool satisfied(const struct waiter *waiter, enum bottle_state state)
{
    const unsigned resting = 1U << STATE_STOPPED | 1U << STATE_EXITED | 1U << STATE_FAILED;

    return ((waiter->states | resting) >> state & 1) != 0;
}

/* Answers and frees a waiter that is in no list any more. */
static void answer(struct waiter *waiter, struct snapshot *snapshot, const struct problem *problem)
{
    waiter->done(waiter->context, snapshot, problem);
    free(waiter);
}

static void refuse(struct waiter *waiter, const char *type, const char *words)
{
    struct problem problem = PROBLEM_INIT;

    problem_set(&problem, type, "%s", words);
    answer(waiter, NULL, &problem);
    problem_free(&problem);
}

static void refuse_gone(struct waiter *waiter)
{
    char words[128];

    (void)snprintf(words, sizeof words, "there is no bottle named %s (any more)", waiter->slug);
    refuse(waiter, "not-found", words);
}

static void unlist(struct waiter *waiter)
{
    struct engine *engine = waiter->engine;

    loop_timer_cancel(engine->loop, &waiter->timer);
    DL_DELETE(engine->waiters, waiter);
    engine->n_waiters--;
}

static void on_timeout(struct loop_timer *timer)
{
    struct waiter *waiter = timer->data;
    struct snapshot *snapshot = registry_get(waiter->engine->app->registry, waiter->slug);
    struct problem problem = PROBLEM_INIT;

    unlist(waiter);
    if (!snapshot) {
        refuse_gone(waiter);
        return;
    }
    const char *state = states[snapshot->bottle.state].name;
    problem_set(&problem, "timeout",
                "%s is %s after %lld ms of waiting; it lives on: wait again, or stop or delete it",
                waiter->slug, state, (long long)waiter->timeout_ms);
    problem_add_member(&problem, "state", json_string(state));
    problem_add_member(&problem, "slug", json_string(waiter->slug));
    answer(waiter, NULL, &problem);
    problem_free(&problem);
    snapshot_release(snapshot);
}

static void look(struct loop_timer *timer)
{
    struct engine *engine = timer->data;
    struct waiter *waiter, *next;

    DL_FOREACH_SAFE(engine->waiters, waiter, next)
    {
        if (waiter->wanted(waiter->context))
            continue;
        unlist(waiter);
        refuse(waiter, "timeout", "its client has left");
    }
    if (engine->waiters)
        loop_timer_set(engine->loop, timer, clock_monotonic_ms() + LOOK_MS);
}

static void list(struct engine *engine, struct waiter *waiter)
{
    struct loop_timer *looks = &engine->waiters_look;

    if (engine->n_waiters >= (size_t)engine->app->config.max_waiters) {
        refuse(waiter, "too-many-waiters",
               "as many requests wait as this daemon takes (max_waiters); ask again later");
        return;
    }
    waiter->timer = (struct loop_timer){.callback = on_timeout, .data = waiter};
    loop_timer_set(engine->loop, &waiter->timer, clock_monotonic_ms() + waiter->timeout_ms);
    DL_APPEND(engine->waiters, waiter);
    engine->n_waiters++;
    if (looks->active)
        return;
    *looks = (struct loop_timer){.callback = look, .data = engine};
    loop_timer_set(engine->loop, looks, clock_monotonic_ms() + LOOK_MS);
}

static void run_wait(struct engine *engine, struct message *message)
{
    struct waiter *waiter = (struct waiter *)message;

    if (engine->closing) {
        refuse(waiter, "shutting-down",
               "bottled is ending; the bottles run on: ask again once it is back");
        return;
    }
    struct snapshot *snapshot = registry_get(engine->app->registry, waiter->slug);
    if (!snapshot)
        refuse_gone(waiter);
    else if (satisfied(waiter, snapshot->bottle.state))
        answer(waiter, snapshot, NULL);
    else
        list(engine, waiter);
    snapshot_release(snapshot);
}

bool engine_watch(struct app *app, struct watcher *watcher)
{
    struct engine *engine = app->engine;

    (void)pthread_mutex_lock(&engine->watch_lock);
    bool listed = engine->n_watchers < (size_t)app->config.max_waiters;
    if (listed) {
        DL_APPEND(engine->watchers, watcher);
        engine->n_watchers++;
    }
    (void)pthread_mutex_unlock(&engine->watch_lock);
    return listed;
}

void engine_unwatch(struct app *app, struct watcher *watcher)
{
    struct engine *engine = app->engine;

    (void)pthread_mutex_lock(&engine->watch_lock);
    DL_DELETE(engine->watchers, watcher);
    engine->n_watchers--;
    (void)pthread_mutex_unlock(&engine->watch_lock);
}

static void show_watchers(struct engine *engine, const char *slug, struct snapshot *snapshot)
{
    struct watcher *watcher;

    (void)pthread_mutex_lock(&engine->watch_lock);
    DL_FOREACH(engine->watchers, watcher)
    if (strcmp(watcher->slug, slug) == 0)
        watcher->saw(watcher, snapshot);
    (void)pthread_mutex_unlock(&engine->watch_lock);
}

void waiters_notify(struct engine *engine, struct snapshot *snapshot)
{
    struct waiter *waiter, *next;

    show_watchers(engine, snapshot->bottle.slug, snapshot);
    DL_FOREACH_SAFE(engine->waiters, waiter, next)
    {
        if (strcmp(waiter->slug, snapshot->bottle.slug) != 0 ||
            !satisfied(waiter, snapshot->bottle.state))
            continue;
        unlist(waiter);
        answer(waiter, snapshot, NULL);
    }
}

void waiters_gone(struct engine *engine, const char *slug)
{
    struct waiter *waiter, *next;

    show_watchers(engine, slug, NULL);
    DL_FOREACH_SAFE(engine->waiters, waiter, next)
    {
        if (strcmp(waiter->slug, slug) != 0)
            continue;
        unlist(waiter);
        refuse_gone(waiter);
    }
}

void waiters_refuse_all(struct engine *engine)
{
    struct waiter *waiter, *next;

    DL_FOREACH_SAFE(engine->waiters, waiter, next)
    {
        unlist(waiter);
        refuse(waiter, "shutting-down",
               "bottled is ending; the bottles run on: ask again once it is back");
    }
    loop_timer_cancel(engine->loop, &engine->waiters_look);
}

void engine_wait(struct app *app, const char *slug, unsigned wanted, int64_t timeout_ms,
                 engine_wanted *still, engine_done *done, void *context)
{
    struct waiter *waiter = must_alloc(sizeof *waiter);

    waiter->message.run = run_wait;
    waiter->engine = app->engine;
    waiter->states = wanted;
    waiter->timeout_ms = timeout_ms;
    waiter->wanted = still;
    waiter->done = done;
    waiter->context = context;
    (void)snprintf(waiter->slug, sizeof waiter->slug, "%s", slug);
    if (!engine_post(app->engine, &waiter->message))
        refuse(waiter, "shutting-down",
               "bottled is ending; the bottles run on: ask again once it is back");
}
