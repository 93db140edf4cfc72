#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/util.h"

char *file_read(const char *path, size_t limit, size_t *ret_length, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    CLEANUP_FREE char *data = NULL;
    size_t length = 0, room = 4096;

    if (fd < 0) {
        error_errno(err, NULL, "%s", path);
        return NULL;
    }
    for (;;) {
        char *larger = realloc(data, room + 1);
        if (!larger) {
            error_errno(err, NULL, "%s", path);
            return NULL;
        }
        data = larger;
        ssize_t got = read(fd, data + length, room - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            error_errno(err, NULL, "%s", path);
            return NULL;
        }
        if (got == 0)
            break;
        length += (size_t)got;
        if (length > limit) {
            error_set(err, NULL, "%s: larger than %zu bytes", path, limit);
            return NULL;
        }
        if (length == room)
            room *= 2;
    }
    data[length] = '\0';
    if (ret_length)
        *ret_length = length;
    char *result = data;
    data = NULL;
    return result;
}

int write_all(int fd, const void *bytes, size_t length)
{
    const char *next = bytes;

    while (length > 0) {
        ssize_t done = write(fd, next, length);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -1;
        next += done;
        length -= (size_t)done;
    }
    return 0;
}

/* Syncs the directory that holds `path`, so that the rename itself survives a crash. */
static int sync_parent(const char *path)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int length = slash ? (int)(slash - path) : 1;

    (void)snprintf(parent, sizeof parent, "%.*s", length ? length : 1, slash ? path : ".");
    CLEANUP_CLOSE int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -1 : fsync(fd);
}

int file_write(const char *path, const void *bytes, size_t length, mode_t mode, bool durable,
               struct error *err)
{
    char temporary[PATH_MAX];

    if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary) {
        errno = ENAMETOOLONG;
        return error_errno(err, NULL, "%s", path);
    }
    (void)unlink(temporary);
    CLEANUP_CLOSE int fd =
        open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return error_errno(err, NULL, "%s", temporary);
    if (write_all(fd, bytes, length) < 0 || fchmod(fd, mode) < 0 || (durable && fsync(fd) < 0) ||
        rename(temporary, path) < 0 || (durable && sync_parent(path) < 0)) {
        error_errno(err, NULL, "writing %s", path);
        (void)unlink(temporary);
        return -1;
    }
    return 0;
}

int directory_make(const char *path, mode_t mode, struct error *err)
{
    char partial[PATH_MAX];
    size_t length = strlen(path);

    if (length == 0 || length >= sizeof partial) {
        errno = ENAMETOOLONG;
        return error_errno(err, NULL, "%s", path);
    }
    memcpy(partial, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (partial[i] != '/' && partial[i] != '\0')
            continue;
        partial[i] = '\0';
        if (mkdir(partial, mode) < 0 && errno != EEXIST)
            return error_errno(err, NULL, "creating %s", partial);
        if (i < length)
            partial[i] = '/';
    }
    struct stat status;
    if (stat(path, &status) < 0)
        return error_errno(err, NULL, "%s", path);
    if (!S_ISDIR(status.st_mode)) {
        errno = ENOTDIR;
        return error_errno(err, NULL, "%s", path);
    }
    return 0;
}

typedef int visit_entry(int parent, const char *name, const struct stat *status, off_t *bytes);

/* Calls `visit` for everything below the open directory, children before their directory. Takes fd.
 */
static int walk(int fd, dev_t device, visit_entry *visit, off_t *bytes)
{
    DIR *directory = fdopendir(fd);
    int result = 0;

    if (!directory) {
        (void)close(fd);
        return -1;
    }
    for (struct dirent *entry; result == 0 && (entry = readdir(directory));) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
            result = errno == ENOENT ? 0 : -1;
            continue;
        }
        if (S_ISDIR(status.st_mode)) {
            if (status.st_dev != device) {
                errno = EXDEV;
                result = -1;
                continue;
            }
            int child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            result = child < 0 ? -1 : walk(child, device, visit, bytes);
        }
        if (result == 0)
            result = visit(fd, entry->d_name, &status, bytes);
    }
    int saved = errno;
    (void)closedir(directory);
    errno = saved;
    return result;
}

static int visit_count(int parent, const char *name, const struct stat *status, off_t *bytes)
{
    (void)parent;
    (void)name;
    if (S_ISREG(status->st_mode))
        *bytes += status->st_size;
    return 0;
}

static int visit_remove(int parent, const char *name, const struct stat *status, off_t *bytes)
{
    (void)visit_count(parent, name, status, bytes);
    int flags = S_ISDIR(status->st_mode) ? AT_REMOVEDIR : 0;
    return unlinkat(parent, name, flags) < 0 && errno != ENOENT ? -1 : 0;
}

/* Walks `path` itself; 1 when it is missing. */
static int walk_path(const char *path, visit_entry *visit, off_t *bytes)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;

    if (fd < 0)
        return errno == ENOENT ? 1 : -1;
    if (fstat(fd, &status) < 0) {
        (void)close(fd);
        return -1;
    }
    return walk(fd, status.st_dev, visit, bytes);
}

int directory_remove(const char *path, off_t *ret_bytes, struct error *err)
{
    off_t bytes = 0;
    int result = walk_path(path, visit_remove, &bytes);

    if (result < 0 || (result == 0 && rmdir(path) < 0 && errno != ENOENT))
        return error_errno(err, NULL, "removing %s", path);
    if (ret_bytes)
        *ret_bytes = bytes;
    return 0;
}

off_t directory_bytes(const char *path)
{
    off_t bytes = 0;

    (void)walk_path(path, visit_count, &bytes);
    return bytes;
}
