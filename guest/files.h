/* Copies of files between the host and the bottle: an EXEC with EXEC_FILES, whose "program" is this
 * code in a child of bottle-init, as root. Windows, bounds and ends are those of any exec.
 *
 *   arguments                   stdin           stdout
 *   get PATH                                    "file SIZE MODE UID GID MTIME\n", then its bytes
 *   put PATH MODE OWNER         its bytes       nothing
 *   pack PATH                                   "archive\n", then a tar stream of what is in it
 *   unpack PATH OWNER           a tar stream    "unpacked ENTRIES BYTES LEFT_OUT\n"
 *
 * SIZE is "-" where the file system does not know it. MODE is octal, "" as it was or else 0644.
 * OWNER is "UID:GID", "" as it was or else the command's user, and of an archive's entries "keep"
 * as the archive has it. The exit code is an outcome; unless it is FILES_DONE there are words on
 * stderr. Input without an end changes nothing: whoever leaves earlier says so by a SIGTERM.
 *
 * A path is absolute, without "." and ".." (files_path_fits). No link on it is followed; within an
 * archive links are, as long as they stay below PATH. What an archive holds or asks for that is
 * neither a file, a folder, a link nor a FIFO is left out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/error.h"

enum files_outcome {
    FILES_DONE = 0,
    FILES_MISSING = 1,     /* there is no such path */
    FILES_REFUSED = 2,     /* what is there is of another kind, or may not be changed */
    FILES_FULL = 3,        /* no room */
    FILES_BAD_ARCHIVE = 4, /* the tar stream is none, or asks for what is not done */
    FILES_FAILED = 5,
};

enum { FILES_PATH_MAX = 4095, FILES_NAME_MAX = 255, FILES_BLOCK = 64 * 1024 };
enum { FILES_OWNER_END = 2000000000 }; /* numbers of users and groups are below it */

struct files_owner {
    uid_t uid;
    gid_t gid;
    bool wanted; /* by who asks for the copy */
};

/* Does what the arguments say, between descriptors 0, 1 and 2 (words); the outcome. `user`: whose
 * what is new becomes. */
enum files_outcome files_main(char *const *args, const struct files_owner *user);
/* The same below the folder `root` in place of "/". */
enum files_outcome files_copy(int root, char *const *args, const struct files_owner *user);
bool files_path_fits(const char *path);
/* "UID:GID", both of at most ten digits and below FILES_OWNER_END, or "" for the fallback. False:
 * neither. */
bool files_owner_parse(const char *text, const struct files_owner *fallback,
                       struct files_owner *ret);

/* ── between files.c, pack.c and unpack.c ── */

/* Says the words, and for errno what it means where `outcome` is FILES_FAILED; the outcome. */
enum files_outcome files_say(enum files_outcome outcome, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
enum files_outcome files_say_errno(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Reads until the buffer is full or at the end; -1 with errno. */
ssize_t files_read_full(int fd, void *buffer, size_t size);
/* A folder by its path, O_PATH; what is missing is made for `make` (NULL: nothing is). -1: the
 * outcome was said. */
int files_open_folder(int root, const char *path, const struct files_owner *make,
                      enum files_outcome *ret);
/* Gives it to its owner; -1 with errno. Where nobody asked for that one, a file system that has
 * owners of its own (a mount of the host's) may keep to them. */
int files_own(int fd, const struct files_owner *owner);
/* The same of what was just made there. Whoever may write to the folder may have put something else
 * in its place: what is of another kind is left, and that is EPERM. `kind`: S_IFDIR, S_IFLNK, … */
int files_own_new(int folder, const char *name, mode_t kind, const struct files_owner *owner);
/* Whether it is on one of the kernel's own file systems, like /proc. */
bool files_made_up(int fd);
/* What a kind of file is called: "a folder", "a link", … */
const char *files_kind(mode_t mode);

enum files_outcome archive_pack(int root, const char *path);
enum files_outcome archive_unpack(int root, const char *path, const char *owner,
                                  const struct files_owner *user);

/* A file on its way: written beside its place, and renamed into it when it is whole. A SIGTERM
 * removes it. */
struct files_place {
    int folder, fd;
    char name[FILES_NAME_MAX + 1], beside[32];
};

/* 0, or -1 with errno. */
int place_begin(struct files_place *place, int folder, const char *name);
/* Gives it owner, mode and time (NULL: now), and puts it in its place. `sync`: on the disk before
 * that. 0, or -1 with errno and nothing changed. */
int place_finish(struct files_place *place, const struct files_owner *owner, mode_t mode,
                 const struct timespec *modified, bool sync);
void place_abandon(struct files_place *place);
/* From now on a SIGTERM removes what is on its way and ends the process. */
void place_guard(void);
