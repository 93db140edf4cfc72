/* The life of one bottle, from the shim's side. */
#pragma once

#include "shim/spec.h"

/* Starts everything, says "ok" on ready_fd once the control socket listens, supervises to the end,
 * and leaves the exit record. -1 when it could not even begin; err has the words, and nothing was
 * left running. */
int supervisor_run(struct launch *launch, int log_dir, int ready_fd, struct error *err);
