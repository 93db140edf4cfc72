#include "shim/staging.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "shim/mounts.h"

#define STAGING_DIR "/tmp"

struct paths {
    const char **items[STAGED_MAX];
    int fds[STAGED_MAX];
    size_t count;
};

static void add_path(struct paths *paths, const char **path)
{
    paths->items[paths->count++] = path;
}

static void add_program_paths(struct paths *paths, struct program *program)
{
    for (size_t i = 0; i < program->n_binds; i++)
        add_path(paths, &program->binds[i].host);
}

static void collect(struct launch *launch, struct paths *paths)
{
    add_path(paths, &launch->bwrap);
    add_program_paths(paths, &launch->vm);
    if (launch->save.state)
        add_path(paths, &launch->net_dir);
    if (launch->probe)
        return;
    add_program_paths(paths, &launch->template.program);
    add_path(paths, &launch->gvproxy);
    add_path(paths, &launch->gvproxy_config);
    add_path(paths, &launch->cell);
    add_path(paths, &launch->net_dir);
    add_path(paths, &launch->proxy_dir);
    add_path(paths, &launch->config_dir);
    if (launch->fs_binary)
        add_path(paths, &launch->fs_binary);
    for (size_t i = 0; i < launch->n_sidecars; i++) {
        add_program_paths(paths, &launch->sidecars[i].program);
        if (launch->sidecars[i].config.path)
            add_path(paths, &launch->sidecars[i].config.path);
    }
}

/* Mounts what the descriptor names at a fresh file or directory; ret is its path. */
static int mount_one(int fd, size_t number, char **ret)
{
    char from[32], *to;
    struct stat status;

    (void)snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    if (asprintf(&to, STAGING_DIR "/%zu", number) < 0)
        return -1;
    if (fstat(fd, &status) < 0)
        goto failed;
    if (S_ISDIR(status.st_mode)) {
        if (mkdir(to, 0755) < 0)
            goto failed;
    } else {
        CLEANUP_CLOSE int file = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (file < 0)
            goto failed;
    }
    if (mount(from, to, NULL, MS_BIND, NULL) < 0)
        goto failed;
    *ret = to;
    return 0;
failed:
    free(to);
    return -1;
}

/* `result` of what came before is handed on. */
static int place_copies(struct launch *launch, const int *copies, int result, struct error *err)
{
    for (size_t i = 0; i < MOUNTS_MAX; i++) {
        char *path = NULL;
        if (copies[i] < 0)
            continue;
        if (result == 0 && asprintf(&path, STAGING_DIR "/%s", launch->mounts[i].tag) < 0)
            result = error_set(err, NULL, "out of memory");
        if (result == 0) {
            launch->staged[launch->n_staged++] = path;
            launch->mounts[i].path = path;
            result = mounts_place(copies[i], path, err);
        }
        (void)close(copies[i]);
    }
    return result;
}

/* All descriptors are opened before anything is mounted (what they name may itself lie below /tmp),
 * and after the new namespace is made (the kernel binds only what lies in it). */
static int stage(struct launch *launch, struct error *err)
{
    struct paths paths = {0};
    int copies[MOUNTS_MAX];
    int result = 0;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return error_errno(err, "launch-failed", "making the shim's mount namespace");
    collect(launch, &paths);
    for (size_t i = 0; i < paths.count; i++) {
        paths.fds[i] = open(*paths.items[i], O_PATH | O_CLOEXEC);
        if (paths.fds[i] < 0)
            result = error_errno(err, "launch-failed", "%s", *paths.items[i]);
    }
    if (mounts_copy(launch, copies, result == 0 ? err : NULL) < 0)
        result = -1;
    if (result == 0 &&
        mount("bottle", STAGING_DIR, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") < 0)
        result = error_errno(err, "launch-failed", "mounting the shim's staging directory");
    for (size_t i = 0; i < paths.count; i++) {
        char *staged;
        if (result == 0 && mount_one(paths.fds[i], i, &staged) < 0)
            result = error_errno(err, "launch-failed", "staging %s", *paths.items[i]);
        else if (result == 0)
            *paths.items[i] = launch->staged[launch->n_staged++] = staged;
        if (paths.fds[i] >= 0)
            (void)close(paths.fds[i]);
    }
    return place_copies(launch, copies, result, err);
}

static int drop(const struct launch *launch, struct error *err)
{
    const gid_t groups[] = {(gid_t)launch->kvm_gid};

    if (setgroups(launch->kvm_gid >= 0 ? 1 : 0, groups) < 0 ||
        setresgid(launch->gid, launch->gid, launch->gid) < 0 ||
        setresuid(launch->uid, launch->uid, launch->uid) < 0)
        return error_errno(err, "launch-failed", "becoming user %u", launch->uid);
    return 0;
}

static int make_owned_directory(const char *name, const struct launch *launch, struct error *err)
{
    if ((mkdir(name, 0700) < 0 && errno != EEXIST) ||
        (launch->uid &&
         fchownat(AT_FDCWD, name, launch->uid, launch->gid, AT_SYMLINK_NOFOLLOW) < 0))
        return error_errno(err, "launch-failed", "%s/%s", launch->run_dir, name);
    return 0;
}

/* The bottle's user has no way to it. */
static int open_state(struct vm_template *template, int flags, struct error *err)
{
    if (!template->state)
        return 0;
    template->state_file = open(template->state, flags | O_NOFOLLOW | O_CLOEXEC);
    return template->state_file < 0
               ? error_errno(err, "launch-failed", "the template's state %s", template->state)
               : 0;
}

/* The template may have been removed since it was offered; then the bottle does without. */
static void look_for_template(struct launch *launch)
{
    struct program *program = &launch->template.program;
    bool there = open_state(&launch->template, O_RDONLY, NULL) == 0;

    for (size_t i = 0; i < program->n_binds; i++)
        there = there && access(program->binds[i].host, F_OK) == 0;
    if (there || !program->argv)
        return;
    launch->cold_reason = "its template was removed just before";
    free(program->argv);
    *program = (struct program){0};
}

/* Once we are the bottle's user: what lies in the way is this user's own affair. */
static int make_sidecar_directories(const struct launch *launch, struct error *err)
{
    char path[PATH_MAX];

    for (size_t i = 0; i < launch->n_sidecars; i++) {
        const char *name = launch->sidecars[i].program.name;
        if (snprintf(path, sizeof path, "%s/%s", launch->proxy_dir, name) >= (int)sizeof path)
            return error_set(err, "launch-failed", "%s: the path is too long", path);
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return error_errno(err, "launch-failed", "%s/proxy/%s", launch->run_dir, name);
    }
    return 0;
}

int staging_enter(struct launch *launch, int *ret_log_dir, struct error *err)
{
    (void)umask(0077);
    if (chdir(launch->run_dir) < 0)
        return error_errno(err, "launch-failed", "%s", launch->run_dir);
    CLEANUP_CLOSE int log_dir =
        open(launch->log_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (log_dir < 0)
        return error_errno(err, "launch-failed", "%s", launch->log_dir);
    look_for_template(launch);
    if (open_state(&launch->save, O_WRONLY, err) < 0)
        return -1;
    launch->net_dir = "net";
    launch->proxy_dir = "proxy";
    launch->config_dir = CONFIG_DIR;
    if (make_owned_directory("net", launch, err) < 0 ||
        make_owned_directory("proxy", launch, err) < 0 ||
        make_owned_directory(CONFIG_DIR, launch, err) < 0)
        return -1;
    if (launch->uid == 0 && geteuid() == 0)
        return error_set(err, "launch-failed",
                         "refusing to run a bottle as root; set uid_base in the configuration");
    if (launch->uid ? stage(launch, err) < 0 || drop(launch, err) < 0
                    : mounts_prepare(launch, err) < 0)
        return -1;
    if (make_sidecar_directories(launch, err) < 0)
        return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
        return error_errno(err, "launch-failed", "giving up privileges");
    *ret_log_dir = steal_fd(&log_dir);
    return 0;
}
