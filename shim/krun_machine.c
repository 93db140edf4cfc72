#include "shim/krun_machine.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backends/krun_api.h"
#include "base/util.h"
#include "guest/protocol.h"
#include "renderers/config.h"
#include "shim/filter.h"

enum {
    LOG_WARNINGS = 2,  /* KRUN_LOG_LEVEL_WARN */
    LOG_NO_COLOUR = 2, /* KRUN_LOG_STYLE_NEVER */
    LOG_NO_ENV = 1,    /* KRUN_LOG_OPTION_NO_ENV */
};

static const char root_tag[] = "/dev/root"; /* KRUN_FS_ROOT_TAG */

static bool has(void *library, const char *name)
{
    return dlsym(library, name) != NULL;
}

/* RTLD_LAZY: the library names functions of a graphics library that is not there and that nothing
 * calls. libkrunfw is opened first, by its path: libkrun then finds it loaded, by its name. */
static int open_library(const struct machine_options *options, struct krun_api *ret,
                        struct error *err)
{
    void *library;

    if (!dlopen(options->firmware, RTLD_LAZY | RTLD_GLOBAL) ||
        !(library = dlopen(options->library, RTLD_LAZY)))
        return error_set(err, NULL, "%s", dlerror());
    if (krun_check(has, library, options->library, err) < 0)
        return -1;
    for (size_t i = 0; i < n_krun_functions; i++) {
        void *function = dlsym(library, krun_functions[i].name);
        memcpy((char *)ret + krun_functions[i].offset, &function, sizeof function);
    }
    return 0;
}

/* What a call of libkrun gave, in words where it failed. */
static int check(const struct krun_api *api, int32_t result, const char *what, struct error *err)
{
    const char *words = result < 0 && api->get_last_error ? api->get_last_error() : NULL;

    if (result >= 0)
        return 0;
    return error_set(err, NULL, "libkrun refused %s: %s%s%s", what, words ? words : "",
                     words ? ": " : "", strerror(-result));
}

/* A datagram socket between gvproxy and the card. It is bound first: gvproxy answers to the name
 * that its peer bound. */
static int open_net(const struct machine_options *options, struct error *err)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX}, peer = {.sun_family = AF_UNIX};
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)snprintf(local.sun_path, sizeof local.sun_path, "%s", options->net_local);
    (void)snprintf(peer.sun_path, sizeof peer.sun_path, "%s", options->net);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&local, sizeof local) < 0)
        return error_errno(err, NULL, "binding %s", options->net_local);
    if (connect(fd, (const struct sockaddr *)&peer, sizeof peer) < 0)
        return error_errno(err, NULL, "connecting to gvproxy at %s", options->net);
    return steal_fd(&fd);
}

static int add_root(const struct krun_api *api, uint32_t ctx, const struct machine_options *options,
                    struct error *err)
{
    int32_t result = api->set_root ? api->set_root(ctx, options->root)
                                   : api->add_virtiofs3(ctx, root_tag, options->root, 0, true);

    return check(api, result, "the root directory", err);
}

/* Port 0 is the console: only a terminal's port is one to the guest's kernel. */
static int add_ports(const struct krun_api *api, uint32_t ctx,
                     const struct machine_options *options, struct error *err)
{
    int32_t console = api->add_virtio_console_multiport(ctx);

    if (check(api, console, "a console", err) < 0 ||
        check(api, api->add_console_port_tty(ctx, (uint32_t)console, "", options->console_fd),
              "the console's port", err) < 0)
        return -1;
    return check(api,
                 api->add_console_port_inout(ctx, (uint32_t)console, AGENT_PORT_NAME,
                                             options->agent_fd, options->agent_fd),
                 "the agent's port", err);
}

/* No offloads: gvproxy takes plain Ethernet frames. */
static int add_card(const struct krun_api *api, uint32_t ctx, const struct machine_options *options,
                    struct error *err)
{
    uint8_t mac[6];
    int net = open_net(options, err);

    if (net < 0)
        return -1;
    memcpy(mac, options->mac, sizeof mac);
    return check(api, api->add_net_unixgram(ctx, NULL, net, mac, 0, 0), "the network card", err);
}

static int add_mounts(const struct krun_api *api, uint32_t ctx,
                      const struct machine_options *options, struct error *err)
{
    char path[64];

    if (options->n_mounts > 0 && !api->add_virtiofs3)
        return error_set(err, NULL, "this libkrun has no krun_add_virtiofs3, which mounts need");
    for (unsigned i = 0; i < options->n_mounts; i++) {
        (void)snprintf(path, sizeof path, JAIL_MOUNTS "/%s", options->mounts[i]);
        if (check(
                api,
                api->add_virtiofs3(ctx, options->mounts[i], path, 0, options->mounts_read_only[i]),
                "a mount", err) < 0)
            return -1;
    }
    return 0;
}

static int add_devices(const struct krun_api *api, uint32_t ctx,
                       const struct machine_options *options, struct error *err)
{
    if (add_root(api, ctx, options, err) < 0 || add_ports(api, ctx, options, err) < 0)
        return -1;
    if (check(api, api->add_disk(ctx, "image", options->disk, true), "the image", err) < 0)
        return -1;
    if (options->own_disk &&
        check(api, api->add_disk(ctx, "disk", options->own_disk, false), "the disk", err) < 0)
        return -1;
    if (add_mounts(api, ctx, options, err) < 0)
        return -1;
    return options->net ? add_card(api, ctx, options, err) : 0;
}

static int take_implicit_away(const struct krun_api *api, uint32_t ctx, struct error *err)
{
    if (check(api, api->disable_implicit_init(ctx), "to leave out its init", err) < 0)
        return -1;
    if (!api->set_root)
        return 0;
    if (check(api, api->disable_implicit_console(ctx), "to leave out its console", err) < 0)
        return -1;
    return check(api, api->disable_implicit_vsock(ctx), "to leave out its vsock device", err);
}

int machine_enter(const struct machine_options *options, struct error *err)
{
    static struct krun_api api; /* one machine a process */

    if (open_library(options, &api, err) < 0)
        return -1;
    if (api.init_log)
        (void)api.init_log(STDERR_FILENO, LOG_WARNINGS, LOG_NO_COLOUR, LOG_NO_ENV);
    int32_t ctx = api.create_ctx();
    if (check(&api, ctx, "a machine", err) < 0 ||
        check(&api, api.set_vm_config((uint32_t)ctx, (uint8_t)options->cpus, options->memory_mib),
              "this many processors or this much memory", err) < 0 ||
        take_implicit_away(&api, (uint32_t)ctx, err) < 0 ||
        add_devices(&api, (uint32_t)ctx, options, err) < 0 ||
        filter_load(options->n_mounts ? FILTER_KRUN_FS : FILTER_KRUN, err) < 0)
        return -1;
    return check(&api, api.start_enter((uint32_t)ctx), "to start the machine", err) < 0
               ? -1
               : error_set(err, NULL, "libkrun came back without a word");
}
