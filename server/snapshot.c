/* Snapshots and plans: what the registry hands out.
 *
 * A snapshot is written once, before anybody else sees it, and freed with its last reference. The
 * plan behind it is shared by all snapshots of a bottle and may not be there yet: after a restart
 * only the spec's text is kept, and the plan is resolved under the plan_ref's own lock when
 * somebody asks. That lock is taken with no other held, and none is taken under it. */
#include <pthread.h>
#include <stdio.h>

#include "backends/engines.h"
#include "base/json.h"
#include "base/util.h"
#include "server/images.h"
#include "server/registry.h"

struct plan_ref {
    atomic_uint references;
    const struct host *host;
    json_t *labels; /* never changed once made */
    struct bottle_row row;

    pthread_mutex_t lock; /* the two below */
    char *spec;           /* NULL once resolved */
    struct plan *plan;
};

static struct plan_ref *ref_make(const struct host *host)
{
    struct plan_ref *ref = calloc(1, sizeof *ref);

    if (!ref)
        return NULL;
    atomic_init(&ref->references, 1);
    ref->host = host;
    (void)pthread_mutex_init(&ref->lock, NULL);
    return ref;
}

struct plan_ref *plan_ref_new(const struct host *host, struct plan *plan)
{
    struct plan_ref *ref = ref_make(host);

    if (!ref) {
        plan_free(plan);
        return NULL;
    }
    ref->plan = plan;
    ref->labels = json_deep_copy(json_object_get(plan->spec.json, "labels"));
    if (!ref->labels)
        ref->labels = json_object();
    return ref;
}

struct plan_ref *plan_ref_lazy(const struct host *host, const struct bottle_row *row,
                               const char *spec, const char *labels)
{
    struct plan_ref *ref = ref_make(host);

    if (!ref)
        return NULL;
    ref->row = *row;
    ref->spec = strdup(spec ? spec : "");
    ref->labels = labels ? json_parse(labels, strlen(labels), NULL) : NULL;
    if (!json_is_object(ref->labels)) {
        json_decref(ref->labels);
        ref->labels = json_object();
    }
    if (ref->spec && ref->labels)
        return ref;
    plan_ref_unref(ref);
    return NULL;
}

struct plan_ref *plan_ref_ref(struct plan_ref *ref)
{
    atomic_fetch_add(&ref->references, 1);
    return ref;
}

void plan_ref_unref(struct plan_ref *ref)
{
    if (!ref || atomic_fetch_sub(&ref->references, 1) != 1)
        return;
    plan_free(ref->plan);
    free(ref->spec);
    json_decref(ref->labels);
    (void)pthread_mutex_destroy(&ref->lock);
    free(ref);
}

/* From the stored text to the spec that was taken when the bottle was made. */
static int read_spec(const struct plan_ref *ref, struct spec *ret, struct error *err)
{
    struct problem problem = PROBLEM_INIT;
    CLEANUP_JSON json_t *json = json_parse(ref->spec, strlen(ref->spec), err);

    if (!json)
        return -1;
    if (spec_decode(json, ret, &problem) < 0) {
        const json_t *fault = json_array_get(problem.errors, 0);
        const char *pointer = json_member_string(fault, "pointer");
        const char *detail = json_member_string(fault, "detail");
        error_set(err, NULL, "%s: %s", pointer ? pointer : "", detail ? detail : problem.detail);
        problem_free(&problem);
        return -1;
    }
    if (!ret->slug)
        ret->slug = strdup(ref->row.slug);
    return ret->slug ? 0 : error_set(err, NULL, "out of memory");
}

static struct plan *resolve(const struct plan_ref *ref, struct error *err)
{
    const struct backend *backend = backend_find(ref->row.backend);
    CLEANUP_IMAGE struct image *image = NULL;
    struct spec spec = {0};
    struct plan *plan = NULL;

    if (ref->row.image[0] &&
        images_resolve(ref->host->images, ref->row.image, false, &image, err) < 0)
        return NULL;
    const struct plan_dirs dirs = {ref->host->state_dir, ref->host->run_dir, image};
    if (!backend) {
        error_set(err, NULL, "there is no backend '%s' any more", ref->row.backend);
        return NULL;
    }
    if (read_spec(ref, &spec, err) == 0)
        plan = plan_resolve(&spec, &ref->row.allocation, &dirs, err);
    spec_free(&spec);
    if (plan)
        plan->backend = backend->name;
    if (plan && engine_find(ref->row.engine))
        plan->engine = engine_find(ref->row.engine)->name;
    if (plan && backend->prepare(ref->host, plan, err) < 0) {
        plan_free(plan);
        plan = NULL;
    }
    return plan;
}

const struct plan *plan_ref_get(struct plan_ref *ref, struct error *err)
{
    (void)pthread_mutex_lock(&ref->lock);
    if (!ref->plan) {
        ref->plan = resolve(ref, err);
        if (ref->plan) {
            free(ref->spec);
            ref->spec = NULL;
        } else {
            error_wrap(err, "the stored plan of %s can not be resolved", ref->row.slug);
        }
    }
    const struct plan *plan = ref->plan;
    (void)pthread_mutex_unlock(&ref->lock);
    return plan;
}

/* The public view of a row; its strings stay in the snapshot. */
static void fill_bottle(struct snapshot *snapshot)
{
    const struct bottle_row *row = &snapshot->row;

    snapshot->bottle = (struct bottle){
        .slug = row->slug,
        .backend = row->backend,
        .accelerator = row->accelerator[0] ? row->accelerator : NULL,
        .backend_reason = row->backend_reason[0] ? row->backend_reason : NULL,
        .boot = row->boot[0] ? row->boot : NULL,
        .boot_reason = row->boot_reason[0] ? row->boot_reason : NULL,
        .engine = row->engine[0] ? row->engine : NULL,
        .guest_ip = snapshot->guest_ip,
        .reason = row->reason[0] ? row->reason : NULL,
        .state = row->state,
        .created_ms = row->created_ms,
        .updated_ms = row->updated_ms,
        .started_ms = row->started_ms,
        .finished_ms = row->finished_ms,
        .has_exit_code = row->has_exit_code,
        .exit_code = row->exit_code,
        .labels = snapshot->plan->labels,
        .expires_ms = row->expires_ms,
        .restarts = row->restarts,
        .restart_ms = row->state == STATE_RESTARTING ? row->restart_ms : 0,
        .generation = row->generation,
    };
}

static int serialise(struct snapshot *snapshot)
{
    CLEANUP_JSON json_t *json = bottle_encode(&snapshot->bottle);
    CLEANUP_FREE char *text = json ? json_text(json) : NULL;
    char *line; /* a reply of its own ends in a newline, an element of a list does not */

    if (!text || asprintf(&line, "%s\n", text) < 0)
        return -1;
    snapshot->json_text = line;
    snapshot->json_length = strlen(text);
    snapshot->json = shared_bytes_new(line, snapshot->json_length + 1);
    return snapshot->json ? 0 : -1;
}

struct snapshot *snapshot_new(const struct bottle_row *row, struct plan_ref *plan)
{
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    char subnet[20], gateway[16];

    if (!snapshot)
        return NULL;
    atomic_init(&snapshot->references, 1);
    snapshot->row = *row;
    snapshot->sequence = row->sequence;
    snapshot->plan = plan_ref_ref(plan);
    subnet_format(row->allocation.subnet, subnet, gateway, snapshot->guest_ip);
    fill_bottle(snapshot);
    (void)snprintf(snapshot->etag, sizeof snapshot->etag, "\"%llu-%lld\"",
                   (unsigned long long)row->sequence, (long long)row->generation);
    if (serialise(snapshot) == 0)
        return snapshot;
    snapshot_release(snapshot);
    return NULL;
}

struct snapshot *snapshot_ref(struct snapshot *snapshot)
{
    atomic_fetch_add(&snapshot->references, 1);
    return snapshot;
}

void snapshot_release(struct snapshot *snapshot)
{
    if (!snapshot || atomic_fetch_sub(&snapshot->references, 1) != 1)
        return;
    if (snapshot->json)
        shared_bytes_unref(snapshot->json);
    plan_ref_unref(snapshot->plan);
    free(snapshot);
}

const struct plan *snapshot_plan(const struct snapshot *snapshot, struct error *err)
{
    return plan_ref_get(snapshot->plan, err);
}
