/* The plans' secrets: what the operator lets them be, and reading them.
 *
 * Values lie in memory of base/secret.h from here to the descriptor that the supervisor gets, and
 * nowhere else. */
#pragma once

#include "api/spec.h"
#include "base/secret.h"
#include "server/config.h"

struct secrets;

/* Takes the variables that `config` names (borrowed) out of the environment, where nobody finds
 * them any more. Before there are threads. NULL on failure. */
struct secrets *secrets_new(const struct config *config, struct error *err);
void secrets_free(struct secrets *secrets);

/* Adds a fault to *problem for each secret of the plan that the operator does not allow, and for a
 * mount that would hide them. Of a plan that comes in: one that is stored was taken as it is. */
void secrets_check(const struct secrets *secrets, const struct spec *spec, struct problem *problem);
/* Reads them all: NAME=value with its NUL, one after the other, in the plan's order. 0 and *ret
 * (untouched where the plan has none), or -1 with every fault in *problem. May wait for a disk. */
int secrets_read(const struct secrets *secrets, const struct spec *spec, struct secret *ret,
                 struct problem *problem);
/* A memfd of the bytes, or -1. */
int secrets_memfd(const struct secret *secret, struct error *err);
