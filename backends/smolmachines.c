/* The smolmachines backend: smolvm's VM engine on gvproxy's unixgram socket. It prepares both
 * files; the program that enters the VM (a runner on smolvm's libkrun) is not part of this version,
 * and launching says so. */
#include "backends/smolmachines.h"

#include <string.h>

#include "backends/tools.h"

void smolmachines_preflight(const struct host *host, const struct spec *spec, struct preflight *ret)
{
    *ret = (struct preflight){.ok = true};
    preflight_program(ret, host, "smolvm",
                      "install smolvm by its vendor's installer, or run tools/setup in bottled's "
                      "source directory (it takes the smolmachines wheel from PyPI)");
    preflight_common(ret, host, spec);
}

int smolmachines_prepare(const struct host *host, struct plan *plan, struct error *err)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;

    if (render_smolfile(&plan->guest, &plan->network, host->dialect, &out, err) < 0)
        return error_wrap(err, "smolfile.toml");
    char *content = text_take(&out);
    if (!content)
        return error_set(err, NULL, "out of memory");
    return plan_add_file(plan, "smolfile.toml", content, err);
}

int smolmachines_launch(const struct host *host, const struct plan *plan, json_t **ret_vm,
                        struct error *err)
{
    (void)host;
    (void)plan;
    (void)ret_vm;
    return error_set(err, "launch-unavailable",
                     "this version of bottled prepares smolmachines bottles but has no runner to "
                     "launch them; create the bottle with \"backend\": \"qemu\"");
}
