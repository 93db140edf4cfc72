#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/number.h"
#include "base/text.h"
#include "base/util.h"

enum { CHILD_FDS_MAX = 16 };

/* Copies of descriptors, made for the time of a spawn. */
struct copies {
    int fds[3 + CHILD_FDS_MAX];
    size_t count;
};

/* The descriptor itself when its number is above all that the child gets, else a copy that is: so
 * giving one its number can not overwrite another that is still to be placed. -1 with errno. */
static int lift(int fd, int highest, struct copies *copies)
{
    if (fd > highest || fd < 0)
        return fd;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, highest + 1);
    if (copy >= 0)
        copies->fds[copies->count++] = copy;
    return copy;
}

/* Adds dup2 steps for 0, 1, 2 and the extra descriptors, then closes all others in the child. An
 * error number, or 0. */
static int place_fds(posix_spawn_file_actions_t *actions, const struct spawn *spawn, int null_fd,
                     struct copies *copies)
{
    const int standard[3] = {spawn->in, spawn->out, spawn->error};
    int highest = 2, result = 0, sources[3 + CHILD_FDS_MAX];

    for (size_t i = 0; i < spawn->n_fds; i++)
        if (spawn->fds[i].child > highest)
            highest = spawn->fds[i].child;
    for (size_t i = 0; i < 3 + spawn->n_fds; i++) {
        int from = i >= 3 ? spawn->fds[i - 3].parent : standard[i] >= 0 ? standard[i] : null_fd;
        sources[i] = lift(from, highest, copies);
        if (sources[i] < 0)
            return errno ? errno : EBADF;
    }
    for (size_t i = 0; i < 3 + spawn->n_fds; i++)
        result |= posix_spawn_file_actions_adddup2(actions, sources[i],
                                                   i >= 3 ? spawn->fds[i - 3].child : (int)i);
    /* Numbers up to `highest` that were not asked for are all close-on-exec in our programs. */
    return result | posix_spawn_file_actions_addclosefrom_np(actions, highest + 1);
}

int process_spawn(const struct spawn *spawn, pid_t *ret_pid, int *ret_pidfd, struct error *err)
{
    static const char *const no_env[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t all, none;
    struct copies copies = {.count = 0};
    pid_t pid;

    if (spawn->n_fds > CHILD_FDS_MAX)
        return error_set(err, NULL, "%s: too many descriptors", spawn->argv[0]);
    CLEANUP_CLOSE int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0)
        return error_errno(err, NULL, "/dev/null");
    (void)sigfillset(&all);
    (void)sigemptyset(&none);
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setsigdefault(&attributes, &all);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK |
                                                    POSIX_SPAWN_SETSID);
    errno = 0;
    int result = place_fds(&actions, spawn, null_fd, &copies);
    if (!result && spawn->directory)
        result = posix_spawn_file_actions_addchdir_np(&actions, spawn->directory);
    if (!result)
        result = posix_spawn(&pid, spawn->argv[0], &actions, &attributes,
                             (char *const *)(uintptr_t)spawn->argv,
                             (char *const *)(uintptr_t)(spawn->env ? spawn->env : no_env));
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attributes);
    for (size_t i = 0; i < copies.count; i++)
        (void)close(copies.fds[i]);
    if (result) {
        errno = result;
        return error_errno(err, NULL, "starting %s", spawn->argv[0]);
    }
    if (ret_pidfd) {
        /* Not reaped yet, so the pid can not have been reused. */
        *ret_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (*ret_pidfd < 0) {
            error_errno(err, NULL, "watching %s", spawn->argv[0]);
            (void)kill(pid, SIGKILL);
            (void)waitpid(pid, NULL, 0);
            return -1;
        }
        (void)fcntl(*ret_pidfd, F_SETFD, FD_CLOEXEC);
    }
    if (ret_pid)
        *ret_pid = pid;
    return 0;
}

uint64_t process_start_time(pid_t pid)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    CLEANUP_FREE char *stat = file_read(path, 4096, NULL, NULL);
    /* The second field is the name in parentheses and may hold anything: count from the last one.
     */
    char *field = stat ? strrchr(stat, ')') : NULL;
    for (int i = 2; field && i < 22; i++)
        field = strchr(field + 1, ' ');
    if (!field)
        return 0;
    char *end = strchr(field + 1, ' ');
    if (end)
        *end = '\0';
    int64_t value;
    return number_parse(field + 1, 0, INT64_MAX, &value) < 0 ? 0 : (uint64_t)value;
}

int process_open(pid_t pid, uint64_t start_time)
{
    if (pid <= 0)
        return -1;
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return -1;
    uint64_t found = process_start_time(pid);
    if (found == start_time && found)
        return pidfd;
    /* Of one that lives and can't be looked at it is not known who it is. */
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    int unknown = !found && poll(&ended, 1, 0) == 0 ? EIO : ESRCH;
    (void)close(pidfd);
    errno = unknown;
    return -1;
}

int pidfd_kill(int pidfd, int signal_number)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal_number, NULL, 0);
}

int pidfd_reap(int pidfd, int *ret_status)
{
    siginfo_t info = {0};

    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
        return -1;
    if (info.si_pid == 0)
        return 0;
    *ret_status =
        info.si_code == CLD_EXITED ? W_EXITCODE(info.si_status, 0) : W_EXITCODE(0, info.si_status);
    return 1;
}

void wait_status_words(int status, char *ret, size_t size)
{
    if (WIFEXITED(status))
        (void)snprintf(ret, size, "exit status %d", WEXITSTATUS(status));
    else
        (void)snprintf(ret, size, "killed by signal %d (%s)", WTERMSIG(status),
                       sigdescr_np(WTERMSIG(status)) ? sigdescr_np(WTERMSIG(status)) : "unknown");
}

/* Reads until the end of the pipe, the limit (then reads on and drops) or the deadline: 0, or -1
 * late. */
static int drain(int fd, int64_t until_ms, size_t limit, struct text *out)
{
    char bytes[4096];

    for (;;) {
        int64_t left = until_ms - clock_monotonic_ms();
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int n = left <= 0 ? 0 : poll(&ready, 1, (int)left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        ssize_t got = read(fd, bytes, sizeof bytes);
        if (got == 0)
            return 0;
        if (got < 0 && errno != EINTR)
            return -1;
        if (got > 0 && out->length < limit)
            text_add_bytes(out, bytes,
                           (size_t)got < limit - out->length ? (size_t)got : limit - out->length);
    }
}

int process_run(const char *const *argv, const char *const *env, int64_t deadline_ms, size_t limit,
                char **ret_output, int *ret_status, struct error *err)
{
    int64_t until = clock_monotonic_ms() + deadline_ms;
    CLEANUP_TEXT struct text out = TEXT_INIT;
    CLEANUP_CLOSE int pidfd = -1;
    int pipe_fds[2];
    pid_t pid;

    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return error_errno(err, NULL, "pipe");
    CLEANUP_CLOSE int read_end = pipe_fds[0];
    const struct spawn spawn = {
        .argv = argv, .env = env, .in = -1, .out = pipe_fds[1], .error = pipe_fds[1]};
    int started = process_spawn(&spawn, &pid, &pidfd, err);
    (void)close(pipe_fds[1]);
    if (started < 0)
        return -1;
    int late = drain(read_end, until, limit, &out);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    int64_t left = until - clock_monotonic_ms();
    if (late < 0 || left <= 0 || poll(&ended, 1, (int)left) <= 0) {
        /* It leads a session and group of its own; what it started dies with it. */
        (void)kill(-pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return error_set(err, NULL, "%s did not end within %lld ms", argv[0],
                         (long long)deadline_ms);
    }
    if (waitpid(pid, ret_status, 0) < 0)
        return error_errno(err, NULL, "waiting for %s", argv[0]);
    if (ret_output && !(*ret_output = text_take(&out)))
        return error_set(err, NULL, "out of memory");
    return 0;
}
