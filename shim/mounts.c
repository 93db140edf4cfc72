#include "shim/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/mounts.h"
#include "base/file.h"
#include "base/util.h"

#define MOUNTS_DIR "fs"
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

static const char kind[] = "mount-refused";

/* --- Whose is what ---------------------------------------------------------------------------- */

static int put_map(pid_t pid, const char *name, unsigned inside, unsigned outside)
{
    char path[64], line[64];

    (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int length = snprintf(line, sizeof line, "%u %u 1\n", inside, outside);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -1 : write_all(fd, line, (size_t)length);
}

/* A user namespace that stands for "the owner's is the bottle's", as mount_setattr(2) takes it: the
 * inside is the disk. */
static int open_owner_map(const struct stat *owner, const struct launch *launch, struct error *err)
{
    int ready[2], result = -1;
    char path[64], byte;

    if (pipe2(ready, O_CLOEXEC) < 0)
        return error_errno(err, NULL, "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(ready[0]);
        if (unshare(CLONE_NEWUSER) < 0 || write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            (void)pause(); /* until it is killed */
    }
    (void)close(ready[1]);
    (void)snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
    if (pid > 0 && read(ready[0], &byte, 1) == 1 &&
        put_map(pid, "uid_map", owner->st_uid, launch->uid) == 0 &&
        put_map(pid, "gid_map", owner->st_gid, launch->gid) == 0)
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

/* --- Copies ----------------------------------------------------------------------------------- */

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

int mounts_copy(const struct launch *launch, int *ret, struct error *err)
{
    for (size_t i = 0; i < MOUNTS_MAX; i++)
        ret[i] = -1;
    for (size_t i = 0; i < launch->n_mounts; i++) {
        const struct shared_mount *mount = &launch->mounts[i];
        struct stat owner;
        CLEANUP_CLOSE int directory = mount_open(mount->root, mount->below, err);
        if (directory < 0)
            return -1;
        if (fstat(directory, &owner) < 0)
            return error_errno(err, kind, "%s/%s", mount->root, mount->below);
        CLEANUP_CLOSE int map = open_owner_map(&owner, launch, err);
        if (map < 0)
            return -1;
        char name[PATH_MAX];
        (void)snprintf(name, sizeof name, "%s/%s", mount->root, mount->below);
        if ((ret[i] = copy_tree(directory, mount->read_only, map, name, err)) < 0)
            return -1;
    }
    return 0;
}

int mounts_place(int copy, const char *path, struct error *err)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return error_errno(err, "launch-failed", "making %s", path);
    if (move_mount(copy, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return error_errno(err, "launch-failed", "mounting at %s", path);
    return 0;
}

int mounts_prepare(struct launch *launch, struct error *err)
{
    if (launch->n_mounts > 0 && mkdir(MOUNTS_DIR, 0700) < 0 && errno != EEXIST)
        return error_errno(err, "launch-failed", "%s/" MOUNTS_DIR, launch->run_dir);
    for (size_t i = 0; i < launch->n_mounts; i++) {
        char *path;
        if (asprintf(&path, MOUNTS_DIR "/%s", launch->mounts[i].tag) < 0)
            return error_set(err, NULL, "out of memory");
        launch->staged[launch->n_staged++] = path;
        launch->mounts[i].path = path;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return error_errno(err, "launch-failed", "%s/%s", launch->run_dir, path);
    }
    return 0;
}

/* --- Between the shim and a jail -------------------------------------------------------------- */

void mounts_add(struct argv *argv, const struct launch *launch, size_t first, size_t count)
{
    if (launch->uid || count == 0)
        return;
    argv_add_list(argv, (const char *const[]){"/proc/self/exe", MOUNTED_FLAG, NULL});
    for (size_t i = first; i < first + count; i++) {
        const struct shared_mount *mount = &launch->mounts[i];
        argv_add_list(argv, (const char *const[]){mount->read_only ? "ro" : "rw", mount->root,
                                                  mount->below, mount->path, NULL});
    }
    argv_add(argv, "--");
}

static int own_namespaces(struct error *err)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    pid_t self = getpid();
    CLEANUP_CLOSE int groups = -1;

    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0 ||
        (groups = open("/proc/self/setgroups", O_WRONLY | O_CLOEXEC)) < 0 ||
        write_all(groups, "deny", 4) < 0 || put_map(self, "gid_map", gid, gid) < 0 ||
        put_map(self, "uid_map", uid, uid) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return error_errno(err, "launch-failed", "making the namespaces of a mount");
    return 0;
}

static int mount_one(char *const *words, struct error *err)
{
    char name[PATH_MAX];
    CLEANUP_CLOSE int directory = mount_open(words[1], words[2], err);

    (void)snprintf(name, sizeof name, "%s/%s", words[1], words[2]);
    CLEANUP_CLOSE int copy =
        directory < 0 ? -1 : copy_tree(directory, strcmp(words[0], "ro") == 0, -1, name, err);
    return copy < 0 ? -1 : mounts_place(copy, words[3], err);
}

int mounts_enter(char **argv)
{
    struct error err = ERROR_INIT;
    int result = own_namespaces(&err);

    while (result == 0 && argv[0] && strcmp(argv[0], "--") != 0) {
        if (!argv[1] || !argv[2] || !argv[3]) {
            (void)fprintf(stderr, "bottle-shim: half a mount\n");
            return 2;
        }
        result = mount_one(argv, &err);
        argv += 4;
    }
    if (result < 0) {
        (void)fprintf(stderr, "bottle-shim: %s\n", err.text);
        return 1;
    }
    if (!argv[0] || !argv[1]) {
        (void)fprintf(stderr, "bottle-shim: no program behind its mounts\n");
        return 2;
    }
    (void)execv(argv[1], argv + 1);
    perror(argv[1]);
    return 1;
}

/* --- The wire --------------------------------------------------------------------------------- */

int mounts_sockets(const char *name, int *ret_listening, int *ret_connected, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP_CLOSE int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CLEANUP_CLOSE int connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s.sock", name);
    (void)unlink(address.sun_path);
    int result = listening < 0 || connected < 0 ||
                         bind(listening, (const struct sockaddr *)&address, sizeof address) < 0 ||
                         listen(listening, 1) < 0 ||
                         connect(connected, (const struct sockaddr *)&address, sizeof address) < 0
                     ? error_errno(err, "launch-failed", "the socket of the mount %s", name)
                     : 0;
    (void)unlink(address.sun_path);
    if (result < 0)
        return -1;
    *ret_listening = steal_fd(&listening);
    *ret_connected = steal_fd(&connected);
    return 0;
}
