/* The limits of every jailed process: one table, a row per kind of program.
 *
 * What the plan asks for (a VM's memory) and what the daemon's configuration grants comes in the
 * launch spec. A limit has to hold from a program's first instruction and must not be raised again,
 * and posix_spawn sets none: so the shim starts itself once more, as
 *
 *   bottle-shim --limited NAME=VALUE… -- PROGRAM ARGUMENT…
 *
 * which sets them, hard and soft, and becomes PROGRAM. NAME may be umask (in decimal) as well. */
#pragma once

#include "base/argv.h"
#include "shim/spec.h"

enum limits_kind {
    LIMITS_GVPROXY,
    LIMITS_VM,
    LIMITS_VM_FS, /* a VM that serves the host's directories by itself */
    LIMITS_FS,    /* who serves one for another's VM */
    LIMITS_PROXY,
    LIMITS_SIDECAR,
    N_LIMITS_KINDS
};

#define LIMITS_FLAG "--limited"
/* The shim itself, to be started once more. Under valgrind /proc/self/exe would be valgrind: its
 * tests have another (make valgrind-shim). */
#ifndef SHIM_SELF
#define SHIM_SELF "/proc/self/exe"
#endif

/* Enters the bottle's control group, where it has one: it and all that it starts. While it still
 * may: the group is the daemon's. */
int limits_join(const struct launch *launch, struct error *err);
/* The memory that the supervisor itself may write to. Only its soft limit: what it starts has
 * limits of its own, which may be higher. */
int limits_own(const struct launch *launch, struct error *err);
/* As root: lets the bottle's programs open more files than the daemon may. Who serves one of the
 * host's directories holds a descriptor for each file that the guest remembers. */
void limits_raise_files(void);
/* How many it may hold for them. */
int64_t limits_files(void);
/* Adds all but PROGRAM and its arguments. */
void limits_add(struct argv *argv, enum limits_kind kind, const struct launch *launch);
/* `argv` behind LIMITS_FLAG. Comes back only on a fault, with words on stderr and the exit status.
 */
int limits_enter(char **argv);
/* The bytes of private memory that a program of that kind may write to. */
int64_t limits_memory(enum limits_kind kind, const struct launch *launch);
