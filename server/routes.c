#include "server/routes.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "api/spec.h"
#include "base/text.h"
#include "base/util.h"

#define ONE(parameter) MANY(parameter, 1)
#define MANY(parameter, most)                                                                      \
    {                                                                                              \
        (parameter), (most)                                                                        \
    }

const struct route routes[] = {
    {"GET", "/healthz", handle_healthz, BODY_NONE, ROLE_READ, "Is the daemon alive?", {{0}}},
    {"GET", "/readyz", handle_readyz, BODY_NONE, ROLE_READ, "Can it do its work?", {{0}}},
    {"GET",
     "/metrics",
     handle_metrics,
     BODY_NONE,
     ROLE_READ,
     "Counters and gauges, for Prometheus",
     {{0}}},
    {"GET",
     "/version",
     handle_version,
     BODY_NONE,
     ROLE_READ,
     "Versions of the daemon and of its libraries",
     {{0}}},
    {"GET",
     "/openapi.yaml",
     handle_openapi,
     BODY_NONE,
     ROLE_READ,
     "The description of this interface",
     {{0}}},
    {"GET", "/docs", handle_docs, BODY_NONE, ROLE_READ, "A page to read and try it", {{0}}},
    {"GET", "/docs/{name}", handle_docs_file, BODY_NONE, ROLE_READ, "A file of that page", {{0}}},
    {"GET",
     "/backends",
     handle_backends,
     BODY_NONE,
     ROLE_READ,
     "The backends and their preflight, tool by tool",
     {{0}}},
    {"GET",
     "/limits",
     handle_limits,
     BODY_NONE,
     ROLE_READ,
     "Every limit of a plan and of the daemon",
     {{0}}},
    {"POST",
     "/session",
     handle_session_open,
     BODY_NONE,
     ROLE_READ,
     "Open a browser's session with a token",
     {{0}}},
    {"GET", "/session", handle_session_get, BODY_NONE, ROLE_READ, "Who calls, and how", {{0}}},
    {"DELETE", "/session", handle_session_close, BODY_NONE, ROLE_READ, "End a session", {{0}}},
    {"GET",
     "/images",
     handle_image_list,
     BODY_NONE,
     ROLE_READ,
     "The images, and what is needed to import",
     {{0}}},
    {"POST",
     "/images",
     handle_image_import,
     BODY_JSON,
     ROLE_OPERATE,
     "Import an image",
     {ONE("wait"), ONE("timeout")}},
    {"GET", "/images/{id}", handle_image_get, BODY_NONE, ROLE_READ, "One image", {{0}}},
    {"DELETE",
     "/images/{id}",
     handle_image_delete,
     BODY_NONE,
     ROLE_ADMIN,
     "Remove an image",
     {{0}}},
    {"POST",
     "/plans",
     handle_plan_dry_run,
     BODY_JSON,
     ROLE_OPERATE,
     "Resolve a plan and write nothing",
     {{0}}},
    {"POST",
     "/bottles",
     handle_bottle_create,
     BODY_JSON,
     ROLE_OPERATE,
     "Create a bottle; start it and wait when asked",
     {ONE("start"), ONE("wait"), ONE("timeout")}},
    {"GET",
     "/bottles",
     handle_bottle_list,
     BODY_NONE,
     ROLE_READ,
     "A page of bottles, oldest first",
     {MANY("state", 14), MANY("label", 16), ONE("limit"), ONE("after")}},
    {"GET", "/bottles/{slug}", handle_bottle_get, BODY_NONE, ROLE_READ, "One bottle", {{0}}},
    {"PATCH",
     "/bottles/{slug}",
     handle_bottle_patch,
     BODY_JSON,
     ROLE_OPERATE,
     "Change labels and egress, also of a bottle that runs",
     {{0}}},
    {"DELETE",
     "/bottles/{slug}",
     handle_bottle_delete,
     BODY_NONE,
     ROLE_OPERATE,
     "Carry out the cleanup plan",
     {ONE("keep")}},
    {"GET",
     "/bottles/{slug}/plan",
     handle_bottle_plan,
     BODY_NONE,
     ROLE_READ,
     "The resolved plan, as JSON or as a page",
     {{0}}},
    {"GET",
     "/bottles/{slug}/plan/files/{name}",
     handle_plan_file,
     BODY_NONE,
     ROLE_READ,
     "One rendered file",
     {{0}}},
    {"GET",
     "/bottles/{slug}/wait",
     handle_bottle_wait,
     BODY_NONE,
     ROLE_READ,
     "Wait for a state",
     {ONE("state"), ONE("timeout")}},
    {"GET",
     "/bottles/{slug}/logs",
     handle_bottle_logs,
     BODY_NONE,
     ROLE_READ,
     "A log, whole, its end, or as it grows",
     {ONE("stream"), ONE("tail"), ONE("follow")}},
    {"POST",
     "/bottles/{slug}/start",
     handle_bottle_start,
     BODY_NONE,
     ROLE_OPERATE,
     "Start a bottle",
     {ONE("wait"), ONE("timeout")}},
    {"POST",
     "/bottles/{slug}/stop",
     handle_bottle_stop,
     BODY_NONE,
     ROLE_OPERATE,
     "Stop a bottle",
     {ONE("grace"), ONE("wait"), ONE("timeout")}},
    {"POST",
     "/bottles/{slug}/restart",
     handle_bottle_restart,
     BODY_NONE,
     ROLE_OPERATE,
     "Stop a bottle and start it again",
     {ONE("grace"), ONE("wait"), ONE("timeout")}},
    {"POST",
     "/bottles/{slug}/pause",
     handle_bottle_pause,
     BODY_NONE,
     ROLE_OPERATE,
     "Have a bottle stand still",
     {ONE("wait"), ONE("timeout")}},
    {"POST",
     "/bottles/{slug}/resume",
     handle_bottle_resume,
     BODY_NONE,
     ROLE_OPERATE,
     "Have a paused bottle go on",
     {ONE("wait"), ONE("timeout")}},
    {"GET",
     "/bottles/{slug}/stats",
     handle_bottle_stats,
     BODY_NONE,
     ROLE_READ,
     "What the proxy let through and refused",
     {{0}}},
    {"POST",
     "/bottles/{slug}/egress-report",
     handle_egress_report,
     BODY_NONE,
     ROLE_OPERATE,
     "Try the confinement from inside the live guest",
     {{0}}},
    {"POST",
     "/bottles/{slug}/secrets/reload",
     handle_secrets_reload,
     BODY_NONE,
     ROLE_OPERATE,
     "Read the secrets of a running bottle again",
     {{0}}},
    {"POST",
     "/bottles/{slug}/exec",
     handle_exec,
     BODY_JSON,
     ROLE_OPERATE,
     "Run a program beside the command of a running bottle",
     {{0}}},
    {"GET",
     "/bottles/{slug}/execs/{exec}",
     handle_exec_result,
     BODY_NONE,
     ROLE_READ,
     "How such a program stands, or how it ended",
     {{0}}},
    {"DELETE",
     "/bottles/{slug}/execs/{exec}",
     handle_exec_kill,
     BODY_NONE,
     ROLE_OPERATE,
     "Kill such a program and all of its group",
     {{0}}},
    {"POST",
     "/bottles/{slug}/execs/{exec}/stdin",
     handle_exec_stdin,
     BODY_BYTES,
     ROLE_OPERATE,
     "Give such a program more input, or end it",
     {ONE("eof")}},
    {"POST",
     "/bottles/{slug}/execs/{exec}/signal",
     handle_exec_signal,
     BODY_JSON,
     ROLE_OPERATE,
     "Send a signal to such a program's group",
     {{0}}},
    {"POST",
     "/bottles/{slug}/execs/{exec}/resize",
     handle_exec_resize,
     BODY_JSON,
     ROLE_OPERATE,
     "Change the size of such a program's terminal",
     {{0}}},
    {"GET",
     "/bottles/{slug}/files",
     handle_file_get,
     BODY_NONE,
     ROLE_OPERATE,
     "One file of a running bottle",
     {ONE("path")}},
    {"PUT",
     "/bottles/{slug}/files",
     handle_file_put,
     BODY_STREAM,
     ROLE_OPERATE,
     "Put one file into a running bottle",
     {ONE("path"), ONE("mode"), ONE("owner")}},
    {"GET",
     "/bottles/{slug}/archive",
     handle_archive_get,
     BODY_NONE,
     ROLE_OPERATE,
     "What is in a folder of a running bottle, as a tar stream",
     {ONE("path")}},
    {"PUT",
     "/bottles/{slug}/archive",
     handle_archive_put,
     BODY_STREAM,
     ROLE_OPERATE,
     "Unpack a tar stream into a folder of a running bottle",
     {ONE("path"), ONE("owner")}},
    {"GET",
     "/events",
     handle_events,
     BODY_NONE,
     ROLE_READ,
     "A page of what happened",
     {ONE("after"), ONE("limit"), ONE("slug"), MANY("type", 28)}},
    {"GET",
     "/bottles/{slug}/cleanup-plan",
     handle_cleanup_plan,
     BODY_NONE,
     ROLE_READ,
     "What deleting would remove",
     {{0}}},
    {"GET",
     "/cleanup-plan",
     handle_orphans_plan,
     BODY_NONE,
     ROLE_READ,
     "What no bottle owns",
     {{0}}},
    {"POST",
     "/cleanup",
     handle_orphans_remove,
     BODY_NONE,
     ROLE_ADMIN,
     "Remove what no bottle owns",
     {{0}}},
};
const size_t n_routes = COUNT_OF(routes);

static handler *const open_handlers[] = {handle_openapi, handle_docs, handle_docs_file};

bool route_open(const struct route *route)
{
    for (size_t i = 0; i < COUNT_OF(open_handlers); i++)
        if (route->handle == open_handlers[i])
            return true;
    return false;
}

/* Those that may not be done twice; all other POSTs may. */
static const struct {
    handler *handle;
    enum route_retry retry;
} retries[] = {
    {handle_bottle_create, RETRY_WRITES}, {handle_exec, RETRY_ONCE},
    {handle_exec_stdin, RETRY_ONCE},      {handle_exec_signal, RETRY_ONCE},
    {handle_bottle_restart, RETRY_ONCE},  {handle_session_open, RETRY_UNKEPT},
};

enum route_retry route_retry(const struct route *route)
{
    for (size_t i = 0; i < COUNT_OF(retries); i++)
        if (retries[i].handle == route->handle)
            return retries[i].retry;
    return RETRY_AGAIN;
}

/* File names as the renderers make them: "gvproxy.yaml". */
static bool file_name_valid(const char *name)
{
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-");

    return length > 0 && length <= 64 && name[length] == '\0' && name[0] != '.';
}

static bool id_valid(const char *id)
{
    return strlen(id) == 16 && id[strspn(id, "0123456789abcdef")] == '\0';
}

static const struct {
    const char *name;
    bool (*valid)(const char *value);
} param_kinds[] = {
    {"slug", slug_valid}, {"name", file_name_valid}, {"exec", id_valid}, {"id", id_valid}};

/* A pattern's segments: literals, and parameters of a kind. */
struct shape {
    size_t n_parts;
    struct part {
        const char *literal; /* not terminated */
        size_t length;
        int kind; /* row of param_kinds; -1: the literal */
    } parts[SEGMENTS_MAX];
};

static struct shape shapes[COUNT_OF(routes)];
static pthread_once_t shaped = PTHREAD_ONCE_INIT;

static int param_kind(const char *part, size_t length)
{
    for (size_t i = 0; i < COUNT_OF(param_kinds); i++)
        if (part[0] == '{' && strlen(param_kinds[i].name) == length - 2 &&
            memcmp(part + 1, param_kinds[i].name, length - 2) == 0)
            return (int)i;
    return -1;
}

/* Cuts up the patterns, once. */
static void shape_all(void)
{
    for (size_t i = 0; i < COUNT_OF(routes); i++) {
        const char *part = routes[i].pattern + 1;
        while (*part && shapes[i].n_parts < SEGMENTS_MAX) {
            size_t length = strcspn(part, "/");
            shapes[i].parts[shapes[i].n_parts++] =
                (struct part){part, length, param_kind(part, length)};
            part += length + (part[length] == '/');
        }
    }
}

/* Are its literals those of the path? */
static bool literals_fit(const struct shape *shape, const struct uri *uri, const size_t *lengths)
{
    if (shape->n_parts != uri->n_segments)
        return false;
    for (size_t i = 0; i < shape->n_parts; i++) {
        const struct part *part = &shape->parts[i];
        if (part->kind < 0 && (part->length != lengths[i] ||
                               memcmp(part->literal, uri->segments[i], lengths[i]) != 0))
            return false;
    }
    return true;
}

/* Fills *params with the values of those that the pattern names. */
static bool params_fit(const struct shape *shape, const struct uri *uri, struct route_param *params)
{
    size_t n_params = 0;

    for (size_t i = 0; i < shape->n_parts; i++) {
        const int kind = shape->parts[i].kind;
        if (kind < 0)
            continue;
        if (!param_kinds[kind].valid(uri->segments[i]))
            return false;
        if (n_params < ROUTE_PARAMS_MAX)
            params[n_params++] = (struct route_param){param_kinds[kind].name, uri->segments[i]};
    }
    return true;
}

static bool same_method(const char *a, const char *b)
{
    return a[0] == b[0] && strcmp(a, b) == 0;
}

static void add_allowed(char allow[ALLOW_SIZE], const char *method)
{
    size_t length = strlen(allow);

    (void)snprintf(allow + length, ALLOW_SIZE - length, "%s%s", length ? ", " : "", method);
}

/* Of every row whose pattern fits. */
static void fill_allow(const struct uri *uri, const size_t *lengths, char allow[ALLOW_SIZE])
{
    struct route_param params[ROUTE_PARAMS_MAX];

    for (size_t i = 0; i < n_routes; i++) {
        if (!literals_fit(&shapes[i], uri, lengths) || !params_fit(&shapes[i], uri, params))
            continue;
        add_allowed(allow, routes[i].method);
        if (strcmp(routes[i].method, "GET") == 0)
            add_allowed(allow, "HEAD");
    }
    if (allow[0])
        add_allowed(allow, "OPTIONS");
}

enum route_verdict route_find(const char *method, const struct uri *uri, struct route_match *ret)
{
    const char *row_method = same_method(method, "HEAD") ? "GET" : method;
    size_t lengths[SEGMENTS_MAX];

    (void)pthread_once(&shaped, shape_all);
    for (size_t i = 0; i < uri->n_segments; i++)
        lengths[i] = strlen(uri->segments[i]);
    *ret = (struct route_match){0};
    for (size_t i = 0; i < n_routes; i++)
        if (shapes[i].n_parts == uri->n_segments && same_method(routes[i].method, row_method) &&
            literals_fit(&shapes[i], uri, lengths) && params_fit(&shapes[i], uri, ret->params)) {
            ret->route = &routes[i];
            return ROUTE_FOUND;
        }
    fill_allow(uri, lengths, ret->allow);
    if (!ret->allow[0])
        return ROUTE_NO_PATH;
    return strcmp(method, "OPTIONS") == 0 ? ROUTE_OPTIONS : ROUTE_WRONG_METHOD;
}

static const struct route_query *query_row(const struct route *route, const char *name)
{
    for (size_t i = 0; i < ROUTE_QUERY_MAX && route->query[i].name; i++)
        if (strcmp(route->query[i].name, name) == 0)
            return &route->query[i];
    return NULL;
}

static int unknown_parameter(const struct route *route, const char *name, struct error *err)
{
    CLEANUP_TEXT struct text names = TEXT_INIT;

    for (size_t i = 0; i < ROUTE_QUERY_MAX && route->query[i].name; i++)
        text_addf(&names, "%s%s", i ? ", " : "", route->query[i].name);
    if (names.length == 0)
        return error_set(err, "invalid-query",
                         "this call takes no query parameters, but got \"%.64s\"", name);
    return error_set(err, "invalid-query",
                     "there is no query parameter \"%.64s\" here; there are: %s", name,
                     names.failed ? "" : names.data);
}

static int too_often(const struct route_query *row, struct error *err)
{
    if (row->most == 1)
        return error_set(err, "invalid-query", "the query parameter \"%s\" is there twice",
                         row->name);
    return error_set(err, "invalid-query", "the query parameter \"%s\" may be there %u times",
                     row->name, row->most);
}

int route_check_query(const struct route *route, const struct uri *uri, struct error *err)
{
    for (size_t i = 0; i < uri->n_query; i++) {
        const struct route_query *row = query_row(route, uri->query[i].name);
        if (!row)
            return unknown_parameter(route, uri->query[i].name, err);
        unsigned times = 1;
        for (size_t k = 0; k < i; k++)
            times += strcmp(uri->query[k].name, row->name) == 0;
        if (times > row->most)
            return too_often(row, err);
    }
    return 0;
}
