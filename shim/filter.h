/* The seccomp filters: one table of what is taken from which kind of program.
 *
 * A call that is taken away answers EPERM, not a kill: gvproxy answers such a call of its API with
 * 500 and goes on. Calls of other architectures' tables kill. */
#pragma once

#include "base/error.h"

enum filter_kind {
    FILTER_CELL,    /* bottle-cell, until it becomes gvproxy: it still asks the kernel for routes */
    FILTER_GVPROXY, /* gvproxy: what is there in its run directory stays; threads, no programs */
    FILTER_VM,      /* the VM's jail: QEMU, or bottle-krun until its machine starts */
    FILTER_KRUN,    /* libkrun's machine, which has all its sockets and files when it starts */
    FILTER_VM_FS,   /* as VM, where the machine serves the host's directories by itself */
    FILTER_KRUN_FS, /* as KRUN, the same */
    FILTER_FS,      /* virtiofsd */
    FILTER_PROXY,   /* the proxy's engine */
    FILTER_SIDECAR, /* an operator's program */
    N_FILTERS
};

/* A descriptor that holds the compiled filter (BPF), at its start, for `bwrap --seccomp FD`. The
 * caller closes. -1 on failure. */
int filter_open(enum filter_kind kind, struct error *err);
/* Loads the filter into the calling process and all its threads to come. */
int filter_load(enum filter_kind kind, struct error *err);
