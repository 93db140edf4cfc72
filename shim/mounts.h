/* The host's directories that the bottle mounts, in the shim's hands.
 *
 * Each is opened by its allowed root and what follows it (backends/mounts.h), copied as a mount of
 * its own, and from then on the bottle's jails bind that copy: nobody can put another directory in
 * its place. The copy follows no link, honours no set-user-id bit and no device node, and is
 * read-only where the plan says so. What is mounted below the directory is not part of it.
 *
 * As root, with a user for each bottle, the copy is an idmapped mount: what belongs on the disk to
 * the directory's owner belongs to the bottle's user in the copy, and what the bottle's user makes
 * there belongs on the disk to the owner. Whatever belongs to others stays theirs. Nobody who
 * serves the directory needs a capability for that. As an ordinary user no owner has to be changed;
 * the copy is made in a user namespace between the shim and the jail, by
 *
 *   bottle-shim --mounted [ro|rw ROOT BELOW PATH]… -- PROGRAM ARGUMENT…
 *
 * which mounts at each PATH and becomes PROGRAM. */
#pragma once

#include "base/argv.h"
#include "shim/spec.h"

#define MOUNTED_FLAG "--mounted"

/* As root, in the mount namespace made for it, before anything is mounted in there: copies of all
 * the directories, as descriptors in ret (MOUNTS_MAX; -1: none). */
int mounts_copy(const struct launch *launch, int *ret, struct error *err);
/* Puts a copy in its place. */
int mounts_place(int copy, const char *path, struct error *err);
/* As an ordinary user: makes the directories that --mounted mounts on. */
int mounts_prepare(struct launch *launch, struct error *err);
/* Adds MOUNTED_FLAG with the mounts from `first` on, `count` of them, where there is need of it. */
void mounts_add(struct argv *argv, const struct launch *launch, size_t first, size_t count);
/* `argv` behind MOUNTED_FLAG. Comes back only on a fault, with words on stderr and the exit status.
 */
int mounts_enter(char **argv);
/* A listening Unix socket and one that is connected to it, without a name that is left. */
int mounts_sockets(const char *name, int *ret_listening, int *ret_connected, struct error *err);
