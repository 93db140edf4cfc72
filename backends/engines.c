#include "backends/engines.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backends/choices.h"
#include "backends/tools.h"
#include "base/util.h"

#define JAIL_PROGRAM_DIR "/opt/bottle"

/* Whatever the engine can't do and the relay before it does (shim/relay_gate.c) is none. */
#define RELAY_LIMITS                                                                               \
    "a tunnel is looked at up to its TLS hello, which must name the tunnel's host (on port 443 "   \
    "nothing else may begin one, on other ports anything may): an encrypted server name (ECH), "   \
    "what is asked for inside TLS, and the Host of plain HTTP in a tunnel are not seen; what "     \
    "follows a chunked http:// request on its connection is left to the engine"

/* In the order of preference. */
const struct engine_row engines[] = {
    {
        .name = "pipelock",
        .sidecar = SIDECAR_PIPELOCK,
        .file = "pipelock.yaml",
        .render = render_pipelock,
        .limits = RELAY_LIMITS,
        .hint = "optional: install pipelock's release binary on PATH",
        .arguments = {"run", "--config", "%CONFIG", "--listen", "%LISTEN"},
        .check = {"check", "--config", "%CONFIG"},
        .in_force = "config_reload",
    },
    {
        .name = "squid",
        .sidecar = SIDECAR_PIPELOCK,
        .file = "squid.conf",
        .render = render_squid,
        .limits = RELAY_LIMITS,
        .hint = "install it by: apt-get install squid",
        .arguments = {"-N", "-f", "%CONFIG"},
        .check = {"-k", "parse", "-f", "%CONFIG"},
        .complaint = "FATAL: ",
        .hangs_up = true,
        .in_force = "| Accepting HTTP Socket connections",
    },
    {
        .name = "git-gate",
        .sidecar = SIDECAR_GIT_GATE,
        .hint = "set git_gate_program in bottled's configuration to a program that listens on "
                "$LISTEN, or leave sidecars.git_gate out of the plan",
    },
    {
        .name = "supervise",
        .sidecar = SIDECAR_SUPERVISE,
        .hint = "set supervise_program in bottled's configuration to a program that listens on "
                "$LISTEN, or leave sidecars.supervise out of the plan",
    },
};
const size_t n_engines = COUNT_OF(engines);

/* The path that the operator configured for a sidecar, or NULL when its engine is looked for by
 * name. */
static const char *configured_program(const struct host *host, enum sidecar sidecar)
{
    switch (sidecar) {
    case SIDECAR_GIT_GATE:
        return host->git_gate_program ? host->git_gate_program : "";
    case SIDECAR_SUPERVISE:
        return host->supervise_program ? host->supervise_program : "";
    default:
        return NULL;
    }
}

/* `find` is tool_find for what is run, and tool_is_there to tell what there is. */
static bool find_program(const struct host *host, const struct engine_row *row, tool_finder *find,
                         char *ret, size_t size)
{
    const char *program = configured_program(host, row->sidecar);

    if (!program)
        return find(host->tools_path, row->name, ret, size) == 0;
    char directory[PATH_MAX];
    const char *slash = strrchr(program, '/');
    if (!slash || snprintf(directory, sizeof directory, "%.*s", (int)(slash - program), program) >=
                      (int)sizeof directory)
        return false;
    return find(directory, slash + 1, ret, size) == 0;
}

/* The first of those that `name` allows whose program is here (*ret_path), else the last (""). */
static const struct engine_row *look_for(const struct host *host, enum sidecar sidecar,
                                         const char *name, char *ret_path, size_t size)
{
    const struct engine_row *last = NULL;

    for (size_t i = 0; i < n_engines; i++) {
        if (engines[i].sidecar != sidecar || (name && strcmp(name, engines[i].name) != 0))
            continue;
        last = &engines[i];
        if (find_program(host, last, tool_is_there, ret_path, size))
            return last;
    }
    ret_path[0] = '\0';
    return last;
}

static const struct engine_row *choose_any(const struct host *host, enum sidecar sidecar,
                                           char *ret_path, size_t size)
{
    const struct engine_row *row = choices_engine(host->choices, sidecar);

    if (row && find_program(host, row, tool_is_there, ret_path, size))
        return row;
    row = look_for(host, sidecar, NULL, ret_path, size);
    if (ret_path[0])
        choices_keep_engine(host->choices, sidecar, row);
    return row;
}

const struct engine_row *engine_choose(const struct host *host, enum sidecar sidecar,
                                       const char *name, char *ret_path, size_t size)
{
    bool any = !name || strcmp(name, "auto") == 0;
    char path[PATH_MAX];
    const struct engine_row *row = any ? choose_any(host, sidecar, path, sizeof path)
                                       : look_for(host, sidecar, name, path, sizeof path);

    if (ret_path)
        (void)snprintf(ret_path, size, "%s", path);
    return row;
}

const struct engine_row *engine_find(const char *name)
{
    for (size_t i = 0; i < n_engines; i++)
        if (engines[i].sidecar == SIDECAR_PIPELOCK && strcmp(engines[i].name, name) == 0)
            return &engines[i];
    return NULL;
}

void preflight_engines(struct preflight *preflight, const struct host *host,
                       const struct spec *spec)
{
    for (int sidecar = 0; sidecar < N_SIDECARS; sidecar++) {
        char path[PATH_MAX];
        if (spec ? !sidecar_active(spec, sidecar) : sidecar != SIDECAR_PIPELOCK)
            continue;
        const char *name = spec && sidecar == SIDECAR_PIPELOCK ? spec->engine : NULL;
        const struct engine_row *row = engine_choose(host, sidecar, name, path, sizeof path);
        preflight_row(preflight, row->name, path[0] != '\0', path,
                      path[0] ? "" : "no program for this sidecar was found", row->hint);
    }
}

int engines_prepare(const struct host *host, struct plan *plan, struct error *err)
{
    bool any = strcmp(plan->spec.engine, "auto") == 0;
    const struct engine_row *row =
        engine_choose(host, SIDECAR_PIPELOCK, any ? plan->engine : plan->spec.engine, NULL, 0);
    CLEANUP_TEXT struct text out = TEXT_INIT;
    const struct proxy_config config = {
        .loopback = plan->allocation.loopback,
        .port = plan->allocation.host_ports[SIDECAR_PIPELOCK],
        .rules = plan->spec.rules.items,
        .n_rules = plan->spec.rules.count,
    };

    if (!row)
        return error_set(err, NULL, "there is no egress engine of that name");
    plan->engine = row->name;
    if (row->limits && !(plan->limits_note = strdup(row->limits)))
        return error_set(err, NULL, "out of memory");
    if (row->render(&config, &out, err) < 0)
        return error_wrap(err, "%s", row->file);
    char *content = text_take(&out);
    if (!content)
        return error_set(err, NULL, "out of memory");
    return plan_add_file(plan, row->file, content, err);
}

static json_t *pair(const char *host, const char *jail)
{
    return json_pack("[s, s]", host, jail);
}

/* A program under /usr is seen in the jail where it is; any other is bound to a place of its own.
 */
static void place_program(const char *path, const char *name, json_t *argv, json_t *binds)
{
    char jail[PATH_MAX];

    if (strncmp(path, "/usr/", 5) == 0) {
        json_array_append_new(argv, json_string(path));
        return;
    }
    (void)snprintf(jail, sizeof jail, JAIL_PROGRAM_DIR "/%s", name);
    json_array_append_new(binds, pair(path, jail));
    json_array_append_new(argv, json_string(jail));
}

static void add_arguments(const char *const arguments[8], const char *config, const char *listen,
                          json_t *argv)
{
    for (size_t i = 0; i < 8 && arguments[i]; i++) {
        const char *argument = arguments[i];
        if (strcmp(argument, "%CONFIG") == 0)
            argument = config;
        else if (strcmp(argument, "%LISTEN") == 0)
            argument = listen;
        json_array_append_new(argv, json_string(argument));
    }
}

/* How the shim sees to the engine's config (shim/spec.h). */
static json_t *config_encode(const struct engine_row *row, const struct plan *plan,
                             const char *program)
{
    char staged[PATH_MAX], draft[PATH_MAX];
    json_t *check = json_array();

    (void)snprintf(staged, sizeof staged, "%s/%s", plan->stage_dir, row->file);
    (void)snprintf(draft, sizeof draft, JAIL_CONFIG_DIR "/%s.new", row->file);
    json_array_append_new(check, json_string(program));
    add_arguments(row->check, draft, "", check);
    return json_pack("{s:s, s:s, s:o, s:s?, s:b, s:s}", "path", staged, "name", row->file, "check",
                     check, "complaint", row->complaint, "hangs_up", (int)row->hangs_up, "in_force",
                     row->in_force);
}

static json_t *launch_one(const struct host *host, const struct plan *plan, enum sidecar sidecar,
                          struct error *err)
{
    static const char *const resolver_files[] = {"/etc/hosts", "/etc/resolv.conf",
                                                 "/etc/nsswitch.conf"};
    char path[PATH_MAX], config[PATH_MAX], listen[32];
    const char *name = sidecar == SIDECAR_PIPELOCK ? plan->engine : NULL;
    const struct engine_row *row = engine_choose(host, sidecar, name, NULL, 0);
    json_t *argv = json_array(), *binds = json_array();
    unsigned port = plan->allocation.host_ports[sidecar];

    if (!find_program(host, row, tool_find, path, sizeof path)) {
        error_set(err, "preflight-failed", "%s: its program is missing; %s", row->name, row->hint);
        json_decref(argv);
        json_decref(binds);
        return NULL;
    }
    (void)snprintf(listen, sizeof listen, "%s:%u", plan->loopback, port);
    (void)snprintf(config, sizeof config, JAIL_CONFIG_DIR "/%s", row->file ? row->file : "");
    place_program(path, row->name, argv, binds);
    json_t *own = row->file ? config_encode(row, plan, json_string_value(json_array_get(argv, 0)))
                            : json_null();
    add_arguments(row->arguments, config, listen, argv);
    for (size_t i = 0; i < COUNT_OF(resolver_files); i++)
        if (access(resolver_files[i], R_OK) == 0)
            json_array_append_new(binds, pair(resolver_files[i], resolver_files[i]));
    return json_pack("{s:s, s:o, s:o, s:{s:s, s:s}, s:s, s:i, s:o}", "name", sidecars[sidecar].name,
                     "argv", argv, "binds", binds, "env", "BOTTLE_SLUG", plan->spec.slug, "LISTEN",
                     listen, "host", plan->loopback, "host_port", (int)port, "config", own);
}

json_t *engines_launch(const struct host *host, const struct plan *plan, struct error *err)
{
    json_t *list = json_array();

    for (int sidecar = 0; list && sidecar < N_SIDECARS; sidecar++) {
        if (!sidecar_active(&plan->spec, sidecar))
            continue;
        json_t *entry = launch_one(host, plan, sidecar, err);
        if (!entry) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, entry);
    }
    return list;
}
