/* A directory as a mount of its own. */
#include "backends/mount_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/util.h"

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

static const char kind[] = "mount-refused";

/* --- Whose is what ---------------------------------------------------------------------------- */

int mount_put_map(pid_t pid, const char *name, unsigned inside, unsigned outside)
{
    char path[64], line[64];

    (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int length = snprintf(line, sizeof line, "%u %u 1\n", inside, outside);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -1 : write_all(fd, line, (size_t)length);
}

/* The process whose namespace it is, in a child. It ends with its parent, whatever ends that, and
 * keeps none of its descriptors but the one that it writes to: a lock, or a client's connection,
 * would live on in it. */
_Noreturn static void stand_for(pid_t parent, int ready)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || dup2(ready, 0) < 0 ||
        close_range(1, ~0U, 0) < 0 || unshare(CLONE_NEWUSER) < 0 || write(0, "", 1) != 1)
        _exit(1);
    for (;;)
        (void)pause(); /* until it is killed */
}

/* A user namespace that stands for "the owner's is the bottle's", as mount_setattr(2) takes it: the
 * inside is the disk. */
static int open_owner_map(const struct stat *owner, unsigned uid, unsigned gid, struct error *err)
{
    const pid_t parent = getpid();
    int ready[2], result = -1;
    char path[64], byte;

    if (pipe2(ready, O_CLOEXEC) < 0)
        return error_errno(err, NULL, "pipe");
    pid_t pid = fork();
    if (pid == 0)
        stand_for(parent, ready[1]);
    (void)close(ready[1]);
    (void)snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
    if (pid > 0 && read(ready[0], &byte, 1) == 1 &&
        mount_put_map(pid, "uid_map", owner->st_uid, uid) == 0 &&
        mount_put_map(pid, "gid_map", owner->st_gid, gid) == 0)
        result = open(path, O_RDONLY | O_CLOEXEC);
    if (result < 0)
        (void)error_errno(err, "launch-failed", "making the owner's map of a mount");
    (void)close(ready[0]);
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
    return result;
}

/* `map` -1: owners stay. */
static int copy_tree(int directory, bool read_only, int map, const char *name, struct error *err)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                                MOUNT_ATTR_NOSYMFOLLOW};
    CLEANUP_CLOSE int copy = open_tree(
        directory, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_NO_AUTOMOUNT);

    if (copy < 0 && errno == EINVAL)
        return error_set(err, kind,
                         "%s can't be mounted: other file systems are mounted below it; name one "
                         "that has none",
                         name);
    if (copy < 0)
        return error_errno(err, kind, "%s can't be mounted", name);
    if (read_only)
        attributes.attr_set |= MOUNT_ATTR_RDONLY;
    if (mount_setattr(copy, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)
        return error_errno(err, kind, "%s can't be mounted", name);
    attributes = (struct mount_attr){.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)map};
    if (map >= 0 && mount_setattr(copy, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)
        return error_errno(err, kind,
                           "the file system of %s does not let owners be mapped (ext4, xfs, btrfs "
                           "and, from Linux 6.3 on, tmpfs do); name a directory of another",
                           name);
    return steal_fd(&copy);
}

int mount_copy(int directory, const char *name, bool read_only, unsigned uid, unsigned gid,
               struct error *err)
{
    struct stat owner;

    if (!uid)
        return copy_tree(directory, read_only, -1, name, err);
    if (fstat(directory, &owner) < 0)
        return error_errno(err, kind, "%s", name);
    CLEANUP_CLOSE int map = open_owner_map(&owner, uid, gid, err);
    return map < 0 ? -1 : copy_tree(directory, read_only, map, name, err);
}
