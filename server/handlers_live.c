/* A bottle as it runs: what its proxy did, and the proof of its confinement. */
#include "base/json.h"
#include "server/app.h"
#include "server/engine.h"
#include "server/handlers.h"
#include "server/registry.h"

void handle_bottle_stats(struct request *request)
{
    const char *slug = request_param(request, "slug");
    struct snapshot *snapshot = registry_get(request_app(request)->registry, slug);

    if (!snapshot) {
        reply_fault(request, "not-found", "there is no bottle named %s", slug);
        return;
    }
    const struct egress_totals *totals = &snapshot->egress;
    json_t *body = json_pack("{s:s, s:{s:I, s:I, s:I, s:I}}", "slug", snapshot->bottle.slug,
                             "egress", "allowed", (json_int_t)totals->allowed, "denied",
                             (json_int_t)totals->denied, "bytes_out", (json_int_t)totals->bytes_out,
                             "bytes_in", (json_int_t)totals->bytes_in);
    snapshot_release(snapshot);
    reply_json(request, 200, body);
}

static void after_report(void *context, const json_t *report, const struct problem *problem)
{
    struct request *request = context;

    if (problem)
        reply_problem(request, problem);
    else
        reply_json(request, 200, json_deep_copy(report));
}

void handle_egress_report(struct request *request)
{
    engine_report(request_app(request), request_param(request, "slug"), after_report, request);
}

void handle_secrets_reload(struct request *request)
{
    engine_reload(request_app(request), request_param(request, "slug"), after_report, request);
}
