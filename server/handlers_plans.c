/* Plans: the dry run, a bottle's plan as JSON or as a page, and its rendered files, raw. */
#include "server/handlers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backend.h"
#include "backends/mounts.h"
#include "base/json.h"
#include "base/util.h"
#include "server/accept.h"
#include "server/app.h"
#include "server/disk.h"
#include "server/etag.h"
#include "server/images.h"
#include "server/registry.h"
#include "server/secrets.h"

/* --- The dry run ---------------------------------------------------------------------------- */

/* Resolves and renders as creating would, with what is free at this moment. Takes the spec over on
 * success. */
static struct plan *provisional_plan(struct app *app, const struct backend *backend,
                                     struct spec *spec, struct error *err)
{
    CLEANUP_IMAGE struct image *image = NULL;
    struct allocation allocation = {0};

    if (images_resolve(app->images, spec->image, false, &image, err) < 0 ||
        registry_provisional(app->registry, spec->slug, spec, &allocation, err) < 0)
        return NULL;
    const struct plan_dirs dirs = {app->host.state_dir, app->host.run_dir, image};
    struct plan *plan = plan_resolve(spec, &allocation, &dirs, err);
    if (!plan)
        return NULL;
    plan->backend = backend->name;
    if (backend->prepare(&app->host, plan, err) == 0)
        return plan;
    plan_free(plan);
    return NULL;
}

static int name_spec(struct spec *spec, struct error *err)
{
    char slug[SLUG_MAX + 1];

    if (spec->slug)
        return 0;
    slug_make(slug);
    spec->slug = strdup(slug);
    return spec->slug ? 0 : error_set(err, NULL, "out of memory");
}

/* Answers with the plan, or leaves the error. */
static int answer_dry_run(struct request *request, struct spec *spec, struct error *err)
{
    struct app *app = request_app(request);
    struct preflight preflight = {0};

    if (name_spec(spec, err) < 0)
        return -1;
    const struct backend *backend = backend_choose(&app->host, spec->backend);
    if (!backend)
        return error_set(err, "invalid-plan", "there is no backend \"%.64s\"", spec->backend);
    backend->preflight(&app->host, spec, &preflight);
    struct plan *plan = provisional_plan(app, backend, spec, err);
    if (!plan)
        return -1;
    json_t *body = plan_encode(plan, true);
    struct snapshot *taken = registry_get(app->registry, plan->spec.slug);
    if (body) {
        (void)json_object_set_new(body, "preflight", preflight_encode(&preflight));
        (void)json_object_set_new(body, "slug_taken", json_boolean(taken != NULL));
    }
    if (taken)
        snapshot_release(taken);
    plan_free(plan);
    reply_json(request, 200, body);
    return 0;
}

void handle_plan_dry_run(struct request *request)
{
    struct error err = ERROR_INIT;
    struct problem problem = PROBLEM_INIT;
    struct spec spec = {0};
    size_t length;
    const char *bytes = request_body(request, &length);
    CLEANUP_JSON json_t *body = json_parse_request(bytes, length, &err);

    if (!body) {
        reply_error(request, &err);
        return;
    }
    if (spec_decode(body, &spec, &problem) == 0) {
        secrets_check(request_app(request)->secrets, &spec, &problem);
        mounts_check(&request_app(request)->host, &spec, &problem);
        disk_check(&request_app(request)->host, &spec, &problem);
    }
    if (problem.type) {
        reply_problem(request, &problem);
        problem_free(&problem);
        spec_free(&spec);
        return;
    }
    if (answer_dry_run(request, &spec, &err) < 0)
        reply_error(request, &err);
    spec_free(&spec);
}

/* --- A bottle's plan ------------------------------------------------------------------------ */

/* The plan of the bottle that the path names; NULL when the request was answered with why not. The
 * plan is borrowed from what is returned, which is the caller's. */
static struct plan_ref *find_plan(struct request *request, const struct plan **ret_plan)
{
    const char *slug = request_param(request, "slug");
    struct snapshot *snapshot = registry_get(request_app(request)->registry, slug);
    struct error err = ERROR_INIT;

    if (!snapshot) {
        reply_fault(request, "not-found", "there is no bottle %s", slug);
        return NULL;
    }
    struct plan_ref *ref = plan_ref_to_read(snapshot->plan);
    snapshot_release(snapshot);
    *ret_plan = ref ? plan_ref_get(ref, &err) : NULL;
    if (*ret_plan)
        return ref;
    if (!ref)
        error_set(&err, NULL, "out of memory");
    plan_ref_unref(ref);
    reply_error(request, &err);
    return NULL;
}

void handle_bottle_plan(struct request *request)
{
    static const char *const offers[] = {"application/json", "text/plain"};
    int form = accept_choose(request_header(request, "Accept"), offers, COUNT_OF(offers));
    const struct plan *plan;

    if (form < 0) {
        reply_fault(request, "not-acceptable", "a plan is to be had as %s or %s", offers[0],
                    offers[1]);
        return;
    }
    struct plan_ref *ref = find_plan(request, &plan);
    if (!ref)
        return;
    reply_header(request, "Vary", "Accept");
    if (form == 0)
        reply_json(request, 200, plan_encode(plan, false));
    else
        reply_text(request, 200, "text/plain; charset=utf-8", plan_page(plan));
    plan_ref_unref(ref);
}

/* --- Rendered files ------------------------------------------------------------------------- */

static const char *file_type(const char *name)
{
    static const struct {
        const char *suffix, *type;
    } types[] = {{".yaml", "application/yaml"},
                 {".toml", "application/toml"},
                 {".json", "application/json"}};
    const char *suffix = strrchr(name, '.');

    for (size_t i = 0; suffix && i < COUNT_OF(types); i++)
        if (strcmp(suffix, types[i].suffix) == 0)
            return types[i].type;
    return "text/plain; charset=utf-8";
}

void handle_plan_file(struct request *request)
{
    const char *name = request_param(request, "name");
    const char *if_none_match = request_header(request, "If-None-Match");
    const struct plan *plan;
    char digest[SHA256_HEX_SIZE], etag[80];
    struct plan_ref *ref = find_plan(request, &plan);

    if (!ref)
        return;
    const struct plan_file *file = plan_find_file(plan, name);
    if (!file) {
        reply_fault(request, "not-found",
                    "the plan of bottle %s has no file %s; GET its plan names them",
                    request_param(request, "slug"), name);
    } else {
        plan_file_digest(file, digest);
        (void)snprintf(etag, sizeof etag, "\"%s\"", digest);
        reply_header(request, "ETag", etag);
        if (if_none_match && etag_listed(if_none_match, digest, true))
            reply_empty(request, 304);
        else
            reply_text(request, 200, file_type(name), strndup(file->content, file->length));
    }
    plan_ref_unref(ref);
}
