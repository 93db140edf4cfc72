/* What the daemon says about itself: alive, ready, versions, backends, limits, and its own
 * description. */
#include "server/handlers.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "backends/backend.h"
#include "backends/versions.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "guest/files.h"
#include "guest/protocol.h"
#include "server/app.h"
#include "server/config_keys.h"
#include "server/exec_stream.h"
#include "server/registry.h"
#include "server/request_internal.h"
#include "server/store.h"
#include "server/transfer.h"

void handle_healthz(struct request *request)
{
    const struct app *app = request_app(request);

    reply_json(request, 200,
               json_pack("{s:s, s:I}", "status", "ok", "uptime_ms",
                         (json_int_t)(clock_wall_ms() - app->started_ms)));
}

/* --- /readyz: a row for each thing that has to hold --------------------------------------- */

static int check_store(struct app *app, struct error *err)
{
    return store_health(app->store, err);
}

static int check_state_dir(struct app *app, struct error *err)
{
    if (access(app->config.state_dir, W_OK | X_OK) == 0)
        return 0;
    return error_errno(err, NULL, "%s", app->config.state_dir);
}

static int check_gvproxy(struct app *app, struct error *err)
{
    char path[512];

    if (tool_find(app->host.tools_path, "gvproxy", path, sizeof path) == 0)
        return 0;
    return error_set(err, NULL,
                     "gvproxy is not on tools_path nor on PATH; tools/setup installs it");
}

static int check_space(struct app *app, struct error *err)
{
    const struct config *config = &app->config;
    struct statvfs space;

    if (statvfs(config->state_dir, &space) < 0)
        return error_errno(err, NULL, "%s", config->state_dir);
    const int64_t mib = (int64_t)((uint64_t)space.f_bavail * space.f_frsize >> 20);
    if (mib >= config->ready_min_mib)
        return 0;
    return error_set(err, NULL,
                     "%lld MiB are free in %s, and the key ready_min_mib wants %lld: make room",
                     (long long)mib, config->state_dir, (long long)config->ready_min_mib);
}

static const struct {
    const char *name;
    int (*check)(struct app *app, struct error *err);
} ready_checks[] = {{"store", check_store},
                    {"state_dir", check_state_dir},
                    {"space", check_space},
                    {"gvproxy", check_gvproxy}};

void handle_readyz(struct request *request)
{
    struct app *app = request_app(request);
    struct problem problem = PROBLEM_INIT;
    json_t *checks = json_array();

    for (size_t i = 0; i < COUNT_OF(ready_checks); i++) {
        struct error err = ERROR_INIT;
        int result = ready_checks[i].check(app, &err);
        if (result < 0 && !problem.type)
            problem_set(&problem, "not-ready", "%s: %s", ready_checks[i].name, err.text);
        (void)json_array_append_new(checks, json_pack("{s:s, s:b, s:s?}", "name",
                                                      ready_checks[i].name, "ok", result == 0,
                                                      "detail", result < 0 ? err.text : NULL));
    }
    if (!problem.type) {
        reply_json(request, 200, json_pack("{s:b, s:o}", "ready", 1, "checks", checks));
        return;
    }
    problem_add_member(&problem, "checks", checks);
    reply_problem(request, &problem);
    problem_free(&problem);
}

/* --- The rest ------------------------------------------------------------------------------ */

void handle_version(struct request *request)
{
    reply_json(request, 200,
               json_pack("{s:s, s:s, s:{s:s, s:s, s:s}}", "name", "bottled", "version",
                         BOTTLED_VERSION, "libraries", "libmicrohttpd", MHD_get_version(), "sqlite",
                         sqlite3_libversion(), "jansson", jansson_version_str()));
}

void handle_openapi(struct request *request)
{
    struct shared_bytes *description = request->http->openapi;

    if (description)
        reply_shared(request, 200, "application/yaml", description);
    else
        reply_fault(request, "not-found", "openapi.yaml was not at %s when bottled started",
                    request_app(request)->config.openapi_file);
}

void handle_backends(struct request *request)
{
    const struct host *host = &request_app(request)->host;
    const struct backend *chosen = backend_choose(host, "auto");
    json_t *rows = json_array();

    for (size_t i = 0; i < n_backends; i++) {
        struct preflight preflight = {0};
        backends[i].preflight(host, NULL, &preflight);
        tool_versions(&preflight);
        (void)json_array_append_new(
            rows, json_pack("{s:s, s:s, s:b, s:o}", "name", backends[i].name, "summary",
                            backends[i].summary, "can_launch", (int)backends[i].can_launch,
                            "preflight", preflight_encode(&preflight)));
    }
    reply_json(request, 200,
               json_pack("{s:s, s:{s:b, s:s}, s:{s:b, s:s}, s:o}", "auto",
                         chosen ? chosen->name : "", "kvm", "works", (int)host->kvm_works, "detail",
                         host->kvm_detail, "cgroups", "used", host->cgroup_parent[0] != '\0',
                         "detail", host->cgroup_detail, "backends", rows));
}

/* The daemon's numbers, by the names of their keys. */
static json_t *daemon_limits(const struct config *config)
{
    json_t *limits = json_object();

    for (size_t i = 0; i < n_config_keys; i++) {
        const struct config_key *key = &config_keys[i];
        char name[40];
        bool duration = key->type == CONFIG_DURATION;
        if ((key->type != CONFIG_INTEGER && !duration) ||
            key->offset == offsetof(struct config, uid_base))
            continue;
        (void)snprintf(name, sizeof name, "%s%s", key->name, duration ? "_ms" : "");
        (void)json_object_set_new(
            limits, name, json_integer(*(const int64_t *)((const char *)config + key->offset)));
    }
    (void)json_object_set_new(limits, "host_ports",
                              json_pack("[I, I]", (json_int_t)config->host_port_first,
                                        (json_int_t)config->host_port_last));
    return limits;
}

void handle_limits(struct request *request)
{
    json_t *http = json_pack("{s:I, s:i, s:i, s:i, s:i, s:i}", "body_bytes",
                             (json_int_t)request_app(request)->config.max_body_bytes, "json_depth",
                             JSON_DEPTH_MAX, "uri_bytes", URI_LENGTH_MAX, "query_parameters",
                             QUERY_MAX, "head_bytes", HEAD_BYTES_MAX, "headers", HEAD_LINES_MAX);

    json_t *execs = json_pack("{s:i, s:i, s:i}", "of_a_bottle", EXECS_MAX, "streams",
                              EXEC_STREAMS_MAX, "stream_bytes", EXEC_STREAMS_BYTES_MAX);

    json_t *files = json_pack("{s:i, s:i}", "at_once", TRANSFERS_MAX, "path_bytes", FILES_PATH_MAX);
    json_t *secrets =
        json_pack("{s:i, s:i}", "value_bytes", SECRET_VALUE_MAX, "total_bytes", SECRETS_TOTAL_MAX);

    reply_json(request, 200,
               json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "plan", spec_fields_encode(),
                         "exec", exec_fields_encode(), "execs", execs, "files", files, "secrets",
                         secrets, "http", http, "daemon",
                         daemon_limits(&request_app(request)->config)));
}
