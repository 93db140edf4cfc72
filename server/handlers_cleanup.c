/* What a delete would remove, and deleting; the same for what no bottle owns. */
#include <stdio.h>
#include <string.h>

#include "server/app.h"
#include "server/engine.h"
#include "server/handlers.h"
#include "server/query.h"

static void after_cleanup_plan(void *context, const struct cleanup_plan *plan,
                               const struct problem *problem)
{
    struct request *request = context;
    char tag[17], quoted[20];

    if (problem) {
        reply_problem(request, problem);
        return;
    }
    cleanup_tag(plan, tag);
    (void)snprintf(quoted, sizeof quoted, "\"%s\"", tag);
    reply_header(request, "ETag", quoted);
    reply_json(request, 200, cleanup_encode(plan));
}

void handle_orphans_plan(struct request *request)
{
    engine_orphans(request_app(request), false, NULL, after_cleanup_plan, request);
}

void handle_cleanup_plan(struct request *request)
{
    engine_cleanup_plan(request_app(request), request_param(request, "slug"), after_cleanup_plan,
                        request);
}

static void after_delete(void *context, const struct cleanup_plan *plan,
                         const struct problem *problem)
{
    struct request *request = context;

    if (problem)
        reply_problem(request, problem);
    else
        reply_json(request, 200, cleanup_encode(plan));
}

void handle_orphans_remove(struct request *request)
{
    engine_orphans(request_app(request), true, request_header(request, "If-Match"), after_delete,
                   request);
}

void handle_bottle_delete(struct request *request)
{
    const char *keep = request_query(request, "keep");

    if (keep && strcmp(keep, "logs") != 0) {
        reply_fault(request, "invalid-query", "keep: only logs can be kept");
        return;
    }
    engine_delete(request_app(request), request_param(request, "slug"), 0,
                  request_header(request, "If-Match"), keep != NULL, after_delete, request);
}
