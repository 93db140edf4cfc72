/* A bottle's directories: the stage directory (its rendered files, and its logs once it was
 * started, as long as the bottle lives) and the run directory (sockets, as long as it runs).
 *
 * Stage files are derived from the plan, so they are not synced: stage_ensure() makes missing and
 * different ones anew before each start. Owners: as root the stage directory and its files are
 * root:<bottle's gid>, so that the bottle's user reads and never changes them; logs/ and the run
 * directory are the bottle's user's own. As an ordinary user (`uid` 0) everything is ours. */
#pragma once

#include "backends/backend.h"
#include "base/error.h"

/* The user that a bottle runs as; 0: our own. */
unsigned stage_uid(const struct host *host, const struct allocation *allocation);
/* <state_dir>/bottles/<slug> and <run_dir>/b/<id>, without a plan. Callers free. NULL: no memory.
 */
char *stage_path(const struct host *host, const char *slug);
char *run_path(const struct host *host, const char *slug);
/* The directories above them, at the daemon's start. */
int stage_parents(const struct host *host, struct error *err);

/* What stage_write() puts before the name of what lay in its way. No slug begins so. */
#define STAGE_ASIDE ".left-"
/* Whether a stage directory holds what bottled puts there and nothing else; *ret_half_made: and
 * nothing that a bottle wrote. Takes fd. */
bool stage_is_ours(int fd, bool *ret_half_made);

/* Makes the directory with its rendered files; of one that fails nothing stays, and one that dies
 * half-way is taken away at the next start (orphans_settle()), since no row owns it. What
 * lay there and no bottle owns is moved aside, which the log tells; POST /cleanup removes it later,
 * if all of it is what bottled puts into such a directory. Fails with kind "stage-unwritable". */
int stage_write(const struct plan *plan, unsigned uid, struct error *err);
/* Makes whatever is missing or different, and logs/, which a bottle has from its first start on. */
int stage_ensure(const struct plan *plan, unsigned uid, struct error *err);
/* A fresh run directory with net/ and proxy/ in it; what lay there is removed. */
int run_make(const struct plan *plan, unsigned uid, struct error *err);
/* <stage_dir>/logs/<name>, opened for appending without following what the bottle's user may have
 * put there; -1: not possible. */
int stage_open_log(const struct plan *plan, const char *name, unsigned uid);
