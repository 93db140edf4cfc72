/* The engine's thread, its inbox, its workers, and the requests that come through them. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/feed.h"
#include "server/host_clock.h"
#include "server/images.h"
#include "server/log.h"
#include "server/templates.h"

enum { CLOSING_EXTRA_MS = 5000 };

void *must_alloc(size_t size)
{
    void *memory = calloc(1, size);

    if (!memory) {
        log_event(LEVEL_ERROR, "out of memory: ending; the bottles run on",
                  LOG_NUMBER("bytes", (int64_t)size));
        abort();
    }
    return memory;
}

/* --- Queues ----------------------------------------------------------------------------------- */

static void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
}

static void queue_add(struct queue *queue, struct message *message)
{
    message->next = NULL;
    *queue->last = message;
    queue->last = &message->next;
}

static struct message *queue_take(struct queue *queue)
{
    struct message *message = queue->first;

    if (message && !(queue->first = message->next))
        queue->last = &queue->first;
    return message;
}

bool engine_post(struct engine *engine, struct message *message)
{
    const uint64_t one = 1;

    (void)pthread_mutex_lock(&engine->lock);
    bool open = !engine->closed;
    if (open) {
        queue_add(&engine->inbox, message);
        /* Under the lock: engine_free() closes the descriptor after it has set `closed`. */
        ssize_t done = write(engine->wake_fd, &one, sizeof one);
        (void)done; /* full: it is readable anyway */
    }
    (void)pthread_mutex_unlock(&engine->lock);
    return open;
}

static void on_beat(struct engine *engine, struct message *message)
{
    (void)message;
    (void)atomic_fetch_add(&engine->beat.count, 1);
    atomic_store(&engine->beat.under_way, false);
}

uint64_t engine_beats(struct app *app)
{
    struct engine *engine = app->engine;

    if (!atomic_exchange(&engine->beat.under_way, true)) {
        engine->beat.message.run = on_beat;
        if (!engine_post(engine, &engine->beat.message))
            atomic_store(&engine->beat.under_way, false);
    }
    return atomic_load(&engine->beat.count);
}

void engine_work(struct engine *engine, struct job *job)
{
    engine->in_flight++;
    (void)pthread_mutex_lock(&engine->job_lock);
    queue_add(&engine->jobs, &job->message);
    (void)pthread_cond_signal(&engine->job_wake);
    (void)pthread_mutex_unlock(&engine->job_lock);
}

static void *worker_main(void *argument)
{
    struct engine *engine = argument;

    (void)pthread_setname_np(pthread_self(), "engine-worker");
    for (;;) {
        (void)pthread_mutex_lock(&engine->job_lock);
        while (!engine->jobs.first && !engine->jobs_end)
            (void)pthread_cond_wait(&engine->job_wake, &engine->job_lock);
        struct job *job = (struct job *)queue_take(&engine->jobs);
        (void)pthread_mutex_unlock(&engine->job_lock);
        if (!job)
            return NULL;
        job->work(job);
        (void)engine_post(engine, &job->message);
    }
}

/* --- The thread ------------------------------------------------------------------------------- */

/* Ends the loop once nothing is under way that would still want to be heard. */
static void quit_if_done(struct engine *engine)
{
    bool waiting = engine->stop_bottles && engine->n_live > 0;

    if (engine->closing && engine->in_flight == 0 && !waiting)
        loop_quit(engine->loop);
}

static void on_wake(struct loop_source *source, uint32_t events)
{
    struct engine *engine = source->data;
    uint64_t count;

    (void)events;
    ssize_t got = read(source->fd, &count, sizeof count);
    (void)got; /* only to make it unreadable */
    (void)pthread_mutex_lock(&engine->lock);
    struct message *next = engine->inbox.first;
    queue_init(&engine->inbox);
    (void)pthread_mutex_unlock(&engine->lock);
    while (next) {
        struct message *message = next;
        next = message->next;
        message->run(engine, message);
    }
    quit_if_done(engine);
}

static void *engine_main(void *argument)
{
    struct engine *engine = argument;
    struct error err = ERROR_INIT;

    (void)pthread_setname_np(pthread_self(), "engine");
    if (loop_run(engine->loop, &err) < 0) {
        log_event(LEVEL_ERROR, "the event loop failed: ending; the bottles run on",
                  LOG_TEXT("detail", err.text));
        abort();
    }
    return NULL;
}

static int start_threads(struct engine *engine, struct error *err)
{
    int result = 0;

    while (engine->n_workers < WORKERS && !result) {
        result = pthread_create(&engine->workers[engine->n_workers], NULL, worker_main, engine);
        engine->n_workers += !result;
    }
    if (!result)
        result = pthread_create(&engine->thread, NULL, engine_main, engine);
    engine->thread_runs = !result;
    errno = result;
    return result ? error_errno(err, NULL, "starting a thread") : 0;
}

int engine_make(struct app *app, struct error *err)
{
    struct engine *engine = must_alloc(sizeof *engine);

    app->engine = engine;
    engine->app = app;
    queue_init(&engine->inbox);
    queue_init(&engine->jobs);
    (void)pthread_mutex_init(&engine->lock, NULL);
    (void)pthread_mutex_init(&engine->job_lock, NULL);
    (void)pthread_mutex_init(&engine->watch_lock, NULL);
    (void)pthread_cond_init(&engine->settled, NULL);
    (void)pthread_cond_init(&engine->job_wake, NULL);
    engine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->wake_fd < 0)
        return error_errno(err, NULL, "eventfd");
    engine->loop = loop_new(err);
    if (!engine->loop || alarms_make(engine, err) < 0)
        return -1;
    engine->wake = (struct loop_source){
        .fd = engine->wake_fd, .events = EPOLLIN, .callback = on_wake, .data = engine};
    return loop_add(engine->loop, &engine->wake, err);
}

int engine_run(struct engine *engine, struct error *err)
{
    return start_threads(engine, err);
}

/* --- Ending ----------------------------------------------------------------------------------- */

struct closing {
    struct message message;
    bool stop_bottles;
};

static void on_closing_deadline(struct loop_timer *timer)
{
    struct engine *engine = timer->data;

    engine->stop_bottles = false;
    quit_if_done(engine);
}

void runner_close(struct runner *runner)
{
    if (!runner->engine->closing || !runner->engine->stop_bottles)
        return;
    if (runner->phase == PHASE_LIVE || runner->phase == PHASE_REST)
        restart_cancel(runner);
    if (runner->phase == PHASE_LIVE && !runner->stop_requested)
        follow_request_stop(runner, STOP_GRACE_MS);
}

static void close_engine(struct engine *engine, struct message *message)
{
    struct closing *closing = (struct closing *)message;
    struct runner *runner, *next;

    engine->closing = true;
    engine->stop_bottles = closing->stop_bottles;
    free(closing);
    waiters_refuse_all(engine);
    HASH_ITER(hh, engine->runners, runner, next)
    {
        runner_refuse_all(runner);
        runner_close(runner);
    }
    if (engine->stop_bottles)
        restarts_cancel(engine);
    engine->closing_deadline = (struct loop_timer){.callback = on_closing_deadline, .data = engine};
    if (engine->stop_bottles)
        loop_timer_set(engine->loop, &engine->closing_deadline,
                       clock_monotonic_ms() + STOP_GRACE_MS + STOP_MARGIN_MS + CLOSING_EXTRA_MS);
}

/* After the thread: what came in behind its back is answered here. */
static void close_inbox(struct engine *engine)
{
    (void)pthread_mutex_lock(&engine->lock);
    engine->closed = true;
    struct message *next = engine->inbox.first;
    queue_init(&engine->inbox);
    (void)pthread_mutex_unlock(&engine->lock);
    engine->closing = true;
    while (next) {
        struct message *message = next;
        next = message->next;
        message->run(engine, message);
    }
}

static void end_workers(struct engine *engine)
{
    (void)pthread_mutex_lock(&engine->job_lock);
    engine->jobs_end = true;
    (void)pthread_cond_broadcast(&engine->job_wake);
    (void)pthread_mutex_unlock(&engine->job_lock);
    while (engine->n_workers > 0)
        (void)pthread_join(engine->workers[--engine->n_workers], NULL);
}

void engine_stop(struct app *app, bool stop_bottles)
{
    struct engine *engine = app->engine;

    images_stop(app);
    templates_stop(app);
    if (!engine || engine->closed)
        return;
    (void)pthread_mutex_lock(&engine->lock);
    engine->refusing = true;
    while (engine->thread_runs && engine->creating > 0)
        (void)pthread_cond_wait(&engine->settled, &engine->lock);
    (void)pthread_mutex_unlock(&engine->lock);
    if (engine->thread_runs) {
        struct closing *closing = must_alloc(sizeof *closing);
        closing->message.run = close_engine;
        closing->stop_bottles = stop_bottles;
        (void)engine_post(engine, &closing->message);
        (void)pthread_join(engine->thread, NULL);
        engine->thread_runs = false;
    }
    end_workers(engine);
    close_inbox(engine);
}

void engine_free(struct app *app)
{
    struct engine *engine = app->engine;
    struct runner *runner, *next;

    if (engine)
        engine_stop(app, false);
    feed_free(app->feed);
    if (engine && app->store) /* the engine is made once the clock is right */
        host_clock_keep(app->store);
    store_close(app->store);
    if (engine)
        HASH_ITER(hh, engine->runners, runner, next)
    runner_free(runner);
    templates_free(app);
    images_free(app);
    registry_free(app->registry);
    app->feed = NULL;
    app->store = NULL;
    app->registry = NULL;
    app->engine = NULL;
    if (!engine)
        return;
    alarms_free(engine);
    loop_free(engine->loop);
    if (engine->wake_fd >= 0)
        (void)close(engine->wake_fd);
    (void)pthread_cond_destroy(&engine->job_wake);
    (void)pthread_cond_destroy(&engine->settled);
    (void)pthread_mutex_destroy(&engine->job_lock);
    (void)pthread_mutex_destroy(&engine->watch_lock);
    (void)pthread_mutex_destroy(&engine->lock);
    free(engine);
}
