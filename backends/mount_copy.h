/* A directory of the host as a mount of its own, which hangs nowhere yet.
 *
 * The copy follows no link, honours no set-user-id bit and no device node, is read-only when asked
 * for, and holds nothing of what is mounted below the directory. With a user it is an idmapped
 * mount (mount_setattr(2)): what belongs on the disk to the directory's owner and group belongs to
 * that user in the copy, and the other way round; what belongs to others belongs to nobody there.
 * Not every file system can that. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

/* A descriptor of the copy, for move_mount(2); -1: kind "mount-refused". `uid` 0: owners stay as
 * they are. Needs CAP_SYS_ADMIN, in the first user namespace where owners are mapped. `name` is for
 * words. */
int mount_copy(int directory, const char *name, bool read_only, unsigned uid, unsigned gid,
               struct error *err);
/* Writes one line of /proc/PID/NAME ("uid_map" or "gid_map"): one number for one. -1 with errno. */
int mount_put_map(pid_t pid, const char *name, unsigned inside, unsigned outside);
