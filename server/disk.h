/* A bottle's own disk (the plan's resources.disk_mib). */
#pragma once

#include "backends/backend.h"

/* Makes it where the plan wants one and there is none yet, for the bottle's user (0: ours). Before
 * each start, after the stage directory is there. */
int disk_ensure(const struct host *host, const struct plan *plan, unsigned uid, struct error *err);
/* Is the disk that a plan asks for as small as this daemon allows (max_disk_mib)? Adds a fault
 * where it is not. */
void disk_check(const struct host *host, const struct spec *spec, struct problem *problem);
