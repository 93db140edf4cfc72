/* A tar stream into a folder, with libarchive.
 *
 * What an archive asks for is done below the folder that was named, whatever its names and links
 * say (openat2, RESOLVE_BENEATH). A file takes its place when it is whole; what was unpacked before
 * a fault stays. Folders that are there keep owner and mode. */
#include "guest/files.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/util.h"

enum { NEW_FOLDER_MODE = 0755, MODE_KEPT = 07777, MODE_PLAIN = 0777 };

struct unpack {
    struct archive *reader;
    struct archive_entry *entry;
    int target;
    bool keeps; /* owners and setuid bits as the archive has them */
    struct files_owner owner;
    char path[FILES_PATH_MAX + 1]; /* of the entry, below the target */
    unsigned long long entries, bytes, left_out;
};

/* A path of the archive as one below the target: without "/" at its begin, "." and doubled slashes.
 * False: it is too long, or has "..". */
static bool clean_path(const char *sent, char ret[FILES_PATH_MAX + 1])
{
    size_t length = 0;

    for (const char *at = sent; *at;) {
        size_t part = strcspn(at, "/");
        if (part > FILES_NAME_MAX || (part == 2 && strncmp(at, "..", 2) == 0) ||
            length + 1 + part > FILES_PATH_MAX)
            return false;
        if (part > 0 && !(part == 1 && *at == '.')) {
            if (length)
                ret[length++] = '/';
            memcpy(ret + length, at, part);
            length += part;
        }
        at += part;
        at += *at == '/';
    }
    ret[length] = '\0';
    return true;
}

static int open_below(int target, const char *path, int flags)
{
    const struct open_how how = {.flags = (uint64_t)flags | O_CLOEXEC,
                                 .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};

    return (int)syscall(SYS_openat2, target, path[0] ? path : ".", &how, sizeof how);
}

static struct files_owner owner_of(const struct unpack *unpack)
{
    if (!unpack->keeps)
        return unpack->owner;
    return (struct files_owner){.uid = (uid_t)archive_entry_uid(unpack->entry),
                                .gid = (gid_t)archive_entry_gid(unpack->entry),
                                .wanted = true};
}

static mode_t mode_of(const struct unpack *unpack)
{
    return archive_entry_perm(unpack->entry) & (unpack->keeps ? MODE_KEPT : MODE_PLAIN);
}

/* A folder that the archive does not name itself is the owner's that all get, or root's. */
static int make_missing(const struct unpack *unpack, int folder, const char *name)
{
    if (mkdirat(folder, name, NEW_FOLDER_MODE) < 0)
        return errno == EEXIST ? 0 : -1;
    return unpack->keeps ? 0 : files_own_new(folder, name, S_IFDIR, &unpack->owner);
}

/* The folder of that path, made with those above it where it is missing; -1 with errno. */
static int open_made(const struct unpack *unpack, const char *path)
{
    const int flags = O_PATH | O_DIRECTORY;
    char part[FILES_PATH_MAX + 1];
    int folder = open_below(unpack->target, path, flags);

    if (folder >= 0 || errno != ENOENT)
        return folder;
    folder = open_below(unpack->target, ".", flags);
    for (const char *at = path; folder >= 0 && *at;) {
        size_t length = strcspn(at, "/");
        const char *end = at + length;
        (void)snprintf(part, sizeof part, "%.*s", (int)(end - path), path);
        int next = open_below(unpack->target, part, flags);
        if (next < 0 && errno == ENOENT && make_missing(unpack, folder, part + (at - path)) == 0)
            next = open_below(unpack->target, part, flags);
        int error = errno;
        (void)close(folder);
        errno = error;
        folder = next;
        at = end + (*end == '/');
    }
    return folder;
}

/* The folder that a path's last part is in. */
static int open_parent(const struct unpack *unpack, const char *path, const char **ret_name)
{
    char parent[FILES_PATH_MAX + 1] = "";
    const char *slash = strrchr(path, '/');

    if (slash)
        (void)snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
    *ret_name = slash ? slash + 1 : path;
    return open_made(unpack, parent);
}

/* Words for errno. */
static enum files_outcome say_fault(const struct unpack *unpack)
{
    if (errno == EXDEV || errno == ELOOP)
        return files_say(FILES_REFUSED,
                         "%s: a link on its way leads out of the folder that was named",
                         unpack->path);
    return files_say_errno("%s", unpack->path);
}

static enum files_outcome say_reader(struct unpack *unpack, const char *where)
{
    const char *words = archive_error_string(unpack->reader);

    return files_say(FILES_BAD_ARCHIVE, "%s: %s%s", where, words ? words : "it is broken",
                     where[0] == '/' ? " (a plain tar stream is taken)" : "");
}

/* ── kinds of entries ── */

static enum files_outcome make_folder(struct unpack *unpack, int folder, const char *name)
{
    struct files_owner owner = owner_of(unpack);

    if (mkdirat(folder, name, 0700) < 0) {
        CLEANUP_CLOSE int there =
            errno == EEXIST ? open_below(unpack->target, unpack->path, O_PATH | O_DIRECTORY) : -1;
        return there < 0 ? say_fault(unpack) : FILES_DONE; /* and stays as it is */
    }
    CLEANUP_CLOSE int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    /* The mode comes last: a new owner takes setgid away. */
    if (fd < 0 || files_own_new(folder, name, S_IFDIR, &owner) < 0 ||
        fchmod(fd, mode_of(unpack)) < 0)
        return say_fault(unpack);
    return FILES_DONE;
}

/* Its bytes, with the holes that the archive tells of. */
static enum files_outcome fill_file(struct unpack *unpack, int fd)
{
    const void *bytes;
    size_t length;
    la_int64_t at;

    for (int result;
         (result = archive_read_data_block(unpack->reader, &bytes, &length, &at)) != ARCHIVE_EOF;) {
        if (result < ARCHIVE_WARN)
            return say_reader(unpack, unpack->path);
        for (size_t done = 0; done < length;) {
            ssize_t put = pwrite(fd, (const char *)bytes + done, length - done, at + (off_t)done);
            if (put < 0 && errno != EINTR)
                return say_fault(unpack);
            done += put > 0 ? (size_t)put : 0;
        }
        unpack->bytes += length;
    }
    return ftruncate(fd, archive_entry_size(unpack->entry)) < 0 ? say_fault(unpack) : FILES_DONE;
}

static enum files_outcome make_file(struct unpack *unpack, int folder, const char *name)
{
    const struct timespec modified = {.tv_sec = archive_entry_mtime(unpack->entry),
                                      .tv_nsec = archive_entry_mtime_nsec(unpack->entry)};
    struct files_owner owner = owner_of(unpack);
    struct files_place place;

    if (place_begin(&place, folder, name) < 0)
        return say_fault(unpack);
    enum files_outcome outcome = fill_file(unpack, place.fd);
    if (outcome != FILES_DONE)
        place_abandon(&place);
    else if (place_finish(&place, &owner, mode_of(unpack), &modified, false) < 0)
        return say_fault(unpack);
    return outcome;
}

/* What is no file with bytes takes the place of another at once. */
static int clear_place(int folder, const char *name)
{
    return unlinkat(folder, name, 0) < 0 && errno != ENOENT ? -1 : 0;
}

static enum files_outcome make_link(struct unpack *unpack, int folder, const char *name)
{
    struct files_owner owner = owner_of(unpack);
    const char *target = archive_entry_symlink(unpack->entry);

    if (!target || clear_place(folder, name) < 0 || symlinkat(target, folder, name) < 0 ||
        files_own_new(folder, name, S_IFLNK, &owner) < 0)
        return say_fault(unpack);
    return FILES_DONE;
}

static enum files_outcome make_fifo(struct unpack *unpack, int folder, const char *name)
{
    struct files_owner owner = owner_of(unpack);

    if (clear_place(folder, name) < 0 || mkfifoat(folder, name, mode_of(unpack) & 0777) < 0 ||
        files_own_new(folder, name, S_IFIFO, &owner) < 0)
        return say_fault(unpack);
    return FILES_DONE;
}

static enum files_outcome make_hard_link(struct unpack *unpack, int folder, const char *name)
{
    char path[FILES_PATH_MAX + 1];
    const char *target;

    if (!clean_path(archive_entry_hardlink(unpack->entry), path))
        return files_say(FILES_BAD_ARCHIVE, "%s: its target is no path below the folder",
                         unpack->path);
    if (strcmp(path, unpack->path) == 0)
        return FILES_DONE; /* to itself */
    const char *slash = strrchr(path, '/');
    char parent[FILES_PATH_MAX + 1] = "";
    if (slash)
        (void)snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
    target = slash ? slash + 1 : path;
    CLEANUP_CLOSE int from = open_below(unpack->target, parent, O_PATH | O_DIRECTORY);
    if (from < 0 || faccessat(from, target, F_OK, AT_SYMLINK_NOFOLLOW) < 0 ||
        clear_place(folder, name) < 0 || linkat(from, target, folder, name, 0) < 0)
        return say_fault(unpack);
    return FILES_DONE;
}

static const struct {
    mode_t type;
    enum files_outcome (*make)(struct unpack *unpack, int folder, const char *name);
} kinds[] = {
    {AE_IFREG, make_file},
    {AE_IFDIR, make_folder},
    {AE_IFLNK, make_link},
    {AE_IFIFO, make_fifo},
};

/* ── all of it ── */

static enum files_outcome unpack_entry(struct unpack *unpack)
{
    const char *sent = archive_entry_pathname(unpack->entry), *name;
    enum files_outcome (*make)(struct unpack * unpack, int folder, const char *name) = NULL;

    if (!sent || !clean_path(sent, unpack->path))
        return files_say(FILES_BAD_ARCHIVE, "%.300s: no path below the folder", sent ? sent : "?");
    if (!unpack->path[0])
        return FILES_DONE; /* the folder itself, which is there */
    if (archive_entry_hardlink(unpack->entry))
        make = make_hard_link;
    for (size_t i = 0; !make && i < COUNT_OF(kinds); i++)
        if (archive_entry_filetype(unpack->entry) == kinds[i].type)
            make = kinds[i].make;
    if (!make) {
        unpack->left_out++;
        return FILES_DONE;
    }
    CLEANUP_CLOSE int folder = open_parent(unpack, unpack->path, &name);
    unpack->entries++;
    return folder < 0 ? say_fault(unpack) : make(unpack, folder, name);
}

static enum files_outcome unpack_all(struct unpack *unpack, const char *path)
{
    enum files_outcome outcome = FILES_DONE;
    int result;

    while (outcome == FILES_DONE &&
           (result = archive_read_next_header(unpack->reader, &unpack->entry)) != ARCHIVE_EOF)
        outcome = result < ARCHIVE_WARN ? say_reader(unpack, path) : unpack_entry(unpack);
    return outcome;
}

/* The rest of the input; then what was unpacked is put on the disk. */
static enum files_outcome finish(const struct unpack *unpack, const char *path)
{
    static char rest[FILES_BLOCK];
    char words[96];
    CLEANUP_CLOSE int fd = openat(unpack->target, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ssize_t got;

    do
        got = files_read_full(STDIN_FILENO, rest, sizeof rest);
    while (got > 0);
    if (got < 0 || fd < 0 || syncfs(fd) < 0)
        return files_say_errno("%s", path);
    int length = snprintf(words, sizeof words, "unpacked %llu %llu %llu\n", unpack->entries,
                          unpack->bytes, unpack->left_out);
    return write_all(STDOUT_FILENO, words, (size_t)length) < 0 ? FILES_FAILED : FILES_DONE;
}

enum files_outcome archive_unpack(int root, const char *path, const char *owner,
                                  const struct files_owner *user)
{
    struct unpack unpack = {.keeps = strcmp(owner, "keep") == 0};
    enum files_outcome outcome = FILES_FAILED;
    CLEANUP_CLOSE int target = -1;

    if (!unpack.keeps && !files_owner_parse(owner, user, &unpack.owner))
        return files_say(FILES_FAILED, "the owner is none");
    target = unpack.target = files_open_folder(root, path, user, &outcome);
    if (target < 0)
        return outcome;
    unpack.reader = archive_read_new();
    if (!unpack.reader || archive_read_support_format_tar(unpack.reader) != ARCHIVE_OK)
        outcome = files_say(FILES_FAILED, "the guest's memory is short");
    else if (archive_read_open_fd(unpack.reader, STDIN_FILENO, FILES_BLOCK) != ARCHIVE_OK)
        outcome = say_reader(&unpack, path);
    else
        outcome = unpack_all(&unpack, path);
    if (outcome == FILES_DONE)
        outcome = finish(&unpack, path);
    (void)archive_read_free(unpack.reader);
    return outcome;
}
