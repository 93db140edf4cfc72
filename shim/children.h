/* The shim's child programs: started in their jails, their output in sinks, their ends noticed by
 * SIGCHLD.
 *
 * The shim is a subreaper: when bubblewrap is killed, what ran inside becomes ours for its last
 * moment, so "no children are left" is proof that nothing of the bottle lives. */
#pragma once

#include "base/process.h"
#include "shim/sink.h"
#include "shim/spec.h"

struct child {
    const char *name;
    pid_t pid; /* 0: not running */
    uint64_t start_time;
    struct sink out; /* stdout, and stderr unless `error` is open */
    struct sink error;
    bool split; /* stderr goes to `error` */
};

enum { CHILD_MARK_SIZE = 4096 + 32 };

/* The one variable of a jail's own environment, see SHIM_RUN_DIR. */
void child_mark(const struct launch *launch, char ret[CHILD_MARK_SIZE]);
/* Starts bwrap with `argv`. The descriptors of `fds` are for the child and stay the caller's. */
int child_start(struct child *child, const struct launch *launch, const char *const *argv,
                const struct spawn_fd *fds, size_t n_fds, struct error *err);
void child_kill(const struct child *child);
/* A pidfd of the first child of the first child … of ours, which is not reaped, so many levels
 * down. -1 with errno when it is not there. */
int child_below(const struct child *child, unsigned levels);
/* The same of the program that runs in the child's jail: bubblewrap's child's first child. */
int child_inner(const struct child *child);
/* True when a socket of our own user listens on host:port. Our own: a stranger who took the
 * port must not be taken for the sidecar. Source: /proc/net/tcp, see proc(5). */
bool port_is_ours(const char *host, uint16_t port);
/* Kills every process that is still our child (also those that only became so). */
void children_kill_all(void);
