/* The bottle's root: the image's read-only erofs under a writable layer in memory or on the
 * bottle's disk, and the file systems and files that a command expects to find. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/* Where there is one, an ext4 file system that the host made. */
#define ROOT_DISK "/dev/vdb"

/* Mounts the image of /dev/vda, makes it this process's root and mounts /proc, /sys, /dev and the
 * like in it. Afterwards every path, also one that goes over a link of the image, ends inside it.
 */
int root_enter(struct error *err);
/* Writes /etc/hosts, /etc/hostname and /etc/resolv.conf, in place of what the image has there. */
int root_files(const char *hostname, const char *address, const char *gateway, struct error *err);
/* What the bottle writes to, once root_enter() has made it: a descriptor that only names it (-1:
 * none), and whether that is its disk. */
int root_writable(bool *ret_disk);
/* mkdir -p for an absolute path; 0, or -1 with errno. */
int root_make_directory(const char *path);

struct start_message; /* guest/protocol.h */
/* Mounts the host's directories where they are wanted, in the root that was entered: a link of the
 * image leads nowhere else. */
int root_mount_shared(const struct start_message *start, struct error *err);
