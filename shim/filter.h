/* The seccomp filters.
 *
 * That of the cell takes from gvproxy the calls by which a guest, through gvproxy's
 * unauthenticated API, could remove or replace the sockets in its run directory. */
#pragma once

#include "base/error.h"

/* A descriptor that holds the compiled filter (BPF), for `bwrap --seccomp FD`, at its start. The
 * caller closes. -1 on failure. */
int filter_open(struct error *err);
/* The filter of bottle-krun, loaded into the calling process and all its threads to come. It takes
 * away what a machine that runs does not use: other programs and processes, sockets, privileges,
 * changes to the run directory. A virtual machine monitor that its guest took over has these left
 * out of its reach. */
int filter_vm_load(struct error *err);
