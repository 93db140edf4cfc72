/* A merge patch (RFC 7396) of a bottle's plan: what may change, and what it then is. */
#pragma once

#include <jansson.h>

#include "api/problem.h"

/* What `spec` becomes by `patch`, to be decoded as a plan is; NULL when the patch is no object or
 * memory is short. A member that can't be changed is a fault of its own in *problem and is left out
 * of the result, so that the faults of the others are found as well. The caller owns. */
json_t *spec_patch(const json_t *spec, const json_t *patch, struct problem *problem);
