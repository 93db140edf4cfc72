/* A folder as a tar stream, with libarchive, of which only that much is linked.
 *
 * A stream is never whole when something is amiss: a file that shrinks under the reader ends it
 * without its end. Links are packed, never followed; a hard link is a file once more. */
#include "guest/files.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "base/util.h"

enum { DEPTH_MAX = 200 };

/* libarchive asks for the locale's character set to convert names. In the bottle names are bytes,
 * and the C library's own converters would be looked for in the image. */
char *nl_langinfo(nl_item item)
{
    static char utf8[] = "UTF-8", nothing[] = "";

    return item == CODESET ? utf8 : nothing;
}

/* ── pack ── */

struct pack {
    struct archive *writer;
    struct archive_entry *entry;
    struct text name;
    unsigned depth;
    char block[FILES_BLOCK];
};

static enum files_outcome say_archive(struct archive *archive, enum files_outcome outcome,
                                      const char *name)
{
    const char *words = archive_error_string(archive);

    return files_say(outcome, "%s: %s", name, words ? words : "no words for it");
}

static enum files_outcome put_entry(struct pack *pack, const struct stat *status, off_t size,
                                    const char *target)
{
    struct archive_entry *entry = archive_entry_clear(pack->entry);

    archive_entry_set_pathname(entry, pack->name.data);
    archive_entry_set_filetype(entry, status->st_mode & S_IFMT);
    archive_entry_set_perm(entry, status->st_mode & 07777);
    archive_entry_set_uid(entry, status->st_uid);
    archive_entry_set_gid(entry, status->st_gid);
    archive_entry_set_mtime(entry, status->st_mtim.tv_sec, status->st_mtim.tv_nsec);
    archive_entry_set_size(entry, size);
    if (target)
        archive_entry_set_symlink(entry, target);
    return archive_write_header(pack->writer, entry) < ARCHIVE_WARN
               ? say_archive(pack->writer, FILES_FAILED, pack->name.data)
               : FILES_DONE;
}

static enum files_outcome put_bytes(struct pack *pack, size_t length)
{
    return archive_write_data(pack->writer, pack->block, length) != (la_ssize_t)length
               ? say_archive(pack->writer, FILES_FAILED, pack->name.data)
               : FILES_DONE;
}

/* As in get: what fits one block has the size that was read. */
static enum files_outcome pack_file(struct pack *pack, int fd, const struct stat *status)
{
    ssize_t got = files_read_full(fd, pack->block, sizeof pack->block);

    if (got < 0)
        return files_say_errno("reading %s", pack->name.data);
    bool small = got < (ssize_t)sizeof pack->block;
    if (!small && status->st_size < got)
        return files_say(FILES_FAILED, "%s has no size", pack->name.data);
    off_t left = small ? got : status->st_size;
    enum files_outcome outcome = put_entry(pack, status, left, NULL);
    while (outcome == FILES_DONE && left > 0) {
        outcome = put_bytes(pack, (size_t)got);
        left -= got;
        if (outcome != FILES_DONE || left == 0)
            break;
        size_t wanted = left < (off_t)sizeof pack->block ? (size_t)left : sizeof pack->block;
        got = read(fd, pack->block, wanted);
        if (got <= 0)
            return got < 0 ? files_say_errno("reading %s", pack->name.data)
                           : files_say(FILES_FAILED, "%s became shorter while it was read",
                                       pack->name.data);
    }
    return outcome;
}

static enum files_outcome pack_folder(struct pack *pack, int fd);

/* Opened again by descriptor, so that it is what was looked at. 1: it has gone or become another
 * kind meanwhile. */
static int open_again(int folder, const char *name, const struct stat *status, int *ret)
{
    struct stat opened;
    int fd = openat(folder, name,
                    O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC |
                        (S_ISDIR(status->st_mode) ? O_DIRECTORY : 0));

    if (fd < 0)
        return errno == ENOENT || errno == ELOOP || errno == ENOTDIR ? 1 : -1;
    if (fstat(fd, &opened) < 0 || (opened.st_mode & S_IFMT) != (status->st_mode & S_IFMT)) {
        (void)close(fd);
        return 1;
    }
    *ret = fd;
    return 0;
}

static enum files_outcome pack_opened(struct pack *pack, int folder, const char *name,
                                      const struct stat *status)
{
    CLEANUP_CLOSE int fd = -1;
    int result = open_again(folder, name, status, &fd);

    if (result != 0)
        return result < 0 ? files_say_errno("%s", pack->name.data) : FILES_DONE;
    if (S_ISREG(status->st_mode))
        return pack_file(pack, fd, status);
    enum files_outcome outcome = put_entry(pack, status, 0, NULL);
    if (outcome != FILES_DONE || files_made_up(fd))
        return outcome;
    return pack_folder(pack, fd);
}

static enum files_outcome pack_one(struct pack *pack, int folder, const char *name)
{
    char target[FILES_PATH_MAX + 1];
    struct stat status;

    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? FILES_DONE : files_say_errno("%s", pack->name.data);
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))
        return pack_opened(pack, folder, name, &status);
    if (S_ISFIFO(status.st_mode))
        return put_entry(pack, &status, 0, NULL);
    if (!S_ISLNK(status.st_mode))
        return FILES_DONE;
    ssize_t length = readlinkat(folder, name, target, sizeof target - 1);
    if (length < 0)
        return errno == ENOENT || errno == EINVAL ? FILES_DONE
                                                  : files_say_errno("%s", pack->name.data);
    target[length] = '\0';
    return put_entry(pack, &status, 0, target);
}

static enum files_outcome pack_folder(struct pack *pack, int fd)
{
    size_t length = pack->name.length;
    enum files_outcome outcome = FILES_DONE;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    DIR *entries = own < 0 ? NULL : fdopendir(own);

    if (!entries || ++pack->depth > DEPTH_MAX) {
        outcome = entries ? files_say(FILES_FAILED, "more than %d folders deep", DEPTH_MAX)
                          : files_say_errno("%s", length ? pack->name.data : "the folder");
        if (entries)
            (void)closedir(entries);
        else if (own >= 0)
            (void)close(own);
        return outcome;
    }
    for (struct dirent *at; outcome == FILES_DONE && (at = readdir(entries));) {
        if (strcmp(at->d_name, ".") == 0 || strcmp(at->d_name, "..") == 0)
            continue;
        text_addf(&pack->name, "%s%s", length ? "/" : "", at->d_name);
        outcome = pack->name.failed ? files_say(FILES_FAILED, "the guest's memory is short")
                                    : pack_one(pack, fd, at->d_name);
        if (pack->name.data) {
            pack->name.length = length;
            pack->name.data[length] = '\0';
        }
    }
    pack->depth--;
    (void)closedir(entries);
    return outcome;
}

enum files_outcome archive_pack(int root, const char *path)
{
    static struct pack pack;
    enum files_outcome outcome = FILES_FAILED;
    CLEANUP_CLOSE int named = files_open_folder(root, path, NULL, &outcome);
    CLEANUP_CLOSE int fd = named < 0 ? -1 : openat(named, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return named < 0 ? outcome : files_say_errno("%s", path);
    if (files_made_up(fd))
        return files_say(FILES_REFUSED, "%s is made up by the kernel: take its files one by one",
                         path);
    pack.writer = archive_write_new();
    pack.entry = archive_entry_new();
    if (!pack.writer || !pack.entry)
        outcome = files_say(FILES_FAILED, "the guest's memory is short");
    else if (write_all(STDOUT_FILENO, "archive\n", 8) < 0 ||
             archive_write_set_format_gnutar(pack.writer) != ARCHIVE_OK ||
             archive_write_set_bytes_per_block(pack.writer, FILES_BLOCK) != ARCHIVE_OK ||
             archive_write_set_bytes_in_last_block(pack.writer, 512) != ARCHIVE_OK ||
             archive_write_open_fd(pack.writer, STDOUT_FILENO) != ARCHIVE_OK)
        outcome = files_say(FILES_FAILED, "the archive could not be begun");
    else
        outcome = pack_folder(&pack, fd);
    /* Its end is written only where all of it is there. */
    if (outcome == FILES_DONE && archive_write_close(pack.writer) != ARCHIVE_OK)
        outcome = say_archive(pack.writer, FILES_FAILED, path);
    else if (outcome != FILES_DONE && pack.writer)
        (void)archive_write_fail(pack.writer);
    (void)archive_write_free(pack.writer);
    archive_entry_free(pack.entry);
    text_free(&pack.name);
    pack = (struct pack){0};
    return outcome;
}
