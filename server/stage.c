#include "server/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include <dirent.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/util.h"
#include "server/log.h"

static const char kind[] = "stage-unwritable";

unsigned stage_uid(const struct host *host, const struct allocation *allocation)
{
    return geteuid() == 0 && host->uid_base ? host->uid_base + allocation->subnet : 0;
}

char *stage_path(const struct host *host, const char *slug)
{
    char *path;

    return asprintf(&path, "%s/bottles/%s", host->state_dir, slug) < 0 ? NULL : path;
}

char *run_path(const struct host *host, const char *slug)
{
    char id[PLAN_ID_SIZE];
    char *path;

    plan_id(slug, id);
    return asprintf(&path, "%s/b/%s", host->run_dir, id) < 0 ? NULL : path;
}

/* As root, bottles' users pass through these to what is theirs. */
static int parent_make(const char *base, const char *name, bool shared, struct error *err)
{
    char path[PATH_MAX];
    struct stat status;

    if (snprintf(path, sizeof path, "%s%s", base, name) >= (int)sizeof path)
        return error_set(err, kind, "%s: the path is too long", base);
    if (directory_make(path, shared ? 0711 : 0700, err) < 0) {
        if (err)
            err->kind = kind;
        return -1;
    }
    if (!shared || stat(path, &status) < 0 || (status.st_mode & 0111) == 0111)
        return 0;
    if (status.st_uid == geteuid() && chmod(path, (status.st_mode & 07777) | 0111) < 0)
        return error_errno(err, kind, "%s", path);
    return 0;
}

int stage_parents(const struct host *host, struct error *err)
{
    bool shared = geteuid() == 0 && host->uid_base;

    if (parent_make(host->state_dir, "", shared, err) < 0 ||
        parent_make(host->state_dir, "/bottles", shared, err) < 0 ||
        parent_make(host->run_dir, "", shared, err) < 0)
        return -1;
    return parent_make(host->run_dir, "/b", shared, err);
}

/* --- What is there ---------------------------------------------------------------------------- */

static bool is_rendered(const char *name)
{
    static const char *const names[] = {"gvproxy.yaml", "qemu.json",     "smolfile.toml",
                                        "krun.json",    "pipelock.yaml", "squid.conf"};

    for (size_t i = 0; i < COUNT_OF(names); i++) {
        size_t length = strlen(names[i]);
        if (strcmp(name, names[i]) == 0 ||
            (name[0] == '.' && strncmp(name + 1, names[i], length) == 0 &&
             strcmp(name + 1 + length, ".new") == 0))
            return true;
    }
    return false;
}

static bool is_empty(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    unsigned count = 0;

    if (!directory) {
        if (fd >= 0)
            (void)close(fd);
        return false;
    }
    while (readdir(directory))
        count++;
    (void)closedir(directory);
    return count == 2; /* itself and its parent */
}

static bool is_file(int parent, const char *name)
{
    struct stat status;

    return fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode);
}

/* Of a directory that can not be read to its end nothing is known. */
static struct dirent *next_of(DIR *directory, bool *fits)
{
    errno = 0;
    struct dirent *entry = readdir(directory);

    *fits = entry || errno == 0;
    return entry;
}

bool stage_is_ours(int fd, bool *ret_half_made)
{
    DIR *directory = fdopendir(fd);
    bool fits = directory != NULL, used = false;

    for (struct dirent *entry; fits && (entry = next_of(directory, &fits));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            (is_rendered(name) && is_file(dirfd(directory), name)))
            continue;
        if (strcmp(name, "logs") == 0)
            used = used || !is_empty(dirfd(directory), name);
        else if (strcmp(name, DISK_FILE) == 0 || strcmp(name, "." DISK_FILE ".new") == 0)
            used = true;
        else
            fits = false;
    }
    if (directory)
        (void)closedir(directory);
    else
        (void)close(fd);
    *ret_half_made = fits && !used;
    return fits;
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* Exact mode and owner (gid 0: the owner stays), whatever the umask and the file system made of it.
 */
static int set_right(int fd, const struct stat *status, mode_t mode, uid_t uid, gid_t gid)
{
    if (gid && (status->st_uid != uid || status->st_gid != gid) && fchown(fd, uid, gid) < 0)
        return -1;
    return (status->st_mode & 07777) == mode ? 0 : fchmod(fd, mode);
}

/* The same for a directory; one that is somebody else's is refused. The descriptor, or -1 with
 * errno. */
static int take_directory_at(int parent, const char *name, mode_t mode, uid_t uid, gid_t gid)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    struct stat status;
    bool foreign = fstat(fd, &status) < 0 || (status.st_uid != geteuid() && status.st_uid != uid);
    if (foreign)
        errno = EPERM;
    if (foreign || set_right(fd, &status, mode, uid, gid) < 0) {
        int saved = errno;
        (void)close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* The same, made first where it is missing. */
static int make_directory_at(int parent, const char *name, mode_t mode, uid_t uid, gid_t gid)
{
    if (mkdirat(parent, name, mode) < 0 && errno != EEXIST)
        return -1;
    return take_directory_at(parent, name, mode, uid, gid);
}

/* Creates one file of the plan in an open directory, under a temporary name when it may exist. */
static int write_file_at(int directory, const struct plan_file *file, unsigned gid, bool replace,
                         struct error *err)
{
    char temporary[NAME_MAX + 1];
    const char *name = file->name;

    if (replace) {
        (void)snprintf(temporary, sizeof temporary, ".%s.new", file->name);
        (void)unlinkat(directory, temporary, 0);
        name = temporary;
    }
    struct stat status;
    CLEANUP_CLOSE int fd =
        openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0 || write_all(fd, file->content, file->length) < 0 || fstat(fd, &status) < 0 ||
        set_right(fd, &status, 0640, 0, gid) < 0 ||
        (replace && renameat(directory, temporary, directory, file->name) < 0)) {
        error_errno(err, kind, "writing %s", file->name);
        if (fd >= 0)
            (void)unlinkat(directory, name, 0);
        return -1;
    }
    return 0;
}

static int fill(const struct plan *plan, unsigned uid, struct error *err)
{
    CLEANUP_CLOSE int directory = take_directory_at(AT_FDCWD, plan->stage_dir, 0750, 0, uid);

    if (directory < 0)
        return error_errno(err, kind, "creating it");
    for (size_t i = 0; i < plan->n_files; i++)
        if (write_file_at(directory, &plan->files[i], uid, false, err) < 0)
            return -1;
    return 0;
}

/* Something lies where the stage directory goes, and no bottle owns it: a creation that died
 * half-way left nothing of worth; anything else is kept beside it under another name. */
static int move_aside(const struct plan *plan, struct error *err)
{
    char aside[PATH_MAX];
    bool half_made;
    const char *slash = strrchr(plan->stage_dir, '/');
    int fd = open(plan->stage_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return error_errno(err, kind, "%s has its name",
                           errno == ENOTDIR || errno == ELOOP ? "what is no directory"
                                                              : "a directory");
    if (stage_is_ours(fd, &half_made) && half_made)
        return directory_remove(plan->stage_dir, NULL, err);
    if (snprintf(aside, sizeof aside, "%.*s/" STAGE_ASIDE "%lld-%s", (int)(slash - plan->stage_dir),
                 plan->stage_dir, (long long)clock_wall_ms(), plan->id) >= (int)sizeof aside)
        return error_set(err, kind, "its path is too long");
    if (rename(plan->stage_dir, aside) < 0)
        return error_errno(err, kind, "moving what has its name");
    log_event(LEVEL_WARNING, "something was in the place of a new bottle and was moved aside",
              LOG_TEXT("from", plan->stage_dir), LOG_TEXT("to", aside));
    return 0;
}

static int make_place(const struct plan *plan, struct error *err)
{
    if (mkdir(plan->stage_dir, 0750) == 0)
        return 0;
    if (errno == EEXIST) {
        if (move_aside(plan, err) < 0)
            return -1;
        if (mkdir(plan->stage_dir, 0750) == 0)
            return 0;
    }
    return error_errno(err, kind, "creating it");
}

int stage_write(const struct plan *plan, unsigned uid, struct error *err)
{
    bool made = make_place(plan, err) == 0;

    if (made && fill(plan, uid, err) == 0)
        return 0;
    if (made)
        (void)directory_remove(plan->stage_dir, NULL, NULL);
    if (err)
        err->kind = kind;
    return error_wrap(err,
                      "the stage directory %s could not be written (free space there, or make it "
                      "writable, and try again)",
                      plan->stage_dir);
}

/* --- Before a start --------------------------------------------------------------------------- */

static bool same_content(int directory, const struct plan_file *file)
{
    struct stat status;
    CLEANUP_CLOSE int fd =
        openat(directory, file->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) ||
        (size_t)status.st_size != file->length)
        return false;
    CLEANUP_FREE char *bytes = malloc(file->length + 1);
    size_t done = 0;
    while (bytes && done < file->length) {
        ssize_t got = read(fd, bytes + done, file->length - done);
        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return bytes && memcmp(bytes, file->content, file->length) == 0;
}

int stage_ensure(const struct plan *plan, unsigned uid, struct error *err)
{
    if (access(plan->stage_dir, F_OK) < 0 && errno == ENOENT && stage_write(plan, uid, err) < 0)
        return -1;
    CLEANUP_CLOSE int directory = make_directory_at(AT_FDCWD, plan->stage_dir, 0750, 0, uid);
    if (directory < 0)
        return error_errno(err, kind, "%s", plan->stage_dir);
    for (size_t i = 0; i < plan->n_files; i++)
        if (!same_content(directory, &plan->files[i]) &&
            write_file_at(directory, &plan->files[i], uid, true, err) < 0)
            return error_wrap(err, "%s", plan->stage_dir);
    CLEANUP_CLOSE int logs = make_directory_at(directory, "logs", 0700, uid, uid);
    return logs < 0 ? error_errno(err, kind, "%s/logs", plan->stage_dir) : 0;
}

int run_make(const struct plan *plan, unsigned uid, struct error *err)
{
    static const char *const inner[] = {"net", "proxy"};

    if (directory_remove(plan->run_dir, NULL, err) < 0) {
        if (err)
            err->kind = kind;
        return -1;
    }
    CLEANUP_CLOSE int directory = make_directory_at(AT_FDCWD, plan->run_dir, 0700, uid, uid);
    if (directory < 0)
        return error_errno(err, kind, "creating %s", plan->run_dir);
    for (size_t i = 0; i < COUNT_OF(inner); i++) {
        CLEANUP_CLOSE int fd = make_directory_at(directory, inner[i], 0700, uid, uid);
        if (fd < 0)
            return error_errno(err, kind, "creating %s/%s", plan->run_dir, inner[i]);
    }
    return 0;
}

int stage_open_log(const struct plan *plan, const char *name, unsigned uid)
{
    struct stat status;
    CLEANUP_CLOSE int stage = open(plan->stage_dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    CLEANUP_CLOSE int logs =
        stage < 0 ? -1 : openat(stage, "logs", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int fd = logs < 0 ? -1
                      : openat(logs, name,
                               O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
                               0600);

    if (fd < 0)
        return -1;
    /* A second name for somebody else's file is no log of ours. */
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_nlink != 1 ||
        (uid && fchown(fd, uid, uid) < 0)) {
        (void)close(fd);
        return -1;
    }
    return fd;
}
