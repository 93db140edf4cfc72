/* Files and directories, with whole writes and no following of links that others could plant. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* Whole contents, NUL-terminated (the NUL is not counted), or NULL: missing, unreadable, or larger
 * than `limit` bytes. The caller frees. ret_length may be NULL. */
char *file_read(const char *path, size_t limit, size_t *ret_length, struct error *err);
/* The rest of an open file, which `name` stands for in errors. */
char *file_read_open(int fd, const char *name, size_t limit, size_t *ret_length, struct error *err);
/* Writes a temporary sibling and renames it over `path`, so that a reader sees all or nothing.
 * `durable` also syncs file and directory. */
int file_write(const char *path, const void *bytes, size_t length, mode_t mode, bool durable,
               struct error *err);
/* mkdir -p; existing directories keep their mode. */
int directory_make(const char *path, mode_t mode, struct error *err);
/* Removes a tree without following links or crossing mounts. Missing is fine. ret_bytes (may be
 * NULL) counts the bytes of the regular files removed. */
int directory_remove(const char *path, off_t *ret_bytes, struct error *err);
/* Bytes of the regular files below `path`, down to the 64th level; 0 when missing. */
off_t directory_bytes(const char *path);
/* Writes all of it, over interruptions and short writes; -1 with errno. */
int write_all(int fd, const void *bytes, size_t length);

enum { DESCRIPTORS_MAX = 8 };
/* One message of a Unix socket, without waiting, and up to `most` (DESCRIPTORS_MAX at most)
 * descriptors that came with it; any more are closed. The caller closes those that it gets. */
ssize_t receive_descriptors(int fd, void *bytes, size_t size, int *ret, size_t most,
                            size_t *ret_count);
