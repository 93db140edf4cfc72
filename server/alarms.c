/* The moments at which the engine does something to a bottle by itself: its time to live is over,
 * or it is to be started again.
 *
 * Each bottle has one alarm at most, its next moment on the host's clock, made from its row
 * whenever that is published. An alarm only says that it is time to look: who acts on it looks at
 * the row as it is then. One timer of the kernel, on CLOCK_BOOTTIME, serves the first of them, so
 * that they are exact also after the host was suspended.
 *
 * While there are alarms, the host's clock is kept now and then; if somebody has set the wall clock
 * meanwhile, what bottles show of these moments is set right as well. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <utlist.h>

#include "base/clock.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/host_clock.h"

enum { STEP_MS = 1000 };

struct alarm {
    UT_hash_handle hh;
    char slug[SLUG_MAX + 1];
    int64_t at_ms; /* of the host's clock; 0: none, and in no list */
    bool told;     /* alarms_first_time was asked */
    struct alarm *prev, *next;
};

struct alarms {
    struct alarm *by_slug;
    struct alarm *first; /* sorted, the first first */
    struct loop_source timer;
    struct loop_timer keep;
    int64_t wall_lead_ms; /* of the wall clock before the host's, when it was last looked at */
};

static int64_t wall_lead_ms(void)
{
    return clock_wall_ms() - host_clock_ms();
}

/* --- The list --------------------------------------------------------------------------------- */

static void arm(struct alarms *alarms)
{
    struct itimerspec when = {0};

    if (alarms->first) {
        int64_t left = alarms->first->at_ms - host_clock_ms();
        left = left > 0 ? left : 1;
        when.it_value = (struct timespec){.tv_sec = (time_t)(left / 1000),
                                          .tv_nsec = (long)(left % 1000) * 1000000};
    }
    (void)timerfd_settime(alarms->timer.fd, 0, &when, NULL);
}

static void unset(struct alarms *alarms, struct alarm *alarm)
{
    if (alarm->at_ms)
        DL_DELETE(alarms->first, alarm);
    alarm->at_ms = 0;
}

/* New ones are mostly the last. */
static void put_in_order(struct alarms *alarms, struct alarm *alarm)
{
    struct alarm *before = alarms->first ? alarms->first->prev : NULL;

    while (before && before->at_ms > alarm->at_ms)
        before = before == alarms->first ? NULL : before->prev;
    if (before)
        DL_APPEND_ELEM(alarms->first, before, alarm);
    else
        DL_PREPEND(alarms->first, alarm);
}

/* From the first one on, which may come long after the clock was kept last. */
static void keep_on(struct engine *engine)
{
    if (engine->alarms->keep.active)
        return;
    host_clock_keep(engine->app->store);
    loop_timer_set(engine->loop, &engine->alarms->keep, clock_monotonic_ms() + HOST_CLOCK_KEEP_MS);
}

static struct alarm *take(struct alarms *alarms, const char *slug)
{
    struct alarm *alarm;

    HASH_FIND_STR(alarms->by_slug, slug, alarm);
    if (alarm)
        return alarm;
    alarm = must_alloc(sizeof *alarm);
    (void)snprintf(alarm->slug, sizeof alarm->slug, "%s", slug);
    HASH_ADD_STR(alarms->by_slug, slug, alarm);
    return alarm;
}

static void set(struct engine *engine, const char *slug, int64_t at_ms)
{
    struct alarms *alarms = engine->alarms;
    struct alarm *alarm = take(alarms, slug);

    unset(alarms, alarm);
    alarm->at_ms = at_ms > 0 ? at_ms : 1;
    put_in_order(alarms, alarm);
    if (alarms->first == alarm)
        arm(alarms);
    keep_on(engine);
}

void alarms_forget(struct engine *engine, const char *slug)
{
    struct alarms *alarms = engine->alarms;
    struct alarm *alarm;

    HASH_FIND_STR(alarms->by_slug, slug, alarm);
    if (!alarm)
        return;
    unset(alarms, alarm);
    HASH_DEL(alarms->by_slug, alarm);
    free(alarm);
}

/* --- By a row --------------------------------------------------------------------------------- */

/* 0: nothing is to be done to it by itself. */
static int64_t next_moment(const struct bottle_row *row)
{
    int64_t restart = row->state == STATE_RESTARTING ? row->restart_clock_ms : 0;
    int64_t end = row->expires_clock_ms;

    /* One that is stopping or going is looked at again once it has. */
    if (row->state == STATE_STOPPING || row->state == STATE_DELETING)
        return 0;
    return restart && (!end || restart < end) ? restart : end;
}

void alarms_follow(struct engine *engine, const struct bottle_row *row)
{
    int64_t at_ms = next_moment(row);
    struct alarm *alarm;

    if (at_ms) {
        set(engine, row->slug, at_ms);
        if (at_ms > host_clock_ms()) /* one that was told of has been given more time */
            take(engine->alarms, row->slug)->told = false;
        return;
    }
    HASH_FIND_STR(engine->alarms->by_slug, row->slug, alarm);
    if (alarm && row->expires_clock_ms)
        unset(engine->alarms, alarm); /* and what was told is known */
    else if (alarm)
        alarms_forget(engine, row->slug);
}

void alarms_retry(struct engine *engine, const char *slug, int64_t in_ms)
{
    set(engine, slug, host_clock_ms() + in_ms);
}

bool alarms_first_time(struct engine *engine, const char *slug)
{
    struct alarm *alarm = take(engine->alarms, slug);
    bool first = !alarm->told;

    alarm->told = true;
    return first;
}

void alarms_each(struct engine *engine, void (*call)(struct engine *engine, const char *slug))
{
    struct alarm *alarm, *next;

    HASH_ITER(hh, engine->alarms->by_slug, alarm, next)
    call(engine, alarm->slug);
}

struct posted {
    struct message message;
    char slug[SLUG_MAX + 1];
};

static void run_posted(struct engine *engine, struct message *message)
{
    struct posted *posted = (struct posted *)message;
    struct snapshot *snapshot = registry_get(engine->app->registry, posted->slug);

    struct bottle_row row;

    if (snapshot) {
        snapshot_row(snapshot, &row);
        alarms_follow(engine, &row);
    }
    snapshot_release(snapshot);
    free(posted);
}

void alarms_post(struct engine *engine, const char *slug)
{
    struct posted *posted = must_alloc(sizeof *posted);

    posted->message.run = run_posted;
    (void)snprintf(posted->slug, sizeof posted->slug, "%s", slug);
    if (!engine_post(engine, &posted->message))
        free(posted); /* the next daemon makes it from the row */
}

/* --- Time ------------------------------------------------------------------------------------- */

static void due(struct engine *engine, const char *slug)
{
    struct snapshot *snapshot = registry_get(engine->app->registry, slug);
    struct bottle_row row;

    if (snapshot)
        snapshot_row(snapshot, &row);
    if (!snapshot)
        alarms_forget(engine, slug);
    else if (ttl_is_over(&row))
        ttl_due(engine, slug);
    else if (row.state == STATE_RESTARTING && row.restart_clock_ms <= host_clock_ms())
        restart_due(engine, slug);
    else
        alarms_follow(engine, &row);
    snapshot_release(snapshot);
}

static void on_timer(struct loop_source *source, uint32_t events)
{
    struct engine *engine = source->data;
    struct alarms *alarms = engine->alarms;
    char slug[SLUG_MAX + 1];
    uint64_t times;

    (void)events;
    ssize_t got = read(source->fd, &times, sizeof times);
    (void)got; /* only to make it unreadable */
    while (!engine->closing && alarms->first && alarms->first->at_ms <= host_clock_ms()) {
        (void)snprintf(slug, sizeof slug, "%s", alarms->first->slug);
        unset(alarms, alarms->first);
        due(engine, slug);
    }
    if (!engine->closing)
        arm(alarms);
}

/* Somebody has set the wall clock. */
static void show_again(struct engine *engine, const char *slug)
{
    struct snapshot *snapshot = registry_get(engine->app->registry, slug);
    struct runner *runner = snapshot ? runner_take(engine, snapshot) : NULL;

    if (runner && runner->phase != PHASE_DELETE && clocks_show(&runner->row))
        runner_save(runner, SAVE_FOLLOW, true, false, NULL);
    if (runner)
        runner_settle(runner);
    snapshot_release(snapshot);
}

static void on_keep(struct loop_timer *timer)
{
    struct engine *engine = timer->data;
    struct alarms *alarms = engine->alarms;
    int64_t lead = wall_lead_ms();

    if (engine->closing || !alarms->by_slug)
        return;
    keep_on(engine);
    if (llabs(lead - alarms->wall_lead_ms) < STEP_MS)
        return;
    alarms->wall_lead_ms = lead;
    alarms_each(engine, show_again);
}

int alarms_make(struct engine *engine, struct error *err)
{
    struct alarms *alarms = must_alloc(sizeof *alarms);

    engine->alarms = alarms;
    alarms->wall_lead_ms = wall_lead_ms();
    alarms->keep = (struct loop_timer){.callback = on_keep, .data = engine};
    alarms->timer =
        (struct loop_source){.fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC),
                             .events = EPOLLIN,
                             .callback = on_timer,
                             .data = engine};
    if (alarms->timer.fd < 0)
        return error_errno(err, NULL, "timerfd");
    return loop_add(engine->loop, &alarms->timer, err);
}

void alarms_free(struct engine *engine)
{
    struct alarms *alarms = engine->alarms;
    struct alarm *alarm, *next;

    if (!alarms)
        return;
    HASH_ITER(hh, alarms->by_slug, alarm, next)
    {
        HASH_DEL(alarms->by_slug, alarm);
        free(alarm);
    }
    if (alarms->timer.fd >= 0)
        (void)close(alarms->timer.fd);
    free(alarms);
    engine->alarms = NULL;
}
