/* A control group (cgroup2) for each bottle: what all of its programs together may use.
 *
 * At start bottled looks for a group that it may make others in: as root of a machine's first group
 * one of its own below it; in any other group (a service, a user's scope that systemd delegated) it
 * moves itself into a child `daemon` first, since a group that hands controllers down may hold no
 * process. The group that was found is kept in <state_dir>/cgroup: bottles outlive the daemon, and
 * the next one has to find theirs. Where none may be made, GET /backends says why. */
#pragma once

#include "backends/backend.h"

/* Fills the host's cgroup members. */
void cgroup_settle(struct host *host);
/* Removes what was made at start, where no bottle's group is in it. */
void cgroup_leave(struct host *host);
/* The bottle's group, by its run directory; NULL where there are none, or no memory. Caller frees.
 */
char *cgroup_path(const struct host *host, const char *run_dir);
/* Makes the group and sets its limits. */
int cgroup_make(const char *path, const struct host *host, const struct plan *plan,
                struct error *err);
/* Kills what is still in it, where `kill` says so, and removes it. Missing is fine; -1 when it is
 * still there. Blocks. */
int cgroup_remove(const char *path, bool kill);
