#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/util.h"

enum { TREE_DEPTH_MAX = 64 };

char *file_read_open(int fd, const char *name, size_t limit, size_t *ret_length, struct error *err)
{
    CLEANUP_FREE char *data = NULL;
    size_t length = 0, room = 4096;

    for (;;) {
        char *larger = realloc(data, room + 1);
        if (!larger) {
            error_errno(err, NULL, "%s", name);
            return NULL;
        }
        data = larger;
        ssize_t got = read(fd, data + length, room - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            error_errno(err, NULL, "%s", name);
            return NULL;
        }
        if (got == 0)
            break;
        length += (size_t)got;
        if (length > limit) {
            error_set(err, NULL, "%s: larger than %zu bytes", name, limit);
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

char *file_read(const char *path, size_t limit, size_t *ret_length, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        error_errno(err, NULL, "%s", path);
        return NULL;
    }
    return file_read_open(fd, path, limit, ret_length, err);
}

/* How many came; those for which there is no place are closed. The buffer is rounded up, so that
 * the kernel may find room for more than was meant. */
static size_t take_descriptors(const struct cmsghdr *header, int *ret, size_t most)
{
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

    for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        if (i < most)
            ret[i] = fd;
        else
            (void)close(fd);
    }
    return count < most ? count : most;
}

ssize_t receive_descriptors(int fd, void *bytes, size_t size, int *ret, size_t most,
                            size_t *ret_count)
{
    char control[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    struct iovec data = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};

    *ret_count = 0;
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *header = got >= 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        *ret_count = take_descriptors(header, ret, most);
    return got;
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

/* A tree that is counted or removed. A program that meant harm may have made what lies in it: with
 * directories that shut their owner out, or with more levels than a process has descriptors. */
struct tree {
    bool remove;
    int top; /* the open directory that it hangs from */
    dev_t device;
    off_t bytes;    /* of its regular files */
    unsigned moved; /* directories that were moved up to `top` */
};

static int walk(struct tree *tree, int fd, unsigned depth);

/* Lets the owner into a directory; by descriptor, so that no link can be followed. */
static int unlock(int parent, const char *name)
{
    char path[32];
    CLEANUP_CLOSE int fd = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return fd < 0 ? -1 : chmod(path, 0700);
}

/* Makes a directory that lies too deep one of the next round. */
static int move_up(struct tree *tree, int parent, const char *name)
{
    char to[32];

    do
        (void)snprintf(to, sizeof to, ".deep-%u", tree->moved++);
    while (renameat(parent, name, tree->top, to) < 0 &&
           (errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR));
    return faccessat(tree->top, to, F_OK, AT_SYMLINK_NOFOLLOW);
}

static int enter(struct tree *tree, int parent, const char *name, const struct stat *status,
                 unsigned depth)
{
    if (status->st_dev != tree->device) {
        errno = EXDEV;
        return -1;
    }
    if (tree->remove && (status->st_mode & 0700) != 0700 && unlock(parent, name) < 0)
        return -1;
    if (depth == TREE_DEPTH_MAX)
        return tree->remove ? move_up(tree, parent, name) : 0;
    int child = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return child < 0 ? -1 : walk(tree, child, depth + 1);
}

/* One entry, and before it what is below it. */
static int visit(struct tree *tree, int parent, const char *name, unsigned depth)
{
    struct stat status;

    if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -1;
    if (S_ISDIR(status.st_mode) && enter(tree, parent, name, &status, depth) < 0)
        return -1;
    if (S_ISREG(status.st_mode))
        tree->bytes += status.st_size;
    if (!tree->remove)
        return 0;
    int flags = S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0;
    return unlinkat(parent, name, flags) < 0 && errno != ENOENT ? -1 : 0;
}

/* Visits everything below the open directory. Takes fd. */
static int walk(struct tree *tree, int fd, unsigned depth)
{
    DIR *directory = fdopendir(fd);
    int result = 0;

    if (!directory) {
        (void)close(fd);
        return -1;
    }
    for (struct dirent *entry; result == 0 && (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            result = visit(tree, fd, entry->d_name, depth);
    int saved = errno;
    (void)closedir(directory);
    errno = saved;
    return result;
}

/* Walks `path` itself, as often as something was moved up; 1 when it is missing. */
static int walk_path(struct tree *tree, const char *path)
{
    CLEANUP_CLOSE int top = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;
    unsigned before;
    int result;

    if (top < 0)
        return errno == ENOENT ? 1 : -1;
    if (fstat(top, &status) < 0)
        return -1;
    tree->top = top;
    tree->device = status.st_dev;
    do {
        before = tree->moved;
        int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        result = fd < 0 ? -1 : walk(tree, fd, 0);
    } while (result == 0 && tree->moved != before);
    return result;
}

int directory_remove(const char *path, off_t *ret_bytes, struct error *err)
{
    struct tree tree = {.remove = true};
    int result = walk_path(&tree, path);

    if (result < 0 || (result == 0 && rmdir(path) < 0 && errno != ENOENT))
        return error_errno(err, NULL, "removing %s", path);
    if (ret_bytes)
        *ret_bytes = tree.bytes;
    return 0;
}

off_t directory_bytes(const char *path)
{
    struct tree tree = {.remove = false};

    (void)walk_path(&tree, path);
    return tree.bytes;
}
