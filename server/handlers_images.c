/* Images over HTTP: list, import, look, delete. */
#include <stdio.h>

#include "api/field.h"
#include "base/json.h"
#include "base/util.h"
#include "server/app.h"
#include "server/handlers.h"
#include "server/images.h"
#include "server/import.h"
#include "server/query.h"

/* --- Import ----------------------------------------------------------------------------------- */

struct source {
    char *source;
};

static const char *source_check(const char *value)
{
    return value[0] && value[strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                           "0123456789._/:@-")] == '\0'
               ? NULL
               : "may hold letters, digits and ._/:@-";
}

static const struct field source_rows[] = {
    {.name = "source",
     .type = FIELD_STRING,
     .flags = FIELD_REQUIRED,
     .offset = offsetof(struct source, source),
     .min = 1,
     .max = 255,
     .pattern = "^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
     .check = source_check,
     .doc = "Where the image comes from."},
};

/* What was sent; NULL when the request was answered. The caller frees. */
static char *read_source(struct request *request)
{
    struct error err = ERROR_INIT;
    struct problem problem = PROBLEM_INIT;
    struct source source = {0};
    size_t length;
    const char *bytes = request_body(request, &length);
    CLEANUP_JSON json_t *body = json_parse_request(bytes, length, &err);

    if (!body) {
        reply_error(request, &err);
        return NULL;
    }
    field_decode(body, source_rows, COUNT_OF(source_rows), &source, &problem);
    if (!problem.type && import_check(&request_app(request)->config, source.source, &err) < 0) {
        if (err.kind && strcmp(err.kind, "invalid-plan") == 0)
            problem_add_fault(&problem, "/source", "unsupported", "%s", err.text);
        else
            problem_from_error(&problem, &err);
    }
    if (!problem.type)
        return source.source;
    reply_problem(request, &problem);
    problem_free(&problem);
    free(source.source);
    return NULL;
}

static int check_tools(struct request *request)
{
    struct problem problem = PROBLEM_INIT;
    struct preflight preflight;

    import_preflight(&request_app(request)->host, &preflight);
    if (preflight.ok)
        return 0;
    for (size_t i = 0; i < preflight.count && !problem.type; i++)
        if (!preflight.tools[i].found)
            problem_set(&problem, "preflight-failed", "images can not be imported here: %s: %s; %s",
                        preflight.tools[i].name, preflight.tools[i].detail,
                        preflight.tools[i].hint);
    CLEANUP_JSON json_t *encoded = preflight_encode(&preflight);
    problem_add_member(&problem, "tools", json_incref(json_object_get(encoded, "tools")));
    reply_problem(request, &problem);
    problem_free(&problem);
    return -1;
}

static void after_import(void *context, const json_t *image, const struct problem *problem)
{
    struct request *request = context;
    const char *state = json_member_string(image, "state");
    char location[64];

    if (problem) {
        reply_problem(request, problem);
        return;
    }
    (void)snprintf(location, sizeof location, "/images/%s", json_member_string(image, "id"));
    reply_header(request, "Location", location);
    reply_json(request, state && strcmp(state, "ready") == 0 ? 201 : 202, json_deep_copy(image));
}

static bool is_wanted(const void *context)
{
    return !request_left(context);
}

void handle_image_import(struct request *request)
{
    int64_t timeout_ms = WAIT_DEFAULT_MS;
    bool wait = false;

    if (query_flag(request, "wait", &wait) < 0 ||
        query_duration(request, "timeout", WAIT_MAX_MS, &timeout_ms) < 0)
        return;
    if (request_query(request, "timeout") && !wait) {
        reply_fault(request, "invalid-query",
                    "timeout says how long to wait: it needs wait=true beside it");
        return;
    }
    CLEANUP_FREE char *source = read_source(request);
    if (source && check_tools(request) == 0)
        images_import(request_app(request), source,
                      !wait        ? 0
                      : timeout_ms ? timeout_ms
                                   : 1,
                      is_wanted, after_import, request);
}

/* --- The rest --------------------------------------------------------------------------------- */

void handle_image_list(struct request *request)
{
    struct preflight preflight;

    import_preflight(&request_app(request)->host, &preflight);
    reply_json(request, 200,
               json_pack("{s:o, s:o}", "images", images_list(request_app(request)), "preflight",
                         preflight_encode(&preflight)));
}

void handle_image_get(struct request *request)
{
    const char *id = request_param(request, "id");
    json_t *image = images_get(request_app(request), id);

    if (image)
        reply_json(request, 200, image);
    else
        reply_fault(request, "not-found", "there is no image %s", id);
}

static void after_delete(void *context, const json_t *image, const struct problem *problem)
{
    struct request *request = context;

    (void)image;
    if (problem)
        reply_problem(request, problem);
    else
        reply_empty(request, 204);
}

void handle_image_delete(struct request *request)
{
    images_delete(request_app(request), request_param(request, "id"), after_delete, request);
}
