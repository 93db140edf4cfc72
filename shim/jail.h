/* The jails: bubblewrap's arguments for gvproxy's cell, the VM and the sidecars.
 *
 * Every jail has its own user, mount, pid, ipc and uts namespaces, no capability, an empty
 * environment, and dies with the shim. The cell and the VM also have a network namespace with
 * nothing but `lo`.
 *
 * Built with TEST_OPEN_CELL the cell has no walls: the daemon's network, its files, no filter. Only
 * tests have such a build (`make open-cell`), to show that their attacks would be heard. */
#pragma once

#include "base/argv.h"
#include "shim/spec.h"

/* Descriptors as the jailed programs get them. */
enum {
    JAIL_FILTER_FD = 10, /* bubblewrap's: the filter (shim/filter.h) of all in the jail */
    JAIL_LISTENER_FD,    /* bottle-cell's: the listeners go out here */
    JAIL_GVPROXY_FD,     /* bottle-cell's: the filter of gvproxy */
    JAIL_FS_FD,          /* virtiofsd's: the socket that it accepts on */
};

/* gvproxy behind bottle-cell, which passes one listener per forward out. */
void jail_cell(struct argv *argv, const struct launch *launch);
/* `program`: how the machine comes up, one of the launch's. */
void jail_vm(struct argv *argv, const struct launch *launch, const struct program *program);
/* Who serves one of the host's directories to the VM: it sees that and /usr. */
void jail_fs(struct argv *argv, const struct launch *launch, size_t i);
/* A sidecar: the host's network, and of its files /usr, the resolver's files, and its own. */
void jail_sidecar(struct argv *argv, const struct launch *launch, const struct program *program);
/* The same jail for the program that checks the sidecar's next config. */
void jail_check(struct argv *argv, const struct launch *launch, const struct sidecar_spec *sidecar);
/* The proxy's engine, or an operator's program? */
bool jail_is_proxy(const struct program *program);
