#include "guest/room.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

enum {
    LOOK_MS = 250,
    PART = 4, /* from this part of the bound on: what is remembered between two looks adds to it */
    TEXT_MAX = 64 * 1024,
};

static bool read_text(const char *path, char *ret, size_t size)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    ssize_t got = -1;

    while (fd >= 0 && length < size - 1 && (got = read(fd, ret + length, size - 1 - length)) > 0)
        length += (size_t)got;
    ret[length] = '\0';
    return fd >= 0 && got >= 0;
}

int64_t room_count(const char *slabinfo, const char *slab)
{
    size_t length = strlen(slab);

    for (const char *line = slabinfo; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, slab, length) == 0 && line[length] == ' ')
            return strtoll(line + length, NULL, 10);
    }
    return -1;
}

/* Inodes of virtio-fs; of all file systems where the kernel does not tell them apart. */
static int64_t remembered(int64_t enough, char *text)
{
    if (!read_text("/proc/sys/fs/inode-nr", text, TEXT_MAX))
        return 0;
    int64_t all = strtoll(text, NULL, 10);
    if (all < enough) /* the common case, and cheap */
        return all;
    int64_t ours =
        read_text("/proc/slabinfo", text, TEXT_MAX) ? room_count(text, "fuse_inode") : -1;
    return ours >= 0 ? ours : all;
}

static void forget(void)
{
    CLEANUP_CLOSE int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

    if (fd >= 0 && write(fd, "2", 1) != 1)
        return; /* the guest then reads that there are too many files, as without us */
}

void room_keep(uint32_t files_max)
{
    int64_t enough = files_max / PART;

    if (files_max == 0 || fork() != 0)
        return;
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL); /* it ends with all others, when told to */
    (void)close_range(0, ~0U, 0);
    char *text = malloc(TEXT_MAX);
    if (!text)
        _exit(1);
    for (;; (void)poll(NULL, 0, LOOK_MS))
        if (remembered(enough, text) >= enough)
            forget();
}
