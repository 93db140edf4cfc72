/* The daemon's start: every stored bottle becomes known, and those that were alive are adopted.
 *
 * Plans are not resolved here (see snapshot.c), so thousands of bottles take a fraction of a
 * second. What an earlier daemon left of a bottle that rests now (a run directory whose end was
 * stored, but which was not removed any more) is removed, and so is what a creation left that
 * nobody was told of. Other directories that no row owns are left alone (orphans.h). */
#include <errno.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/events.h"
#include "server/feed.h"
#include "server/host_clock.h"
#include "server/images.h"
#include "server/log.h"
#include "server/orphans.h"
#include "server/stage.h"
#include "server/templates.h"

enum { ADOPT_PATIENCE_MS = 15000 };

struct busy {
    struct snapshot *snapshot;
    struct plan_ref *after; /* the newest plan, which its supervisor may not know; or NULL */
};

struct loading {
    struct app *app;
    bool new_boot; /* of the host */
    size_t count;
    struct busy *busy; /* what was alive or being deleted */
    size_t n_busy, room;
};

static void sweep_run_dir(const struct host *host, const char *slug)
{
    CLEANUP_FREE char *path = run_path(host, slug);
    struct error err = ERROR_INIT;

    if (path && access(path, F_OK) == 0 && directory_remove(path, NULL, &err) < 0)
        log_event(LEVEL_WARNING, "a stale run directory stays", LOG_TEXT("slug", slug),
                  LOG_TEXT("detail", err.text));
}

static int keep_busy(struct loading *loading, struct snapshot *snapshot, struct plan_ref *after)
{
    if (loading->n_busy == loading->room) {
        size_t room = loading->room ? loading->room * 2 : 64;
        struct busy *larger = realloc(loading->busy, room * sizeof *larger);
        if (!larger)
            return -1;
        loading->busy = larger;
        loading->room = room;
    }
    loading->busy[loading->n_busy++] =
        (struct busy){snapshot_ref(snapshot), after ? plan_ref_ref(after) : NULL};
    return 0;
}

/* The plan of the spec that was stored before the newest one. */
static struct plan_ref *plan_before(const struct host *host, const struct bottle_row *row,
                                    const char *before)
{
    CLEANUP_JSON json_t *spec = json_parse(before, strlen(before), NULL);
    const json_t *labels = json_object_get(spec, "labels");
    CLEANUP_FREE char *text = labels ? json_text(labels) : NULL;

    return plan_ref_lazy(host, row, before, text);
}

static int load_row(const struct bottle_row *stored, const char *spec, const char *labels,
                    const char *before, void *context, struct error *err)
{
    struct loading *loading = context;
    struct app *app = loading->app;
    struct bottle_row now = *stored;
    const struct bottle_row *row = &now;
    bool live = states[row->state].live && row->state != STATE_DELETING;

    (void)clocks_show(&now);
    if (loading->new_boot) { /* whoever has its pid now is another */
        now.shim_pid = 0;
        now.shim_token[0] = '\0';
    }
    alarms_follow(app->engine, row);
    if (registry_restore(app->registry, row, err) < 0)
        return -1;
    struct plan_ref *after = plan_ref_lazy(&app->host, row, spec, labels);
    struct plan_ref *plan = live && before ? plan_before(&app->host, row, before)
                            : after        ? plan_ref_ref(after)
                                           : NULL;
    struct snapshot *snapshot = after && plan ? snapshot_new(row, plan) : NULL;
    int result = snapshot ? 0 : -1;
    if (snapshot && states[row->state].live)
        result = keep_busy(loading, snapshot, live && before ? after : NULL);
    else if (snapshot)
        sweep_run_dir(&app->host, row->slug);
    plan_ref_unref(plan);
    plan_ref_unref(after);
    if (snapshot)
        registry_publish(app->registry, snapshot);
    loading->count++;
    return result < 0 ? error_set(err, NULL, "out of memory") : 0;
}

static int load(sqlite3 *db, void *context, struct error *err)
{
    return rows_load(db, load_row, context, err);
}

static void free_busy(struct busy *busy)
{
    snapshot_release(busy->snapshot);
    plan_ref_unref(busy->after);
}

static void take_up(struct engine *engine, struct loading *loading)
{
    for (size_t i = 0; i < loading->n_busy; i++) {
        struct busy *busy = &loading->busy[i];
        struct runner *runner = runner_take(engine, busy->snapshot);
        if (busy->after)
            patch_resume(runner, busy->after);
        if (runner->row.state == STATE_DELETING)
            delete_resume(runner);
        else
            follow_adopt(runner);
        runner_settle(runner);
        free_busy(busy);
    }
    free(loading->busy);
}

static void wait_for_adoption(struct engine *engine)
{
    int64_t until = clock_monotonic_ms() + ADOPT_PATIENCE_MS;
    struct timespec deadline = {.tv_sec = until / 1000, .tv_nsec = until % 1000 * 1000000};
    int result = 0;

    (void)pthread_mutex_lock(&engine->lock);
    while (engine->adopting > 0 && result == 0)
        result =
            pthread_cond_clockwait(&engine->settled, &engine->lock, CLOCK_MONOTONIC, &deadline);
    (void)pthread_mutex_unlock(&engine->lock);
}

static int open_parts(struct app *app, struct error *err)
{
    const struct registry_limits limits = {
        .max_bottles = (size_t)app->config.max_bottles,
        .port_first = (uint16_t)app->config.host_port_first,
        .port_last = (uint16_t)app->config.host_port_last,
        .loopbacks = (unsigned)app->config.host_addresses,
    };

    if (!app->store && !(app->store = store_open(app->config.state_dir, err)))
        return -1;
    if (events_bound(app->store, app->config.event_rows, err) < 0)
        return -1;
    if (!app->feed && !(app->feed = feed_start(app->store, app->config.event_rows, err)))
        return -1;
    if (!app->registry && !(app->registry = registry_new(&limits)))
        return error_set(err, NULL, "out of memory");
    if (stage_parents(&app->host, err) < 0)
        return -1;
    if (!app->images && images_start(app, err) < 0)
        return -1;
    return app->templates ? 0 : templates_start(app, err);
}

int engine_start(struct app *app, struct error *err)
{
    struct loading loading = {.app = app};
    int64_t began = clock_monotonic_ms();

    if (open_parts(app, err) < 0 || host_clock_open(app->store, &loading.new_boot, err) < 0 ||
        engine_make(app, err) < 0 || store_read(app->store, load, &loading, err) < 0)
        goto failed;
    orphans_settle(app);
    take_up(app->engine, &loading);
    if (engine_run(app->engine, err) < 0)
        goto broken;
    wait_for_adoption(app->engine);
    log_event(LEVEL_INFO, "bottles loaded", LOG_NUMBER("bottles", (int64_t)loading.count),
              LOG_NUMBER("taken_up", (int64_t)loading.n_busy),
              LOG_NUMBER("ms", clock_monotonic_ms() - began));
    return 0;
failed:
    for (size_t i = 0; i < loading.n_busy; i++)
        free_busy(&loading.busy[i]);
    free(loading.busy);
broken:
    engine_free(app);
    return -1;
}
