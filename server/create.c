/* Creating a bottle: all of it, or no trace.
 *
 * preflight → reserve slug, subnet and ports in memory → resolve and render → stage directory → row
 * → (commit) → snapshot. The first part runs on the thread that asks, the last on the store's.
 * Nothing is written before the preflight and the reservation succeeded, and each later failure
 * takes back what came before it. */
#include <stdio.h>

#include "backends/mounts.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "server/disk.h"
#include "server/engine_internal.h"
#include "server/images.h"
#include "server/log.h"
#include "server/stage.h"

struct creation {
    struct message message; /* to try again on the engine's thread */
    struct reservation_waiter waiter;
    struct app *app;
    struct spec spec;
    const struct backend *backend;
    engine_record *record;
    engine_done *done;
    void *context;
    struct snapshot *snapshot; /* once the row is there */
    struct plan_ref *plan;
    char *stage_dir, *spec_text, *labels_text;
    struct bottle_row row;
    struct image *image; /* pinned; NULL: the built-in one */
};

static void finish(struct creation *creation, struct snapshot *snapshot,
                   const struct problem *problem)
{
    struct engine *engine = creation->app->engine;

    /* What was made is published by now, so that the image is known to be in use. */
    images_unpin(creation->app->images, creation->image);
    creation->done(creation->context, snapshot, problem);
    image_unref(creation->image);
    spec_free(&creation->spec);
    snapshot_release(creation->snapshot);
    plan_ref_unref(creation->plan);
    free(creation->stage_dir);
    free(creation->spec_text);
    free(creation->labels_text);
    free(creation);
    (void)pthread_mutex_lock(&engine->lock);
    if (--engine->creating == 0)
        (void)pthread_cond_broadcast(&engine->settled);
    (void)pthread_mutex_unlock(&engine->lock);
}

static void fail(struct creation *creation, const struct error *err)
{
    struct problem problem = PROBLEM_INIT;

    problem_from_error(&problem, err);
    finish(creation, NULL, &problem);
    problem_free(&problem);
}

/* --- Preflight -------------------------------------------------------------------------------- */

static void fail_preflight(struct creation *creation, const struct preflight *preflight)
{
    struct problem problem = PROBLEM_INIT;
    CLEANUP_TEXT struct text words = TEXT_INIT;
    json_t *tools = json_array();

    for (size_t i = 0; i < preflight->count; i++) {
        const struct tool *tool = &preflight->tools[i];
        if (tool->found)
            continue;
        text_addf(&words, "%s%s: %s; %s", words.length ? ". " : "", tool->name,
                  tool->detail[0] ? tool->detail : "not found", tool->hint ? tool->hint : "");
        json_t *item = json_object();
        (void)json_object_set_new(item, "name", json_string(tool->name));
        (void)json_object_set_new(item, "detail", json_string(tool->detail));
        (void)json_object_set_new(item, "hint", json_string(tool->hint ? tool->hint : ""));
        (void)json_array_append_new(tools, item);
    }
    problem_set(&problem, "preflight-failed", "%s can not run a bottle here. %s",
                creation->backend->name, words.data ? words.data : "");
    problem_add_member(&problem, "backend", json_string(creation->backend->name));
    problem_add_member(&problem, "tools", tools);
    finish(creation, NULL, &problem);
    problem_free(&problem);
}

/* --- The store's part ------------------------------------------------------------------------- */

static void roll_back(struct creation *creation)
{
    struct error err = ERROR_INIT;

    if (creation->stage_dir && directory_remove(creation->stage_dir, NULL, &err) < 0)
        log_event(LEVEL_WARNING, "a stage directory stays after a failed creation",
                  LOG_TEXT("slug", creation->row.slug), LOG_TEXT("detail", err.text));
    registry_unreserve(creation->app->registry, creation->row.slug);
}

static int insert(sqlite3 *db, void *context, struct error *err)
{
    struct creation *creation = context;

    if (row_insert(db, &creation->row, creation->spec_text, creation->labels_text, err) < 0)
        return -1;
    if (event_insert_state(db, &creation->row, err) < 0)
        return -1;
    creation->snapshot = must_snapshot(&creation->row, creation->plan);
    return creation->record ? creation->record(db, creation->context, creation->snapshot, err) : 0;
}

static void inserted(void *context, const struct error *failure)
{
    struct creation *creation = context;

    if (failure) {
        roll_back(creation);
        fail(creation, failure);
        return;
    }
    registry_publish(creation->app->registry, snapshot_ref(creation->snapshot));
    if (creation->row.expires_clock_ms)
        alarms_post(creation->app->engine, creation->row.slug);
    log_event(LEVEL_INFO, "bottle created", LOG_TEXT("slug", creation->row.slug),
              LOG_TEXT("backend", creation->row.backend));
    finish(creation, creation->snapshot, NULL);
}

/* --- The caller's part ------------------------------------------------------------------------ */

/* Fills the row and what is stored with it. Strings of the plan are copied. */
static int fill_row(struct creation *creation, const struct plan *plan, struct error *err)
{
    struct bottle_row *row = &creation->row;
    const json_t *labels = json_object_get(plan->spec.json, "labels");

    row->allocation = plan->allocation;
    (void)snprintf(row->backend, sizeof row->backend, "%s", creation->backend->name);
    (void)snprintf(row->accelerator, sizeof row->accelerator, "%s",
                   plan->accelerator ? plan->accelerator : "");
    backend_explain(&creation->app->host, plan, row->backend_reason, sizeof row->backend_reason);
    (void)snprintf(row->engine, sizeof row->engine, "%s", plan->engine);
    memcpy(row->image, plan->image_id, sizeof row->image);
    row->state = STATE_PREPARED;
    row->generation = 1;
    row->created_ms = row->updated_ms = clock_wall_ms();
    ttl_begin(row, plan->spec.ttl_seconds);
    creation->spec_text = json_text(plan->spec.json);
    creation->labels_text = labels ? json_text(labels) : strdup("{}");
    if (!creation->spec_text || !creation->labels_text)
        return error_set(err, NULL, "out of memory");
    return 0;
}

/* Renders, and writes the stage directory. */
static int stage(struct creation *creation, struct plan *plan, struct error *err)
{
    const struct host *host = &creation->app->host;

    plan->backend = creation->backend->name;
    if (creation->backend->prepare(host, plan, err) < 0 || fill_row(creation, plan, err) < 0 ||
        stage_write(plan, stage_uid(host, &plan->allocation), err) < 0)
        return -1;
    creation->plan =
        plan_ref_lazy(host, &creation->row, creation->spec_text, creation->labels_text);
    creation->stage_dir = strdup(plan->stage_dir);
    if (creation->plan && creation->stage_dir)
        return 0;
    (void)directory_remove(plan->stage_dir, NULL, NULL);
    return error_set(err, NULL, "out of memory");
}

static int prepare(struct creation *creation, const struct allocation *allocation,
                   struct error *err)
{
    const struct host *host = &creation->app->host;
    const struct plan_dirs dirs = {host->state_dir, host->run_dir, creation->image};
    struct plan *plan = plan_resolve(&creation->spec, allocation, &dirs, err);
    int result = plan ? stage(creation, plan, err) : -1;

    plan_free(plan);
    return result;
}

static void create_try(struct creation *creation)
{
    struct error err = ERROR_INIT;
    struct allocation allocation;

    switch (registry_reserve(creation->app->registry, &creation->spec, &allocation,
                             &creation->waiter, &err)) {
    case RESERVATION_PENDING:
        return;
    case RESERVATION_REFUSED:
        fail(creation, &err);
        return;
    case RESERVATION_MADE:
        break;
    }
    (void)snprintf(creation->row.slug, sizeof creation->row.slug, "%s", creation->spec.slug);
    if (prepare(creation, &allocation, &err) < 0) {
        roll_back(creation);
        fail(creation, &err);
        return;
    }
    store_submit(creation->app->store, &(struct store_write){insert, inserted, creation});
}

static void try_again(struct engine *engine, struct message *message)
{
    (void)engine;
    create_try((struct creation *)message);
}

/* The other creation of this slug was settled, on whatever thread that happened. engine_stop()
 * waits for creations before it closes the inbox. */
static void on_settled(struct reservation_waiter *waiter)
{
    struct creation *creation =
        (struct creation *)((char *)waiter - offsetof(struct creation, waiter));

    (void)engine_post(creation->app->engine, &creation->message);
}

static bool admit(struct engine *engine)
{
    (void)pthread_mutex_lock(&engine->lock);
    bool open = !engine->refusing;
    engine->creating += open;
    (void)pthread_mutex_unlock(&engine->lock);
    return open;
}

void engine_create(struct app *app, struct spec *spec, engine_record *record, engine_done *done,
                   void *context)
{
    struct preflight preflight = {0};
    struct problem problem = PROBLEM_INIT;

    if (!admit(app->engine)) {
        spec_free(spec);
        problem_set(&problem, "shutting-down", "bottled is ending; ask again once it is back");
        done(context, NULL, &problem);
        return;
    }
    struct creation *creation = must_alloc(sizeof *creation);
    *creation = (struct creation){.message.run = try_again,
                                  .waiter.settled = on_settled,
                                  .app = app,
                                  .spec = *spec,
                                  .record = record,
                                  .done = done,
                                  .context = context};
    *spec = (struct spec){0};
    creation->backend = backend_choose(&app->host, creation->spec.backend);
    if (!creation->backend) {
        fail(creation, &(struct error){.kind = "invalid-plan", .text = "there is no such backend"});
        return;
    }
    mounts_check(&app->host, &creation->spec, &problem);
    disk_check(&app->host, &creation->spec, &problem);
    if (problem.type) {
        finish(creation, NULL, &problem);
        problem_free(&problem);
        return;
    }
    struct error err = ERROR_INIT;
    if (images_resolve(app->images, creation->spec.image, true, &creation->image, &err) < 0) {
        fail(creation, &err);
        return;
    }
    creation->backend->preflight(&app->host, &creation->spec, &preflight);
    if (!preflight.ok)
        fail_preflight(creation, &preflight);
    else
        create_try(creation);
}
