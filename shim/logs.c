/* The sinks of a bottle's logs: a name each, and where they go. */
#include "shim/supervisor_internal.h"

int logs_open(struct supervisor *sup, int log_dir, struct error *err)
{
    off_t bound = (off_t)sup->launch->log_bytes;

    sup->gvproxy.name = "gvproxy";
    sup->vm.name = sup->launch->vm.name;
    sup->vm.split = true;
    if (sink_open(&sup->gvproxy.out, sup->loop, log_dir, "gvproxy", bound, err) < 0 ||
        sink_open(&sup->vm.out, sup->loop, log_dir, "console", bound, err) < 0 ||
        sink_open(&sup->vm.error, sup->loop, log_dir, "vmm", bound, err) < 0 ||
        sink_open(&sup->command, sup->loop, log_dir, "command", bound, err) < 0)
        return -1;
    for (size_t i = 0; i < sup->launch->n_mounts; i++) {
        sup->servers[i].name = "virtiofsd";
        if (sink_open(&sup->servers[i].out, sup->loop, -1, "virtiofsd", bound, err) < 0)
            return -1;
    }
    for (size_t i = 0; i < sup->launch->n_sidecars; i++) {
        sup->sidecars[i].name = sup->launch->sidecars[i].program.name;
        if (sink_open(&sup->sidecars[i].out, sup->loop, log_dir, sup->sidecars[i].name, bound,
                      err) < 0)
            return -1;
    }
    return 0;
}

void logs_close(struct supervisor *sup)
{
    sink_close(&sup->gvproxy.out);
    sink_close(&sup->vm.out);
    sink_close(&sup->vm.error);
    sink_close(&sup->command);
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        sink_close(&sup->sidecars[i].out);
    for (size_t i = 0; i < sup->launch->n_mounts; i++)
        sink_close(&sup->servers[i].out);
}
