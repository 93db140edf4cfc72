/* Coming up: sidecars and cell side by side, then the VM, then START (the picture is in
 * supervisor.c). */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/plan.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/util.h"
#include "shim/filter.h"
#include "shim/jail.h"
#include "shim/mounts.h"
#include "shim/supervisor_internal.h"

enum {
    TICK_MS = 10,
    BOOTS_MAX = 2, /* under TCG a boot can hang before its first output */
    RELAY_CONNECTIONS_MAX = 512,
    SERVER_LOST_MS = 1000, /* from the end of one that serves a directory to that of the VM */
};

/* bottle-cell's listeners are not waited for any more. */
static void drop_listeners(struct supervisor *sup)
{
    if (!sup->listeners.active)
        return;
    loop_remove(sup->loop, &sup->listeners);
    (void)close(sup->listeners.fd);
}

void bringup_close_relays(struct supervisor *sup)
{
    drop_listeners(sup);
    for (size_t i = 0; i < FORWARDS_MAX; i++) {
        relay_free(sup->relays[i]);
        sup->relays[i] = NULL;
    }
}

void bringup_discard_vm(struct supervisor *sup)
{
    sup->restarting_vm = true; /* goes on in on_vm_end */
    health_free(sup->health);
    sup->health = NULL;
    if (sup->vm.pid)
        child_kill(&sup->vm);
    loop_timer_set(sup->loop, &sup->deadline, clock_monotonic_ms() + sup->launch->boot_timeout_ms);
}

static void on_boot_late(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    if (sup->restore.under_way) {
        restore_fail(sup, "its guest said nothing in time");
        return;
    }
    if (sup->boots < BOOTS_MAX + (sup->restore.failed ? 1U : 0) && sup->cell_ready && !sup->hello) {
        bringup_discard_vm(sup);
        return;
    }
    if (!sup->cell_ready)
        supervisor_fail(sup, "gvproxy did not open its socket in time; see logs?stream=gvproxy");
    else
        supervisor_fail(
            sup, "the guest did not come up within %lld ms (%u boots); see logs?stream=console",
            (long long)sup->launch->boot_timeout_ms, sup->boots);
}

/* --- Those that serve the host's directories --- */

static void on_server_lost(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    for (size_t i = 0; sup->vm.pid && i < sup->launch->n_mounts; i++)
        if (!sup->servers[i].pid)
            supervisor_fail(sup, "virtiofsd, which served %s, ended; it said last: \"%s\"",
                            sup->launch->mounts[i].target, sup->servers[i].out.last);
}

void bringup_server_ended(struct supervisor *sup, struct child *server, int status)
{
    (void)status; /* its words say more */
    sink_drain(&server->out);
    if (!sup->vm.pid)
        return;
    sup->server_lost = (struct loop_timer){.callback = on_server_lost, .data = sup};
    loop_timer_set(sup->loop, &sup->server_lost, clock_monotonic_ms() + SERVER_LOST_MS);
}

/* *ret_vm_end is the VM's end of the wire. */
static int start_server(struct supervisor *sup, size_t i, int *ret_vm_end, struct error *err)
{
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_CLOSE int listening = -1;
    CLEANUP_CLOSE int connected = -1;
    CLEANUP_CLOSE int filter = filter_open(FILTER_FS, err);

    if (filter < 0 || mounts_sockets(sup->launch->mounts[i].tag, &listening, &connected, err) < 0)
        return -1;
    jail_fs(&argv, sup->launch, i);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    const struct spawn_fd fds[] = {{filter, JAIL_FILTER_FD}, {listening, JAIL_FS_FD}};
    if (child_start(&sup->servers[i], sup->launch, argv.items, fds, COUNT_OF(fds), err) < 0)
        return -1;
    *ret_vm_end = steal_fd(&connected);
    return 0;
}

static bool servers_are_gone(const struct supervisor *sup)
{
    for (size_t i = 0; i < sup->launch->n_mounts; i++)
        if (sup->servers[i].pid)
            return false;
    return true;
}

/* --- */

static int start_vm(struct supervisor *sup, struct error *err)
{
    struct launch *launch = sup->launch;
    bool serves = launch->n_mounts > 0 && !launch->fs_binary;
    bool restores = restore_wanted(sup);
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_CLOSE int guest_end = -1;
    CLEANUP_CLOSE int monitor_end = -1;
    CLEANUP_CLOSE int filter = filter_open(serves ? FILTER_VM_FS : FILTER_VM, err);
    struct spawn_fd fds[5 + MOUNTS_MAX];
    size_t n_fds = 0;

    if (filter < 0)
        return -1;
    jail_vm(&argv, launch, restores ? &launch->template.program : &launch->vm);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    loop_timer_cancel(sup->loop, &sup->server_lost);
    if (agent_open(&sup->agent, sup->loop, &guest_end, err) < 0 ||
        (restores && restore_begin(sup, &monitor_end, err) < 0) ||
        (!restores && launch->qmp_fd && pause_open(sup, &monitor_end, err) < 0))
        return -1;
    sup->boots++;
    sup->hello = false;
    fds[n_fds++] = (struct spawn_fd){guest_end, launch->agent_fd};
    fds[n_fds++] = (struct spawn_fd){filter, JAIL_FILTER_FD};
    if (restores) {
        fds[n_fds++] = (struct spawn_fd){monitor_end, launch->template.qmp_fd};
        fds[n_fds++] = (struct spawn_fd){launch->template.state_file, launch->template.state_fd};
    } else if (monitor_end >= 0) {
        fds[n_fds++] = (struct spawn_fd){monitor_end, launch->qmp_fd};
    }
    size_t first = n_fds;
    int result = 0;
    for (size_t i = 0; result == 0 && launch->fs_binary && i < launch->n_mounts; i++) {
        fds[n_fds].child = launch->fs_fd + (int)i;
        result = start_server(sup, i, &fds[n_fds].parent, err);
        n_fds += result == 0;
    }
    if (result == 0)
        result = child_start(&sup->vm, launch, argv.items, fds, n_fds, err);
    for (size_t i = first; i < n_fds; i++)
        (void)close(fds[i].parent);
    if (result == 0 && restores)
        restore_started(sup);
    return result;
}

void bringup_send_start(struct supervisor *sup)
{
    if (!sup->hello || !sup->cell_ready || !sup->sidecars_ready || sup->start_sent ||
        sup->phase != PHASE_STARTING)
        return;
    struct error err = ERROR_INIT;
    sup->start_sent = true;
    if (launch_refresh_start(sup->launch, &err) < 0)
        supervisor_fail(sup, "%s", err.text);
    else if (secrets_send_first(sup) < 0 ||
             agent_send(&sup->agent, sup->launch->start, sup->launch->start_length) < 0)
        supervisor_fail(sup, "the agent's channel was closed before the command was sent");
    launch_forget_start(sup->launch);
}

static void look_for_sidecars(struct supervisor *sup)
{
    for (size_t i = 0; i < sup->launch->n_sidecars; i++) {
        const struct sidecar_spec *sidecar = &sup->launch->sidecars[i];
        if (!port_is_ours(sidecar->host, sidecar->host_port))
            return;
    }
    sup->sidecars_ready = true;
    bringup_send_start(sup);
}

static bool is_socket(const char *path)
{
    struct stat status;

    return lstat(path, &status) == 0 && S_ISSOCK(status.st_mode);
}

static void on_gvproxy_lost(void *context, const char *why)
{
    supervisor_fail(context, "%s; see logs?stream=gvproxy", why);
}

static void look_for_cell(struct supervisor *sup)
{
    const struct health_owner owner = {on_gvproxy_lost, sup};
    struct error err = ERROR_INIT;

    if (sup->restarting_vm || sup->listeners.active || !is_socket("net/net.sock") ||
        !is_socket("net/api.sock") || !servers_are_gone(sup))
        return;
    sup->cell_ready = true;
    if (!(sup->health = health_new(sup->loop, "net", &owner, &err)))
        supervisor_fail(sup, "watching gvproxy: %s", err.text);
    else if (!sup->vm.pid && start_vm(sup, &err) < 0)
        supervisor_fail(sup, "starting the VM: %s", err.text);
    else
        bringup_send_start(sup);
}

static void on_tick(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;

    if (sup->phase != PHASE_STARTING)
        return;
    if (!sup->sidecars_ready)
        look_for_sidecars(sup);
    if (!sup->sidecars_ready && clock_monotonic_ms() > sup->sidecars_until_ms) {
        supervisor_fail(sup, "a sidecar did not listen on its port within %lld ms; see its log",
                        (long long)sup->launch->sidecar_timeout_ms);
        return;
    }
    if (!sup->cell_ready)
        look_for_cell(sup);
    if (sup->phase == PHASE_STARTING && (!sup->sidecars_ready || !sup->cell_ready))
        loop_timer_set(sup->loop, timer, clock_monotonic_ms() + TICK_MS);
}

/* The proxy's relay looks at what it carries, from its first connection on. */
static int guard(struct supervisor *sup, size_t i, struct error *err)
{
    const struct relay_owner owner = {egress_tell_note, sup->tell};

    if (strcmp(sup->launch->forwards[i].sidecar, sidecars[SIDECAR_PIPELOCK].name) != 0)
        return 0;
    relay_guard(sup->relays[i], &owner);
    if (relay_set_rules(sup->relays[i], sup->launch->rules, sup->launch->n_rules) < 0)
        return error_set(err, NULL, "out of memory");
    return 0;
}

/* The listeners that bottle-cell opened, in the order of the forwards. */
static void on_listeners(struct loop_source *source, uint32_t events)
{
    struct supervisor *sup = source->data;
    char byte;
    int fds[FORWARDS_MAX];
    size_t count;

    (void)events;
    ssize_t got = receive_descriptors(source->fd, &byte, 1, fds, FORWARDS_MAX, &count);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    drop_listeners(sup);
    if (got == 0) /* bottle-cell's end follows at once, and says more */
        return;
    struct error err = {.text = "bottle-cell passed none; see logs?stream=gvproxy"};
    bool good = got == 1 && count == sup->launch->n_forwards;
    for (size_t i = 0; i < count; i++) {
        if (!good)
            (void)close(fds[i]);
        else if (!(sup->relays[i] = relay_new(sup->loop, fds[i], &sup->launch->forwards[i],
                                              RELAY_CONNECTIONS_MAX, &err)) ||
                 guard(sup, i, &err) < 0)
            good = false;
    }
    if (good && egress_change_relays(sup) < 0) {
        good = false;
        (void)error_set(&err, NULL, "out of memory");
    }
    if (!good)
        supervisor_fail(sup, "the cell's listeners: %s", err.text);
}

static int start_cell(struct supervisor *sup, struct error *err)
{
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_CLOSE int filter = filter_open(FILTER_CELL, err);
    CLEANUP_CLOSE int gvproxy_filter = filter_open(FILTER_GVPROXY, err);
    int pair[2];

    if (filter < 0 || gvproxy_filter < 0)
        return -1;
    /* gvproxy can't remove its sockets (the filter takes that from it) and refuses to start over
     * old ones. */
    static const char *const stale[] = {"net/net.sock", "net/vm.sock", "net/api.sock"};
    for (size_t i = 0; i < COUNT_OF(stale); i++)
        (void)unlink(stale[i]);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_errno(err, "launch-failed", "socketpair");
    CLEANUP_CLOSE int cell_end = pair[1];
    sup->listeners = (struct loop_source){
        .fd = pair[0], .events = EPOLLIN, .callback = on_listeners, .data = sup};
    if (loop_add(sup->loop, &sup->listeners, err) < 0)
        return -1;
    jail_cell(&argv, sup->launch);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    const struct spawn_fd fds[] = {
        {filter, JAIL_FILTER_FD}, {cell_end, JAIL_LISTENER_FD}, {gvproxy_filter, JAIL_GVPROXY_FD}};
    return child_start(&sup->gvproxy, sup->launch, argv.items, fds, COUNT_OF(fds), err);
}

static int start_sidecar(struct supervisor *sup, size_t i, struct error *err)
{
    const struct program *program = &sup->launch->sidecars[i].program;
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_CLOSE int filter =
        filter_open(jail_is_proxy(program) ? FILTER_PROXY : FILTER_SIDECAR, err);

    if (filter < 0 || egress_place_config(&sup->launch->sidecars[i].config, err) < 0)
        return -1;
    jail_sidecar(&argv, sup->launch, program);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    const struct spawn_fd fds[] = {{filter, JAIL_FILTER_FD}};
    return child_start(&sup->sidecars[i], sup->launch, argv.items, fds, COUNT_OF(fds), err);
}

static int start_sidecars(struct supervisor *sup, struct error *err)
{
    for (size_t i = 0; i < sup->launch->n_sidecars; i++) {
        if (start_sidecar(sup, i, err) < 0)
            return -1;
    }
    return 0;
}

void bringup_again(struct supervisor *sup)
{
    struct error err = ERROR_INIT;

    sup->restarting_vm = sup->cell_ready = false;
    bringup_close_relays(sup);
    if (start_cell(sup, &err) < 0)
        supervisor_fail(sup, "starting gvproxy again: %s", err.text);
    else
        loop_timer_set(sup->loop, &sup->tick, clock_monotonic_ms() + TICK_MS);
}

void bringup_begin(struct supervisor *sup)
{
    struct error err = ERROR_INIT;
    int64_t now = clock_monotonic_ms();

    sup->tick = (struct loop_timer){.callback = on_tick, .data = sup};
    sup->deadline = (struct loop_timer){.callback = on_boot_late, .data = sup};
    sup->sidecars_until_ms = now + sup->launch->sidecar_timeout_ms;
    sup->sidecars_ready = sup->launch->n_sidecars == 0;
    /* A machine from a template sends nothing before START, so that it need not wait for the cell.
     */
    if (start_sidecars(sup, &err) < 0 || start_cell(sup, &err) < 0 ||
        (restore_wanted(sup) && start_vm(sup, &err) < 0)) {
        supervisor_fail(sup, "%s", err.text);
        return;
    }
    loop_timer_set(sup->loop, &sup->tick, now + TICK_MS);
    loop_timer_set(sup->loop, &sup->deadline, now + sup->launch->boot_timeout_ms);
}
