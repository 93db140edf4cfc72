/* The seccomp filter of the cell: takes from gvproxy the calls by which a guest, through gvproxy's
 * unauthenticated API, could remove or replace the sockets in its run directory. */
#pragma once

#include "base/error.h"

/* A descriptor that holds the compiled filter (BPF), for `bwrap --seccomp FD`, at its start. The
 * caller closes. -1 on failure. */
int filter_open(struct error *err);
