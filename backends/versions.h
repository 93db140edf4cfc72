/* The versions of the tools that a preflight found, as they themselves give them. */
#pragma once

#include "backends/backend.h"

/* Fills the `version` of each tool that says it. Runs a program once for each file (path, size and
 * time of change), for a few milliseconds; later answers are kept. Any thread. */
void tool_versions(struct preflight *preflight);
