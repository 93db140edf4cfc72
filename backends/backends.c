/* The table of backends, and what is the same for each: gvproxy's file, the sidecars' files, the
 * choice of "auto". */
#include "backends/backend.h"

#include <stdio.h>
#include <string.h>

#include "backends/choices.h"
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

/* What keeps a backend from running here: the first tool that is missing. */
static void explain_missing(const struct backend *backend, const struct preflight *preflight,
                            struct text *words)
{
    size_t i = 0;

    while (i + 1 < preflight->count && preflight->tools[i].found)
        i++;
    const struct tool *tool = &preflight->tools[i];
    text_addf(words, "%s can't run here (%s: %s); ", backend->name, tool->name,
              tool->detail[0] ? tool->detail : "not found");
}

/* The first that can run here, or the last; and why none of those before it. */
static struct backend_choice choose(const struct host *host)
{
    CLEANUP_TEXT struct text words = TEXT_INIT;
    struct backend_choice choice = {0};
    struct preflight preflight;
    size_t i = 0;

    if (choices_backend(host->choices, &choice))
        return choice;
    for (; i + 1 < n_backends; i++) {
        if (!backends[i].can_launch)
            continue;
        backends[i].preflight(host, NULL, &preflight);
        if (preflight.ok)
            break;
        explain_missing(&backends[i], &preflight, &words);
    }
    choice.backend = &backends[i];
    (void)snprintf(choice.words, sizeof choice.words, "%s", words.data ? words.data : "");
    choices_keep_backend(host->choices, &choice);
    return choice;
}

const struct backend *backend_choose(const struct host *host, const char *name)
{
    return strcmp(name, "auto") == 0 ? choose(host).backend : backend_find(name);
}

void backend_explain(const struct host *host, const struct plan *plan, char *ret, size_t size)
{
    CLEANUP_TEXT struct text words = TEXT_INIT;

    if (strcmp(plan->spec.backend, "auto") == 0) {
        text_addf(&words, "auto: %s%s is taken", choose(host).words, plan->backend);
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
