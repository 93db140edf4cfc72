#include "guest/files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/util.h"

enum { WORDS_SIZE = 400, NEW_MODE = 0644, NEW_FOLDER_MODE = 0755 };

/* ── words ── */

static const struct {
    int error;
    enum files_outcome outcome;
} meanings[] = {
    {ENOENT, FILES_MISSING}, {ENOTDIR, FILES_REFUSED}, {EISDIR, FILES_REFUSED},
    {ELOOP, FILES_REFUSED},  {EXDEV, FILES_REFUSED},   {EROFS, FILES_REFUSED},
    {EPERM, FILES_REFUSED},  {EACCES, FILES_REFUSED},  {ETXTBSY, FILES_REFUSED},
    {EBUSY, FILES_REFUSED},  {EINVAL, FILES_REFUSED},  {ENAMETOOLONG, FILES_REFUSED},
    {ENXIO, FILES_REFUSED},  {EEXIST, FILES_REFUSED},  {ENOTEMPTY, FILES_REFUSED},
    {EAGAIN, FILES_REFUSED}, {ENOSPC, FILES_FULL},     {EDQUOT, FILES_FULL},
    {EFBIG, FILES_FULL},
};

static void say_words(const char *words, size_t length)
{
    /* Nobody may listen any more. */
    if (write_all(STDERR_FILENO, words, length) < 0)
        return;
}

enum files_outcome files_say(enum files_outcome outcome, const char *format, ...)
{
    char words[WORDS_SIZE];
    va_list args;

    va_start(args, format);
    int length = vsnprintf(words, sizeof words, format, args);
    va_end(args);
    say_words(words, length < 0 ? 0 : strlen(words));
    return outcome;
}

enum files_outcome files_say_errno(const char *format, ...)
{
    char words[WORDS_SIZE];
    int error = errno;
    va_list args;

    va_start(args, format);
    int length = vsnprintf(words, sizeof words, format, args);
    va_end(args);
    length = length < 0 ? 0 : (int)strlen(words);
    (void)snprintf(words + length, sizeof words - (size_t)length, ": %s", strerror(error));
    say_words(words, strlen(words));
    for (size_t i = 0; i < COUNT_OF(meanings); i++)
        if (meanings[i].error == error)
            return meanings[i].outcome;
    return FILES_FAILED;
}

const char *files_kind(mode_t mode)
{
    return S_ISREG(mode)    ? "a file"
           : S_ISDIR(mode)  ? "a folder"
           : S_ISLNK(mode)  ? "a link"
           : S_ISFIFO(mode) ? "a FIFO"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

/* ── small things ── */

ssize_t files_read_full(int fd, void *buffer, size_t size)
{
    size_t length = 0;

    while (length < size) {
        ssize_t got = read(fd, (char *)buffer + length, size - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        length += (size_t)got;
    }
    return (ssize_t)length;
}

/* ── paths ── */

bool files_made_up(int fd)
{
    static const unsigned long magics[] = {
        PROC_SUPER_MAGIC, SYSFS_MAGIC,   CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC,
        DEBUGFS_MAGIC,    TRACEFS_MAGIC, SECURITYFS_MAGIC,   DEVPTS_SUPER_MAGIC};
    struct statfs status;

    if (fstatfs(fd, &status) < 0)
        return false;
    for (size_t i = 0; i < COUNT_OF(magics); i++)
        if ((unsigned long)status.f_type == magics[i])
            return true;
    return false;
}

/* Why a part of a path is no folder to go on from. `length`: of the path up to that part. */
static enum files_outcome say_no_folder(int folder, const char *part, const char *path,
                                        size_t length)
{
    char target[256];
    struct stat status;
    int error = errno;

    if (error != ENOTDIR || fstatat(folder, part, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        errno = error;
        return files_say_errno("%.*s", (int)length, path);
    }
    ssize_t got = readlinkat(folder, part, target, sizeof target - 1);
    if (got < 0)
        return files_say(FILES_REFUSED, "%.*s is %s, no folder", (int)length, path,
                         files_kind(status.st_mode));
    target[got] = '\0';
    return files_say(FILES_REFUSED,
                     "%.*s is a link to %s, and links are not followed: name the path that it "
                     "leads to",
                     (int)length, path, target);
}

int files_own(int fd, const struct files_owner *owner)
{
    if (fchownat(fd, "", owner->uid, owner->gid, AT_EMPTY_PATH) == 0)
        return 0;
    return !owner->wanted && (errno == EPERM || errno == EINVAL || errno == EOVERFLOW) ? 0 : -1;
}

int files_own_new(int folder, const char *name, mode_t kind, const struct files_owner *owner)
{
    CLEANUP_CLOSE int fd = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0)
        return -1;
    if ((status.st_mode & S_IFMT) == kind)
        return files_own(fd, owner);
    errno = EPERM;
    return -1;
}

static int make_folder(int folder, const char *part, const struct files_owner *owner)
{
    if (mkdirat(folder, part, NEW_FOLDER_MODE) < 0)
        return errno == EEXIST ? 0 : -1;
    return files_own_new(folder, part, S_IFDIR, owner);
}

int files_open_folder(int root, const char *path, const struct files_owner *make,
                      enum files_outcome *ret)
{
    const int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int folder = openat(root, ".", flags);
    char part[FILES_NAME_MAX + 1];

    for (const char *at = path; folder >= 0 && *at;) {
        at += *at == '/';
        size_t length = strcspn(at, "/");
        if (length == 0)
            break;
        (void)snprintf(part, sizeof part, "%.*s", (int)length, at);
        at += length;
        int next = openat(folder, part, flags);
        if (next < 0 && errno == ENOENT && make && make_folder(folder, part, make) == 0)
            next = openat(folder, part, flags);
        if (next < 0)
            *ret = say_no_folder(folder, part, path, (size_t)(at - path));
        (void)close(folder);
        folder = next;
        if (folder < 0)
            return -1;
    }
    if (folder < 0)
        *ret = files_say_errno("the bottle's root");
    return folder;
}

/* The folder that a file is in; its name in *ret_name. */
static int open_parent(int root, const char *path, const struct files_owner *make,
                       const char **ret_name, enum files_outcome *ret)
{
    const char *name = strrchr(path, '/') + 1;
    char parent[FILES_PATH_MAX + 1];

    if (!*name) {
        *ret = files_say(FILES_REFUSED, "/ is a folder");
        return -1;
    }
    (void)snprintf(parent, sizeof parent, "%.*s", (int)(name - path), path);
    *ret_name = name;
    return files_open_folder(root, parent, make, ret);
}

/* ── get ── */

static enum files_outcome say_no_file(int folder, const char *name, const char *path, mode_t mode)
{
    char target[256];
    ssize_t got = readlinkat(folder, name, target, sizeof target - 1);

    if (got < 0)
        return files_say(FILES_REFUSED, "%s is %s, no file", path, files_kind(mode));
    target[got] = '\0';
    return files_say(FILES_REFUSED,
                     "%s is a link to %s, and links are not followed: name the path that it leads "
                     "to",
                     path, target);
}

static int open_file(int folder, const char *name, const char *path, struct stat *ret_status,
                     enum files_outcome *ret)
{
    struct stat status;

    /* Looked at first: to open a device may do things. */
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        *ret = files_say_errno("%s", path);
        return -1;
    }
    if (!S_ISREG(status.st_mode)) {
        *ret = say_no_file(folder, name, path, status.st_mode);
        return -1;
    }
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, ret_status) < 0) {
        *ret = files_say_errno("%s", path);
    } else if (S_ISREG(ret_status->st_mode)) {
        return fd;
    } else {
        *ret = files_say(FILES_REFUSED, "%s has changed meanwhile", path);
    }
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static int put_head(const struct stat *status, bool sized, off_t size)
{
    char head[128], number[24] = "-";

    if (sized)
        (void)snprintf(number, sizeof number, "%lld", (long long)size);
    int length = snprintf(head, sizeof head, "file %s %o %u %u %lld\n", number,
                          (unsigned)status->st_mode & 07777, (unsigned)status->st_uid,
                          (unsigned)status->st_gid, (long long)status->st_mtim.tv_sec);
    return write_all(STDOUT_FILENO, head, (size_t)length);
}

/* What fits one block has the size that it turned out to have: of files of /proc and /sys nothing
 * else is known. A file that grows is given as far as it was when this began. */
static enum files_outcome get(int root, char *const *args)
{
    static char block[FILES_BLOCK];
    const char *name, *path = args[0];
    enum files_outcome outcome = FILES_FAILED;
    struct stat status;
    CLEANUP_CLOSE int folder = open_parent(root, path, NULL, &name, &outcome);
    CLEANUP_CLOSE int fd = folder < 0 ? -1 : open_file(folder, name, path, &status, &outcome);

    if (fd < 0)
        return outcome;
    ssize_t got = files_read_full(fd, block, sizeof block);
    if (got < 0)
        return files_say_errno("reading %s", path);
    bool small = got < (ssize_t)sizeof block, sized = small || status.st_size >= got;
    off_t size = small ? got : status.st_size, left = size - got;
    if (put_head(&status, sized, size) < 0 || write_all(STDOUT_FILENO, block, (size_t)got) < 0)
        return FILES_FAILED;
    while (!small && (!sized || left > 0)) {
        size_t wanted = sized && left < (off_t)sizeof block ? (size_t)left : sizeof block;
        got = read(fd, block, wanted);
        if (got < 0)
            return files_say_errno("reading %s", path);
        if (got == 0 && sized)
            return files_say(FILES_FAILED, "%s became shorter while it was read", path);
        if (got == 0)
            break;
        left -= got;
        if (write_all(STDOUT_FILENO, block, (size_t)got) < 0)
            return FILES_FAILED;
    }
    return FILES_DONE;
}

/* ── put ── */

struct put_plan {
    const char *path;
    struct files_owner owner;
    mode_t mode;
};

/* What the arguments say, and where they leave it open, what is there. */
static enum files_outcome plan_put(char *const *args, const struct files_owner *user, int folder,
                                   const char *name, struct put_plan *ret)
{
    struct put_plan plan = {.path = args[0], .owner = *user, .mode = NEW_MODE};
    struct stat status;
    bool there = fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0;

    if (there && S_ISREG(status.st_mode)) {
        plan.owner = (struct files_owner){.uid = status.st_uid, .gid = status.st_gid};
        plan.mode = status.st_mode & 0777;
    } else if (there && !S_ISLNK(status.st_mode)) {
        return files_say(FILES_REFUSED, "%s is %s: only a file or a link is replaced", plan.path,
                         files_kind(status.st_mode));
    }
    if (args[1][0])
        plan.mode = (mode_t)strtoul(args[1], NULL, 8) & 07777;
    if (!files_owner_parse(args[2], &plan.owner, &plan.owner))
        return files_say(FILES_FAILED, "the owner is none");
    *ret = plan;
    return FILES_DONE;
}

static enum files_outcome put(int root, char *const *args, const struct files_owner *user)
{
    static char block[FILES_BLOCK];
    enum files_outcome outcome = FILES_FAILED;
    struct files_place place;
    struct put_plan plan = {0};
    const char *name;
    ssize_t got = 0;
    CLEANUP_CLOSE int folder = open_parent(root, args[0], user, &name, &outcome);

    if (folder >= 0 && files_made_up(folder))
        return files_say(FILES_REFUSED, "%s is made up by the kernel: write it by an exec",
                         args[0]);
    if (folder < 0 || (outcome = plan_put(args, user, folder, name, &plan)) != FILES_DONE)
        return outcome;
    if (place_begin(&place, folder, name) < 0)
        return files_say_errno("making %s", plan.path);
    while ((got = files_read_full(STDIN_FILENO, block, sizeof block)) > 0)
        if (write_all(place.fd, block, (size_t)got) < 0) {
            outcome = files_say_errno("writing %s", plan.path);
            place_abandon(&place);
            return outcome;
        }
    if (got < 0) {
        place_abandon(&place);
        return files_say_errno("reading the input");
    }
    return place_finish(&place, &plan.owner, plan.mode, NULL, true) < 0
               ? files_say_errno("writing %s", plan.path)
               : FILES_DONE;
}

/* ── all ── */

static enum files_outcome verb_get(int root, char *const *args, const struct files_owner *user)
{
    (void)user;
    return get(root, args);
}

static enum files_outcome verb_pack(int root, char *const *args, const struct files_owner *user)
{
    (void)user;
    return archive_pack(root, args[0]);
}

static enum files_outcome verb_unpack(int root, char *const *args, const struct files_owner *user)
{
    return archive_unpack(root, args[0], args[1], user);
}

static const struct {
    const char *name;
    size_t n_args;
    enum files_outcome (*run)(int root, char *const *args, const struct files_owner *user);
} verbs[] = {
    {"get", 1, verb_get},
    {"put", 3, put},
    {"pack", 1, verb_pack},
    {"unpack", 2, verb_unpack},
};

enum files_outcome files_copy(int root, char *const *args, const struct files_owner *user)
{
    size_t count = 0;

    while (args[count])
        count++;
    for (size_t i = 0; i < COUNT_OF(verbs); i++)
        if (count > 1 && count == 1 + verbs[i].n_args && strcmp(args[0], verbs[i].name) == 0 &&
            files_path_fits(args[1]))
            return verbs[i].run(root, args + 1, user);
    return files_say(FILES_FAILED, "there is no such copy of files");
}

enum files_outcome files_main(char *const *args, const struct files_owner *user)
{
    CLEANUP_CLOSE int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

    (void)umask(0);
    place_guard();
    return root < 0 ? files_say_errno("the bottle's root") : files_copy(root, args, user);
}
