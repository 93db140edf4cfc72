/* The launch spec: what bottle-shim is told (its members: shim/spec.h). */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/backend.h"
#include "backends/engines.h"
#include "backends/mounts.h"
#include "backends/tools.h"

void bind_disk(json_t *vm, const struct plan *plan, const char *jail)
{
    char path[PATH_MAX];

    if (plan->spec.disk_mib <= 0)
        return;
    (void)snprintf(path, sizeof path, "%s/" DISK_FILE, plan->stage_dir);
    (void)json_array_append_new(json_object_get(vm, "binds"),
                                json_pack("[s, s, b]", path, jail, 1));
    (void)json_object_set_new(vm, "disk_mib", json_integer(plan->spec.disk_mib));
}

static json_t *resources_encode(const struct host *host, int64_t memory_mib)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "shim_mib",
                     (json_int_t)host->shim_memory_mib, "vm_mib", (json_int_t)memory_mib,
                     "vm_overhead_mib", (json_int_t)host->vm_overhead_mib, "gvproxy_mib",
                     (json_int_t)host->gvproxy_memory_mib, "sidecar_mib",
                     (json_int_t)host->sidecar_memory_mib, "pids", (json_int_t)host->bottle_pids);
}

json_t *launch_frame(const struct host *host, json_t *vm, int64_t memory_mib, const char *slug,
                     const char *run_dir, const char *log_dir, unsigned uid, const char *token,
                     struct error *err)
{
    char bwrap[PATH_MAX];
    struct stat kvm;

    if (tool_find(host->tools_path, "bwrap", bwrap, sizeof bwrap) < 0) {
        error_set(err, "preflight-failed",
                  "bwrap was not found; install it by: apt-get install bubblewrap");
        json_decref(vm);
        return NULL;
    }
    /* A bottle's own user is in no group; the one that may open /dev/kvm is given to it where KVM
     * is used. */
    bool needs_group = uid && json_is_true(json_object_get(vm, "dev_kvm")) &&
                       stat("/dev/kvm", &kvm) == 0 && (kvm.st_mode & S_IRGRP);
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:s, s:o, s:o}",
                     "slug", slug, "run_dir", run_dir, "log_dir", log_dir, "log_bytes",
                     (json_int_t)host->log_bytes, "uid", (json_int_t)uid, "gid", (json_int_t)uid,
                     "daemon_uid", (json_int_t)geteuid(), "kvm_gid",
                     needs_group ? (json_int_t)kvm.st_gid : (json_int_t)-1, "token", token,
                     "boot_timeout_ms", (json_int_t)host->boot_timeout_ms, "sidecar_timeout_ms",
                     (json_int_t)host->sidecar_timeout_ms, "bwrap", bwrap, "resources",
                     resources_encode(host, memory_mib), "vm", vm);
}

static json_t *gvproxy_encode(const struct host *host, const struct plan *plan, struct error *err)
{
    char binary[PATH_MAX], config[PATH_MAX], cell[PATH_MAX];

    if (tool_find(host->tools_path, "gvproxy", binary, sizeof binary) < 0) {
        error_set(err, "preflight-failed", "gvproxy was not found; run tools/setup");
        return NULL;
    }
    (void)snprintf(config, sizeof config, "%s/gvproxy.yaml", plan->stage_dir);
    (void)snprintf(cell, sizeof cell, "%s/bottle-cell", host->libexec_dir);
    return json_pack("{s:s, s:s, s:s, s:b}", "binary", binary, "config", config, "cell", cell,
                     "dynamic", (int)program_is_dynamic(binary));
}

static json_t *forwards_encode(const struct network *network)
{
    json_t *list = json_array();

    for (size_t i = 0; i < network->n_forwards; i++) {
        const struct port_forward *forward = &network->forwards[i];
        json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:i}", "sidecar", forward->sidecar,
                                              "gateway_port", (int)forward->gateway_port, "host",
                                              forward->host, "host_port", (int)forward->host_port));
    }
    return list;
}

/* As the client sent them, which is how the shim reads them. */
static json_t *rules_encode(const struct plan *plan)
{
    const json_t *allow = json_object_get(json_object_get(plan->spec.json, "egress"), "allow");

    return allow ? json_deep_copy(allow) : json_array();
}

static json_t *guest_encode(const struct plan *plan)
{
    json_t *command = json_array(), *env = json_array();
    char address[64];

    (void)snprintf(address, sizeof address, "%s%s", plan->guest_ip, strchr(plan->subnet, '/'));
    for (size_t i = 0; i < plan->command.count; i++)
        json_array_append_new(command, json_string(plan->command.items[i]));
    for (size_t i = 0; i < plan->env.count; i++)
        json_array_append_new(
            env, json_pack("[s, s]", plan->env.items[i].name, plan->env.items[i].value));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:o}", "hostname", plan->spec.slug,
                     "address", address, "gateway", plan->gateway, "mac", plan->mac, "workdir",
                     plan->workdir, "user", plan->user, "command", command, "env", env);
}

static int add_mounts(json_t *spec, const struct host *host, const struct plan *plan,
                      struct error *err)
{
    if (plan->n_mounts == 0)
        return 0;
    json_t *mounts = mounts_encode(host, plan, err);
    return mounts ? json_object_set_new(spec, "mounts", mounts) : -1;
}

json_t *launch_spec(const struct host *host, const struct plan *plan, unsigned uid,
                    const char *token, struct error *err)
{
    const struct backend *backend = backend_find(plan->backend);
    char log_dir[PATH_MAX];
    json_t *vm = NULL;

    if (!backend || backend->launch(host, plan, &vm, err) < 0)
        return NULL;
    (void)snprintf(log_dir, sizeof log_dir, "%s/logs", plan->stage_dir);
    json_t *spec = launch_frame(host, vm, plan->spec.memory_mib, plan->spec.slug, plan->run_dir,
                                log_dir, uid, token, err);
    if (!spec)
        return NULL;
    json_t *gvproxy = gvproxy_encode(host, plan, err);
    json_t *sidecars_list = engines_launch(host, plan, err);
    if (!gvproxy || !sidecars_list || json_object_set(spec, "gvproxy", gvproxy) < 0 ||
        json_object_set(spec, "sidecars", sidecars_list) < 0 ||
        json_object_set_new(spec, "forwards", forwards_encode(&plan->network)) < 0 ||
        json_object_set_new(spec, "rules", rules_encode(plan)) < 0 ||
        json_object_set_new(spec, "guest", guest_encode(plan)) < 0 ||
        add_mounts(spec, host, plan, err) < 0) {
        json_decref(spec);
        spec = NULL;
    }
    json_decref(gvproxy);
    json_decref(sidecars_list);
    return spec;
}
