/* Strays: bubblewrap's inner process is its pid namespace's first and asks to die with its parent
 * only once it has set that up. A supervisor that is killed before leaves one that waits for ever,
 * or runs its program. It is known by the environment that it was started with. Before that it is
 * the supervisor's image still, in the run directory, which only a bottle's own user can enter; as
 * an ordinary user all is that user's, whose shell may stand there: then the image counts as well.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/number.h"
#include "base/process.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "shim/protocol.h"

enum { ENVIRON_MAX = 1 << 20 };

/* Its working directory is the run directory, which may be gone. */
static bool is_inside(pid_t pid, const char *run_dir)
{
    char path[64], link[PATH_MAX];
    size_t length = strlen(run_dir);

    (void)snprintf(path, sizeof path, "/proc/%d/cwd", (int)pid);
    ssize_t got = readlink(path, link, sizeof link - 1);
    if (got < 0)
        return false;
    link[got] = '\0';
    return strncmp(link, run_dir, length) == 0 && (link[length] == '\0' || link[length] == '/' ||
                                                   strcmp(link + length, " (deleted)") == 0);
}

/* It was started with the run directory's name, the one before it was moved aside. A program of the
 * jail's has no such variable. */
static bool has_name(pid_t pid, const char *run_dir)
{
    char path[64], wanted[PATH_MAX + sizeof SHIM_RUN_DIR];
    const char *id = strrchr(run_dir, '/') + 1;
    const int parent = (int)(id - run_dir);

    if (strncmp(id, RUN_DIR_ASIDE, strlen(RUN_DIR_ASIDE)) == 0)
        id += strlen(RUN_DIR_ASIDE);
    (void)snprintf(wanted, sizeof wanted, SHIM_RUN_DIR "=%.*s%s", parent, run_dir, id);
    (void)snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    CLEANUP_FREE char *first = file_read(path, ENVIRON_MAX, NULL, NULL);
    return first && strcmp(first, wanted) == 0;
}

static bool is_there(pid_t pid, const char *run_dir, unsigned uid)
{
    return has_name(pid, run_dir) ||
           (is_inside(pid, run_dir) && (uid != geteuid() || shim_named(pid)));
}

/* The real user; not of /proc's files, which are root's for a process that may not be dumped. */
static bool is_of(pid_t pid, unsigned uid)
{
    char path[64];
    int64_t real;

    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    CLEANUP_FREE char *status = file_read(path, 65536, NULL, NULL);
    char *line = status ? strstr(status, "\nUid:\t") : NULL;
    if (!line)
        return false;
    line += strlen("\nUid:\t");
    line[strspn(line, "0123456789")] = '\0';
    return number_parse(line, 0, UINT_MAX, &real) == 0 && (unsigned)real == uid;
}

/* 1: there was one, and it is gone. -1: it lives on. */
static int end_one(pid_t pid, const char *run_dir, unsigned uid, int64_t until_ms)
{
    uint64_t start_time = process_start_time(pid);
    CLEANUP_CLOSE int pidfd = start_time ? process_open(pid, start_time) : -1;
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    int64_t left = until_ms - clock_monotonic_ms();

    /* Looked at while the pidfd holds the pid. */
    if (pidfd < 0 || pid == getpid() || !is_there(pid, run_dir, uid) || !is_of(pid, uid))
        return 0;
    (void)pidfd_kill(pidfd, SIGKILL);
    return poll(&ended, 1, left > 0 ? (int)left : 0) > 0 ? 1 : -1;
}

/* Looks at each process once: how many were ended; -1: one lives on. */
static int end_all(const char *run_dir, unsigned uid, int64_t until_ms)
{
    DIR *directory = opendir("/proc");
    bool lives = false;
    int64_t pid;
    int count = 0;

    if (!directory)
        return -1;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (number_parse(entry->d_name, 2, INT_MAX, &pid) < 0 ||
            !is_there((pid_t)pid, run_dir, uid))
            continue;
        const int result = end_one((pid_t)pid, run_dir, uid, until_ms);
        lives = lives || result < 0;
        count += result > 0;
    }
    (void)closedir(directory);
    return lives ? -1 : count;
}

int strays_end(const char *run_dir, unsigned uid, int64_t patience_ms)
{
    const int64_t until = clock_monotonic_ms() + patience_ms;
    struct stat status;
    int count;

    if (lstat(run_dir, &status) < 0)
        return errno == ENOENT ? 0 : -1;
    /* One that was ended may have made another meanwhile, where we had been already. */
    do
        count = end_all(run_dir, uid ? uid : geteuid(), until);
    while (count > 0 && clock_monotonic_ms() < until);
    return count == 0 ? 0 : -1;
}
