#include "shim/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "base/text.h"
#include "base/util.h"
#include "guest/protocol.h"
#include "shim/children.h"
#include "shim/filter.h"
#include "shim/jail.h"
#include "shim/protocol.h"
#include "shim/qmp.h"

enum { OUTPUT_MAX = 64 * 1024, EXCERPT = 160 };

/* The last words of a failed boot, for the verdict. */
static int explain(struct error *err, const struct text *output, const char *how)
{
    const char *tail = output->data ? output->data : "";
    size_t length = strlen(tail);

    while (length > 0 && (tail[length - 1] == '\n' || tail[length - 1] == '\r'))
        length--;
    size_t start = length;
    while (start > 0 && tail[start - 1] != '\n' && length - start < EXCERPT)
        start--;
    return error_set(err, "boot-failed", "%s; its last output: \"%.*s\"", how,
                     (int)(length - start), tail + start);
}

/* Adds what one end has to say; false at its end. */
static bool take(int fd, struct text *into)
{
    char bytes[4096];
    ssize_t got = read(fd, bytes, sizeof bytes);

    if (got > 0)
        text_add_bytes(into, bytes, (size_t)got);
    return got > 0 && into->length <= OUTPUT_MAX;
}

/* Until the guest's PID 1 says HELLO: then a kernel and a user space have run. It is also over when
 * the daemon is gone, which held the other end of the pipe for our answer. */
static int watch(int console, int agent, int64_t until_ms, struct error *err)
{
    CLEANUP_TEXT struct text output = TEXT_INIT, said = TEXT_INIT;
    struct frame frame;

    for (;;) {
        int64_t left = until_ms - clock_monotonic_ms();
        struct pollfd ready[] = {{.fd = agent, .events = POLLIN},
                                 {.fd = console, .events = POLLIN},
                                 {.fd = SHIM_READY_FD}};
        int n = left <= 0 ? 0 : poll(ready, COUNT_OF(ready), (int)left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return explain(err, &output, "no guest came up before the deadline");
        if (ready[2].revents)
            return error_set(err, NULL, "bottled is gone");
        if ((ready[0].revents && !take(agent, &said)) ||
            (ready[1].revents && !take(console, &output)))
            return explain(err, &output, "the VM ended before its guest came up");
        int64_t size =
            frame_parse((const uint8_t *)said.data, said.length, GUEST_PAYLOAD_MAX, &frame);
        if (size > 0 && frame.type == FRAME_HELLO)
            return 0;
        if (size != 0)
            return explain(err, &output, "the guest said something else than that it is up");
    }
}

/* The VM, with the guest's end of its channel and the monitor's (-1: none). */
static int start(struct launch *launch, int output, int agent, int monitor, pid_t *ret_pid,
                 struct error *err)
{
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_CLOSE int filter = filter_open(FILTER_VM, err);

    if (filter < 0)
        return -1;
    jail_vm(&argv, launch, &launch->vm);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    const struct spawn_fd fds[] = {
        {agent, launch->agent_fd}, {filter, JAIL_FILTER_FD}, {monitor, launch->save.qmp_fd}};
    char mark[CHILD_MARK_SIZE];
    const char *const env[] = {mark, NULL};
    child_mark(launch, mark);
    const struct spawn spawn = {.argv = argv.items,
                                .env = env,
                                .in = -1,
                                .out = output,
                                .error = output,
                                .fds = fds,
                                .n_fds = monitor >= 0 ? COUNT_OF(fds) : COUNT_OF(fds) - 1};
    return process_spawn(&spawn, ret_pid, NULL, err);
}

int probe_run(struct launch *launch, struct error *err)
{
    int64_t until = clock_monotonic_ms() + launch->boot_timeout_ms;
    int console[2], agent[2], monitor[2] = {-1, -1};
    pid_t pid;

    if (pipe2(console, O_CLOEXEC) < 0)
        return error_errno(err, NULL, "pipe");
    CLEANUP_CLOSE int read_end = console[0];
    CLEANUP_CLOSE int write_end = console[1];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, agent) < 0)
        return error_errno(err, NULL, "socketpair");
    CLEANUP_CLOSE int agent_guest = agent[1];
    CLEANUP_CLOSE int agent_host = agent[0];
    if (launch->save.state && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, monitor) < 0)
        return error_errno(err, NULL, "socketpair");
    CLEANUP_CLOSE int monitor_vm = monitor[1];
    CLEANUP_CLOSE int monitor_host = monitor[0];
    if (start(launch, write_end, agent_guest, monitor_vm, &pid, err) < 0)
        return -1;
    (void)close(steal_fd(&write_end));
    (void)close(steal_fd(&agent_guest));
    int result = watch(read_end, agent_host, until, err);
    if (result == 0 && monitor_host >= 0)
        result = qmp_save(monitor_host, launch->save.state_file, until, err);
    (void)kill(pid, SIGKILL); /* its jail, which ends with it */
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ; /* the subreaper's way: until nothing is left */
    return result;
}
