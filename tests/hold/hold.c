/* Calls that a test holds, without a word of it in the product: preloaded into bottled. While there
 * is a file <HOLD>/access (or kill), a call of access() whose path ends in what that file holds
 * (or any SIGKILL that is to be sent) makes <HOLD>/access.held and waits until the file is gone. */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { AGAIN_MS = 5 };

static bool is_held(const char *file, const char *of)
{
    char end[256];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, end, sizeof end);

    if (fd >= 0)
        (void)close(fd);
    return length >= 0 && (size_t)length <= strlen(of) &&
           memcmp(of + strlen(of) - length, end, (size_t)length) == 0;
}

static void hold(const char *call, const char *of)
{
    const char *folder = getenv("HOLD");
    char file[PATH_MAX], told[PATH_MAX + 8];

    if (!folder)
        return;
    (void)snprintf(file, sizeof file, "%s/%s", folder, call);
    if (!is_held(file, of))
        return;
    (void)snprintf(told, sizeof told, "%s.held", file);
    (void)close(open(told, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    while (syscall(SYS_access, file, F_OK) == 0)
        (void)poll(NULL, 0, AGAIN_MS);
}

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): the C library's own names. */

int access(const char *path, int mode)
{
    hold("access", path);
    return (int)syscall(SYS_access, path, mode);
}

int kill(pid_t pid, int number)
{
    if (number == SIGKILL)
        hold("kill", "");
    return (int)syscall(SYS_kill, pid, number);
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
