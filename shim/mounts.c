#include "shim/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backends/mount_copy.h"
#include "backends/mounts.h"
#include "base/file.h"
#include "base/util.h"
#include "shim/limits.h"

#define MOUNTS_DIR "fs"
int mounts_copy(const struct launch *launch, int *ret, struct error *err)
{
    char name[PATH_MAX];

    for (size_t i = 0; i < MOUNTS_MAX; i++)
        ret[i] = -1;
    for (size_t i = 0; i < launch->n_mounts; i++) {
        const struct shared_mount *mount = &launch->mounts[i];
        CLEANUP_CLOSE int directory = mount_open(mount->root, mount->below, err);
        (void)snprintf(name, sizeof name, "%s/%s", mount->root, mount->below);
        ret[i] = directory < 0
                     ? -1
                     : mount_copy(directory, name, mount->read_only, launch->uid, launch->gid, err);
        if (ret[i] < 0)
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
    argv_add_list(argv, (const char *const[]){SHIM_SELF, MOUNTED_FLAG, NULL});
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
        write_all(groups, "deny", 4) < 0 || mount_put_map(self, "gid_map", gid, gid) < 0 ||
        mount_put_map(self, "uid_map", uid, uid) < 0 ||
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
        directory < 0 ? -1 : mount_copy(directory, name, strcmp(words[0], "ro") == 0, 0, 0, err);
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
