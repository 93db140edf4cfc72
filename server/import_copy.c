/* The importer's input and output on bottled's side: what the client named is copied into the work
 * folder (so that the programs in the jail, and their user, need no way to it), and what they leave
 * is read. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "base/util.h"
#include "server/import_internal.h"

enum { CHUNK = 1 << 20, INDEX_MAX = 4096 };

/* --- Out of the work folder ------------------------------------------------------------------- */

int import_open(const struct work *work, const char *path, struct error *err)
{
    CLEANUP_CLOSE int at = fcntl(work->fd, F_DUPFD_CLOEXEC, 3);
    struct stat status;
    char name[256];

    for (const char *part = path; at >= 0 && *part;) {
        size_t length = strcspn(part, "/");
        bool last = part[length] == '\0';
        (void)snprintf(name, sizeof name, "%.*s", (int)length, part);
        int next = openat(
            at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (last ? 0 : O_DIRECTORY));
        if (next < 0)
            return error_errno(err, "image-refused", "%s", path);
        (void)close(at);
        at = next;
        part += length + !last;
    }
    if (at < 0 || fstat(at, &status) < 0 || !S_ISREG(status.st_mode) || status.st_nlink != 1)
        return error_set(err, "image-refused", "%s is no plain file", path);
    return steal_fd(&at);
}

char *import_read(const struct work *work, const char *path, size_t limit, size_t *ret_length,
                  struct error *err)
{
    CLEANUP_CLOSE int fd = import_open(work, path, err);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0)
        return NULL;
    if (status.st_size > (off_t)limit) {
        error_set(err, "image-refused", "%s is larger than %zu bytes", path, limit);
        return NULL;
    }
    return file_read_open(fd, path, limit, ret_length, err);
}

/* --- Into it ---------------------------------------------------------------------------------- */

struct copy {
    const struct work *work;
    int64_t bytes, files;
};

/* Whether the limits still hold, with so much more. */
static int count(struct copy *copy, int64_t bytes, struct error *err)
{
    const struct import *import = copy->work->import;

    copy->bytes += bytes;
    import->progress(import->context, "reading", copy->bytes, copy->files);
    if (copy->bytes > import->config->image_max_bytes)
        return error_set(err, "image-refused",
                         "it is larger than an image may be here (image_max_bytes is %lld)",
                         (long long)import->config->image_max_bytes);
    if (copy->files > import->config->image_max_files)
        return error_set(err, "image-refused",
                         "it has more files than an image may have here (image_max_files is %lld)",
                         (long long)import->config->image_max_files);
    if (atomic_load(import->cancelled))
        return error_set(err, "shutting-down", "bottled is ending: import the image again later");
    if (clock_monotonic_ms() >= copy->work->until_ms)
        return error_set(err, "image-refused", "copying it took longer than image_timeout");
    return 0;
}

static int copy_bytes(struct copy *copy, int from, int to, const char *name, struct error *err)
{
    CLEANUP_FREE char *chunk = NULL;
    bool kernel = true;

    for (;;) {
        ssize_t got = kernel ? copy_file_range(from, NULL, to, NULL, CHUNK, 0) : -1;
        if (kernel && got < 0 && errno != EINTR) {
            kernel = false; /* from another file system, or a kernel that can't */
            if (!(chunk = malloc(CHUNK)))
                return error_set(err, NULL, "out of memory");
        }
        if (!kernel) {
            got = read(from, chunk, CHUNK);
            if (got > 0 && write_all(to, chunk, (size_t)got) < 0)
                return error_errno(err, "stage-unwritable", "copying %s", name);
        }
        if (got < 0 && errno != EINTR)
            return error_errno(err, "image-refused", "reading %s", name);
        if (got == 0)
            return 0;
        if (got > 0 && count(copy, got, err) < 0)
            return -1;
    }
}

/* One plain file, from the open `from`. */
static int copy_file(struct copy *copy, int from, int folder, const char *name, struct error *err)
{
    struct stat status;

    copy->files++;
    if (fstat(from, &status) < 0 || !S_ISREG(status.st_mode))
        return error_set(err, "image-refused", "%s is no plain file", name);
    CLEANUP_CLOSE int to =
        openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (to < 0 || fchmod(to, 0644) < 0)
        return error_errno(err, "stage-unwritable", "copying %s", name);
    return copy_bytes(copy, from, to, name, err);
}

static int copy_named(struct copy *copy, int from, int to, const char *name, struct error *err)
{
    CLEANUP_CLOSE int fd = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return error_errno(err, "image-refused", "%s of the OCI layout", name);
    return copy_file(copy, fd, to, name, err);
}

static int make_folder(const struct work *work, int parent, const char *name, struct error *err)
{
    if (mkdirat(parent, name, 0755) < 0)
        return error_errno(err, "stage-unwritable", "making %s", name);
    CLEANUP_CLOSE int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fchmod(fd, 0755) < 0 || (work->uid && fchown(fd, work->uid, work->uid) < 0))
        return error_errno(err, "stage-unwritable", "making %s", name);
    return steal_fd(&fd);
}

/* blobs/ALGORITHM/DIGEST */
static int copy_blobs(struct copy *copy, int from, int to, struct error *err)
{
    CLEANUP_CLOSE int blobs = make_folder(copy->work, to, "blobs", err);
    CLEANUP_CLOSE int out = blobs < 0 ? -1 : make_folder(copy->work, blobs, "sha256", err);
    CLEANUP_CLOSE int outer =
        openat(from, "blobs", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    int in =
        outer < 0 ? -1 : openat(outer, "sha256", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *directory = in < 0 ? NULL : fdopendir(in);
    int result = out < 0 ? -1 : 0;

    if (!directory) {
        if (in >= 0)
            (void)close(in);
        return out < 0 ? -1 : error_errno(err, "image-refused", "blobs/sha256 of the OCI layout");
    }
    for (struct dirent *entry; result == 0 && (entry = readdir(directory));)
        if (entry->d_name[0] != '.')
            result = copy_named(copy, dirfd(directory), out, entry->d_name, err);
    (void)closedir(directory);
    return result;
}

static int copy_layout(struct copy *copy, int from, struct error *err)
{
    CLEANUP_CLOSE int to = make_folder(copy->work, copy->work->fd, "in", err);

    if (to < 0)
        return -1;
    if (copy_named(copy, from, to, "oci-layout", err) < 0)
        return error_wrap(err, "it is no OCI layout");
    return copy_named(copy, from, to, "index.json", err) < 0 ? -1 : copy_blobs(copy, from, to, err);
}

int import_copy_input(const struct work *work, bool *ret_archive, struct error *err)
{
    struct copy copy = {.work = work};
    const char *path = work->reference.path;
    char itself[32];
    struct stat status;
    CLEANUP_CLOSE int found = open(path, O_PATH | O_CLOEXEC);

    work->import->progress(work->import->context, "reading", 0, 0);
    if (found < 0 || fstat(found, &status) < 0)
        return error_errno(err, "image-refused", "%s", path);
    /* Opening a device may do something, or a pipe. */
    if (!S_ISDIR(status.st_mode) && !S_ISREG(status.st_mode))
        return error_set(err, "image-refused", "%s is neither a file nor a directory", path);
    (void)snprintf(itself, sizeof itself, "/proc/self/fd/%d", found);
    CLEANUP_CLOSE int from = open(itself, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return error_errno(err, "image-refused", "%s", path);
    *ret_archive = !S_ISDIR(status.st_mode);
    return *ret_archive ? copy_file(&copy, from, work->fd, "in.tar", err)
                        : copy_layout(&copy, from, err);
}
