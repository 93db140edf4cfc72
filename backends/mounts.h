/* The host's directories that a plan mounts: whether the operator allows them, and finding them so
 * that what is held is what was checked.
 *
 * A source has to lie below one of the config key mount_roots. From that root on it is looked up by
 * one openat2(2) with RESOLVE_BENEATH: a link, or a "..", that would leave the root is refused by
 * the kernel, also one that somebody puts there at that very moment. What is opened is kept open:
 * whatever becomes of the path later, the bottle has that directory and no other. */
#pragma once

#include <limits.h>

#include "backends/backend.h"
#include "base/error.h"

/* The longest root that `source` lies in, and what follows it, without a '/' at its begin ("" for
 * the root itself). -1 when there is none. */
int mount_root(const char *roots, const char *source, char ret_root[PATH_MAX],
               const char **ret_below);
/* Opens that directory (O_PATH). -1: kind "mount-refused", words that say what is the matter. */
int mount_open(const char *root, const char *below, struct error *err);
/* Looks at all sources of a spec now: each is allowed, there, and does not hold bottled's own state
 * or lie in it. Adds a fault for each that is not, with its pointer. */
void mounts_check(const struct host *host, const struct spec *spec, struct problem *problem);
/* The same for a start: the first that can't be had, as an error of kind "mount-refused". */
int mounts_recheck(const struct host *host, const struct spec *spec, struct error *err);
/* Rows of a preflight, where the plan has mounts. */
void preflight_mounts(struct preflight *preflight, const struct host *host,
                      const struct spec *spec);
/* "mounts" of a launch spec (shim/spec.h), in the order of the plan. Caller owns. */
json_t *mounts_encode(const struct host *host, const struct plan *plan, struct error *err);
/* "fs" of a launch spec's "vm", for a backend whose machine needs a program that serves them. */
json_t *mounts_server_encode(const struct host *host, struct error *err);
