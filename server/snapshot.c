/* Snapshots and plans: what the registry hands out.
 *
 * A snapshot is written once, before anybody else sees it, and freed with its last reference. The
 * plan behind it is shared by all snapshots of a bottle and may not be there yet: of a bottle at
 * rest only the spec's text is kept, and the plan is resolved under the plan_ref's own lock when
 * somebody asks. That lock is taken with no other held, and none is taken under it.
 *
 * There may be tens of thousands of bottles, most of them at rest: a snapshot keeps its row packed,
 * all but the words as they are and then the words without the room they were given. */
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>

#include "backends/engines.h"
#include "base/json.h"
#include "base/util.h"
#include "server/images.h"
#include "server/registry.h"

struct plan_ref {
    atomic_uint references;
    const struct host *host;
    json_t *labels; /* NULL: none; never changed once made */
    char *spec;
    struct plan_facts facts;

    pthread_mutex_t lock;
    struct plan *plan; /* under the lock; NULL: not resolved (yet) */
};

/* Takes over the spec; copies the labels: jansson's counts of references are not for two threads.
 * (Counting is atomic, but first it reads the count, plainly, for its constants.) */
static struct plan_ref *ref_make(const struct host *host, const struct plan_facts *facts,
                                 char *spec, const json_t *from)
{
    bool labelled = json_object_size(from) > 0;
    json_t *labels = labelled ? json_deep_copy(from) : NULL;
    struct plan_ref *ref = calloc(1, sizeof *ref);

    if (!ref || !spec || (labelled && !labels)) {
        free(spec);
        json_decref(labels);
        free(ref);
        return NULL;
    }
    atomic_init(&ref->references, 1);
    ref->host = host;
    ref->facts = *facts;
    ref->spec = spec;
    ref->labels = labels;
    (void)pthread_mutex_init(&ref->lock, NULL);
    return ref;
}

static struct plan_facts facts_of(const struct bottle_row *row)
{
    struct plan_facts facts = {.allocation = row->allocation};

    memcpy(facts.slug, row->slug, sizeof facts.slug);
    memcpy(facts.backend, row->backend, sizeof facts.backend);
    memcpy(facts.engine, row->engine, sizeof facts.engine);
    memcpy(facts.image, row->image, sizeof facts.image);
    return facts;
}

struct plan_ref *plan_ref_new(const struct host *host, const struct bottle_row *row,
                              struct plan *plan)
{
    struct plan_facts facts = facts_of(row);

    if (plan->engine)
        (void)snprintf(facts.engine, sizeof facts.engine, "%s", plan->engine);
    struct plan_ref *ref = ref_make(host, &facts, json_text(plan->spec.json),
                                    json_object_get(plan->spec.json, "labels"));
    if (ref)
        ref->plan = plan;
    else
        plan_free(plan);
    return ref;
}

struct plan_ref *plan_ref_lazy(const struct host *host, const struct bottle_row *row,
                               const char *spec, const char *labels)
{
    struct plan_facts facts = facts_of(row);
    CLEANUP_JSON json_t *parsed = labels ? json_parse(labels, strlen(labels), NULL) : NULL;

    return ref_make(host, &facts, strdup(spec ? spec : ""), parsed);
}

struct plan_ref *plan_ref_unresolved(const struct plan_ref *ref)
{
    return ref_make(ref->host, &ref->facts, strdup(ref->spec), ref->labels);
}

struct plan_ref *plan_ref_to_read(struct plan_ref *ref)
{
    (void)pthread_mutex_lock(&ref->lock);
    bool resolved = ref->plan;
    (void)pthread_mutex_unlock(&ref->lock);
    return resolved ? plan_ref_ref(ref) : plan_ref_unresolved(ref);
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
        ret->slug = strdup(ref->facts.slug);
    return ret->slug ? 0 : error_set(err, NULL, "out of memory");
}

static struct plan *resolve(const struct plan_ref *ref, struct error *err)
{
    const struct plan_facts *facts = &ref->facts;
    const struct backend *backend = backend_find(facts->backend);
    CLEANUP_IMAGE struct image *image = NULL;
    struct spec spec = {0};
    struct plan *plan = NULL;

    if (facts->image[0] && images_resolve(ref->host->images, facts->image, false, &image, err) < 0)
        return NULL;
    const struct plan_dirs dirs = {ref->host->state_dir, ref->host->run_dir, image};
    if (!backend) {
        error_set(err, NULL, "there is no backend '%s' any more", facts->backend);
        return NULL;
    }
    if (read_spec(ref, &spec, err) == 0)
        plan = plan_resolve(&spec, &facts->allocation, &dirs, err);
    spec_free(&spec);
    if (plan)
        plan->backend = backend->name;
    if (plan && engine_find(facts->engine))
        plan->engine = engine_find(facts->engine)->name;
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
        if (!ref->plan)
            error_wrap(err, "the stored plan of %s can not be resolved", ref->facts.slug);
    }
    const struct plan *plan = ref->plan;
    (void)pthread_mutex_unlock(&ref->lock);
    return plan;
}

enum { ROW_HEAD = offsetof(struct bottle_row, words) };

/* Room for the row, packed. */
static struct snapshot *allocate(const struct bottle_row *row)
{
    size_t room = ROW_HEAD;

    for (size_t i = 0; i < COUNT_OF(row->words); i++)
        room += strlen(row->words[i]) + 1;
    return calloc(1, sizeof(struct snapshot) + room);
}

/* `ret` are the words, in order. */
static void pack(struct snapshot *snapshot, const struct bottle_row *row,
                 const char *ret[N_ROW_WORDS])
{
    char *next = snapshot->packed + ROW_HEAD;

    memcpy(snapshot->packed, row, ROW_HEAD);
    for (size_t i = 0; i < N_ROW_WORDS; i++) {
        size_t size = strlen(row->words[i]) + 1;
        ret[i] = memcpy(next, row->words[i], size);
        next += size;
    }
}

void snapshot_row(const struct snapshot *snapshot, struct bottle_row *ret)
{
    const char *next = snapshot->packed + ROW_HEAD;

    memset(ret, 0, sizeof *ret);
    memcpy(ret, snapshot->packed, ROW_HEAD);
    for (size_t i = 0; i < N_ROW_WORDS; i++) {
        size_t size = strlen(next) + 1;
        memcpy(ret->words[i], next, size);
        next += size;
    }
}

static const char *or_null(const char *text)
{
    return text[0] ? text : NULL;
}

/* The public view of a row; its strings stay in the snapshot. */
static void fill_bottle(struct snapshot *snapshot, const struct bottle_row *row)
{
    const char *words[N_ROW_WORDS];

    pack(snapshot, row, words);
    const char *base = snapshot->packed;
    snapshot->bottle = (struct bottle){
        .slug = base + offsetof(struct bottle_row, slug),
        .backend = base + offsetof(struct bottle_row, backend),
        .accelerator = or_null(base + offsetof(struct bottle_row, accelerator)),
        .backend_reason = or_null(words[ROW_BACKEND_REASON]),
        .boot = or_null(base + offsetof(struct bottle_row, boot)),
        .boot_reason = or_null(words[ROW_BOOT_REASON]),
        .engine = or_null(base + offsetof(struct bottle_row, engine)),
        .guest_ip = snapshot->guest_ip,
        .reason = or_null(words[ROW_REASON]),
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
    struct snapshot *snapshot = allocate(row);
    char subnet[20], gateway[16];

    if (!snapshot)
        return NULL;
    atomic_init(&snapshot->references, 1);
    snapshot->egress = row->egress;
    snapshot->sequence = row->sequence;
    snapshot->plan = plan_ref_ref(plan);
    subnet_format(row->allocation.subnet, subnet, gateway, snapshot->guest_ip);
    fill_bottle(snapshot, row);
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
