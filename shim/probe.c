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
#include "shim/filter.h"
#include "shim/jail.h"

enum { OUTPUT_MAX = 64 * 1024, EXCERPT = 160 };

/* The last words of a failed boot, for the verdict. */
static void explain(struct error *err, const struct text *output, const char *how)
{
    const char *tail = output->data ? output->data : "";
    size_t length = strlen(tail);

    while (length > 0 && (tail[length - 1] == '\n' || tail[length - 1] == '\r'))
        length--;
    size_t start = length;
    while (start > 0 && tail[start - 1] != '\n' && length - start < EXCERPT)
        start--;
    error_set(err, "boot-failed", "%s; its last output: \"%.*s\"", how, (int)(length - start),
              tail + start);
}

static int watch(int fd, int64_t until_ms, struct text *output, struct error *err)
{
    char bytes[4096];

    for (;;) {
        int64_t left = until_ms - clock_monotonic_ms();
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int n = left <= 0 ? 0 : poll(&ready, 1, (int)left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            explain(err, output, "no guest came up before the deadline");
            return -1;
        }
        ssize_t got = read(fd, bytes, sizeof bytes);
        if (got <= 0 || output->length > OUTPUT_MAX) {
            explain(err, output, "the VM ended before its guest came up");
            return -1;
        }
        text_add_bytes(output, bytes, (size_t)got);
        if (output->data && strstr(output->data, PROBE_OK))
            return 0;
    }
}

int probe_run(struct launch *launch, struct error *err)
{
    int64_t until = clock_monotonic_ms() + launch->boot_timeout_ms;
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_TEXT struct text output = TEXT_INIT;
    int console[2], agent[2];
    pid_t pid;

    if (pipe2(console, O_CLOEXEC) < 0)
        return error_errno(err, NULL, "pipe");
    CLEANUP_CLOSE int read_end = console[0];
    CLEANUP_CLOSE int write_end = console[1];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, agent) < 0)
        return error_errno(err, NULL, "socketpair");
    CLEANUP_CLOSE int agent_guest = agent[1];
    CLEANUP_CLOSE int agent_host = agent[0]; /* open, so that the guest's port has a peer */
    (void)agent_host;
    CLEANUP_CLOSE int filter = filter_open(FILTER_VM, err);
    if (filter < 0)
        return -1;
    jail_vm(&argv, launch);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    const struct spawn_fd fds[] = {{agent_guest, launch->agent_fd}, {filter, JAIL_FILTER_FD}};
    const struct spawn spawn = {.argv = argv.items,
                                .in = -1,
                                .out = write_end,
                                .error = write_end,
                                .fds = fds,
                                .n_fds = COUNT_OF(fds)};
    if (process_spawn(&spawn, &pid, NULL, err) < 0)
        return -1;
    (void)close(steal_fd(&write_end));
    int result = watch(read_end, until, &output, err);
    (void)kill(pid, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ; /* the subreaper's way: until nothing is left */
    return result;
}
