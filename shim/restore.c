#include "shim/restore.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "shim/qmp.h"
#include "shim/supervisor_internal.h"

enum { RESTORE_PART = 3 }; /* of the time that a boot may take */

bool restore_wanted(const struct supervisor *sup)
{
    return sup->launch->template.program.argv && !sup->restore.failed;
}

static void on_late(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;
    char words[96];

    (void)snprintf(words, sizeof words, "its guest said nothing for %lld ms",
                   (long long)sup->launch->boot_timeout_ms / RESTORE_PART);
    restore_fail(sup, words);
}

static void on_monitor(struct loop_source *source, uint32_t events)
{
    struct supervisor *sup = source->data;
    struct restore *restore = &sup->restore;
    struct error err = ERROR_INIT;
    char bytes[4096];
    int result;

    (void)events;
    ssize_t got = recv(source->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) { /* the VM's end follows at once, and says more */
        loop_remove(sup->loop, source);
        return;
    }
    text_add_bytes(&restore->said, bytes, (size_t)got);
    while ((result = qmp_take_line(&restore->said, &err)) == 0)
        ;
    if (result > 0)
        restore_fail(sup, err.text);
    else if (restore->said.length > QMP_SAID_MAX || restore->said.failed)
        restore_fail(sup, "its monitor said too much");
}

int restore_begin(struct supervisor *sup, int *ret_vm_end, struct error *err)
{
    struct restore *restore = &sup->restore;
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return error_errno(err, "launch-failed", "socketpair");
    restore->under_way = true;
    restore->monitor =
        (struct loop_source){.fd = ends[0], .events = EPOLLIN, .callback = on_monitor, .data = sup};
    *ret_vm_end = ends[1];
    return qmp_restore(ends[0], sup->launch->template.state_fd, err) < 0
               ? -1
               : loop_add(sup->loop, &restore->monitor, err);
}

void restore_started(struct supervisor *sup)
{
    struct restore *restore = &sup->restore;

    restore->deadline = (struct loop_timer){.callback = on_late, .data = sup};
    loop_timer_set(sup->loop, &restore->deadline,
                   clock_monotonic_ms() + sup->launch->boot_timeout_ms / RESTORE_PART);
    if (agent_send_empty(&sup->agent, FRAME_WAKE) < 0)
        restore_fail(sup, "its agent's channel was closed");
}

void restore_succeeded(struct supervisor *sup)
{
    if (!sup->restore.under_way)
        return;
    sup->restore.done = true;
    /* From here on the monitor is for pausing. What it still says of the restoring is no news. */
    loop_remove(sup->loop, &sup->restore.monitor);
    pause_take(sup, sup->restore.monitor.fd);
    sup->restore.under_way = false;
    restore_end(sup);
}

void restore_fail(struct supervisor *sup, const char *words)
{
    struct restore *restore = &sup->restore;

    if (!restore->under_way || sup->phase != PHASE_STARTING)
        return;
    restore_end(sup);
    restore->failed = true;
    (void)snprintf(restore->reason, sizeof restore->reason,
                   "the template could not be restored: %.240s", words);
    bringup_discard_vm(sup);
}

void restore_end(struct supervisor *sup)
{
    struct restore *restore = &sup->restore;

    loop_timer_cancel(sup->loop, &restore->deadline);
    if (restore->under_way) {
        loop_remove(sup->loop, &restore->monitor);
        (void)close(restore->monitor.fd);
    }
    restore->under_way = false;
    restore->monitor.fd = -1;
    text_free(&restore->said);
}
