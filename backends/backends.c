/* The table of backends, and what is the same for each: gvproxy's file, the sidecars' files, the
 * choice of "auto". */
#include "backends/backend.h"

#include <stdio.h>
#include <string.h>

#include "backends/engines.h"
#include "backends/qemu.h"
#include "backends/smolmachines.h"
#include "base/text.h"
#include "base/util.h"

static int prepare_network(struct plan *plan, struct error *err)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;

    if (render_gvproxy(&plan->network, &out, err) < 0)
        return error_wrap(err, "gvproxy.yaml");
    char *content = text_take(&out);
    if (!content)
        return error_set(err, NULL, "out of memory");
    return plan_add_file(plan, "gvproxy.yaml", content, err);
}

static int prepare_qemu(const struct host *host, struct plan *plan, struct error *err)
{
    return prepare_network(plan, err) < 0 || qemu_prepare(host, plan, err) < 0
               ? -1
               : engines_prepare(host, plan, err);
}

static int prepare_smolmachines(const struct host *host, struct plan *plan, struct error *err)
{
    return prepare_network(plan, err) < 0 || smolmachines_prepare(host, plan, err) < 0
               ? -1
               : engines_prepare(host, plan, err);
}

const struct backend backends[] = {
    {"smolmachines", "smolvm's VM engine, one virtio-net device on gvproxy", true,
     smolmachines_preflight, prepare_smolmachines, smolmachines_launch, NULL},
    {"qemu", "QEMU's microvm machine, by KVM where it works, else by TCG", true, qemu_preflight,
     prepare_qemu, qemu_launch, &qemu_templating},
};
const size_t n_backends = COUNT_OF(backends);

const struct backend *backend_find(const char *name)
{
    for (size_t i = 0; i < n_backends; i++)
        if (strcmp(backends[i].name, name) == 0)
            return &backends[i];
    return NULL;
}

const struct backend *backend_choose(const struct host *host, const char *name)
{
    struct preflight preflight;

    if (strcmp(name, "auto") != 0)
        return backend_find(name);
    for (size_t i = 0; i + 1 < n_backends; i++) {
        if (!backends[i].can_launch)
            continue;
        backends[i].preflight(host, NULL, &preflight);
        if (preflight.ok)
            return &backends[i];
    }
    return &backends[n_backends - 1];
}

/* What keeps a backend from running here: the first tool that is missing. */
static void explain_missing(const struct host *host, const struct backend *backend,
                            struct text *words)
{
    struct preflight preflight;

    backend->preflight(host, NULL, &preflight);
    for (size_t i = 0; i < preflight.count; i++) {
        const struct tool *tool = &preflight.tools[i];
        if (tool->found)
            continue;
        text_addf(words, "%s can't run here (%s: %s); ", backend->name, tool->name,
                  tool->detail[0] ? tool->detail : "not found");
        return;
    }
}

void backend_explain(const struct host *host, const struct plan *plan, char *ret, size_t size)
{
    CLEANUP_TEXT struct text words = TEXT_INIT;

    if (strcmp(plan->spec.backend, "auto") == 0) {
        text_add(&words, "auto: ");
        for (size_t i = 0; i < n_backends && strcmp(backends[i].name, plan->backend) != 0; i++)
            explain_missing(host, &backends[i], &words);
        text_addf(&words, "%s is taken", plan->backend);
    } else {
        text_addf(&words, "the plan asks for %s", plan->backend);
    }
    text_addf(&words, "; %s", host->kvm_detail);
    (void)snprintf(ret, size, "%s", words.data ? words.data : "");
}

json_t *preflight_encode(const struct preflight *preflight)
{
    json_t *tools = json_array();

    for (size_t i = 0; i < preflight->count; i++) {
        const struct tool *tool = &preflight->tools[i];
        json_array_append_new(tools, json_pack("{s:s, s:b, s:s?, s:s?, s:s?, s:s?}", "name",
                                               tool->name, "found", (int)tool->found, "path",
                                               tool->path[0] ? tool->path : NULL, "version",
                                               tool->version[0] ? tool->version : NULL, "detail",
                                               tool->detail[0] ? tool->detail : NULL, "hint",
                                               tool->found ? NULL : tool->hint));
    }
    return json_pack("{s:b, s:o}", "ok", (int)preflight->ok, "tools", tools);
}
