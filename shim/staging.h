/* Before anything runs: the shim's place on disk, and its fall to the bottle's own user.
 *
 * A bottle's user may not be able to reach what its jails are made of (a project under /root, a
 * state directory under a 0700 parent). As root, each such file is therefore bind-mounted, through
 * a descriptor, below /tmp of a mount namespace of the shim's own; the paths in the launch are
 * replaced, and nothing of it is seen or left on the host. */
#pragma once

#include "shim/spec.h"

/* Below the working directory: what the sidecars' jails see, read-only, as JAIL_CONFIG_DIR. Ours to
 * write. */
#define CONFIG_DIR "config"

/* Makes run_dir the working directory and opens the log directory (*ret_log_dir), creates net/,
 * proxy/ and config/, stages the paths where we are root, and drops to the bottle's user for good.
 */
int staging_enter(struct launch *launch, int *ret_log_dir, struct error *err);
