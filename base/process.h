/* Child programs and the identity of processes.
 *
 * A pid alone is never an identity: the start time (field 22 of /proc/PID/stat, in clock ticks
 * since boot) goes with it, and a pidfd is held where we act on it. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct spawn_fd {
    int parent, child; /* parent's descriptor → the number that the child sees */
};

struct spawn {
    const char *const *argv; /* argv[0] is the path of the program */
    const char *const *env;  /* NULL: an empty environment */
    int in, out, error;      /* descriptors for 0, 1, 2; -1: /dev/null */
    const struct spawn_fd *fds;
    size_t n_fds;
    const char *directory; /* NULL: stay */
};

/* Starts a program in a session of its own, with default signals and no descriptor but those named.
 * ret_pidfd may be NULL. */
int process_spawn(const struct spawn *spawn, pid_t *ret_pid, int *ret_pidfd, struct error *err);
/* 0 when there is no such process. */
uint64_t process_start_time(pid_t pid);
/* A pidfd for exactly that process, or -1: ESRCH when it is gone or the pid has been reused; with
 * another errno it is not known (descriptors or memory are short). */
int process_open(pid_t pid, uint64_t start_time);
int pidfd_kill(int pidfd, int signal_number);
/* Reaps a child by its pidfd without blocking: 1 and the wait status, 0 still running, -1 errno. */
int pidfd_reap(int pidfd, int *ret_status);
/* "exit status 3" / "killed by signal 9 (Killed)". */
void wait_status_words(int status, char *ret, size_t size);
/* Runs a program to its end with a deadline and returns what it printed on stdout and stderr, cut
 * at `limit` bytes. 0 and *ret_output (caller frees) when it ended; ret_status is its wait status.
 * -1 when it could not be started or was killed at the deadline. */
int process_run(const char *const *argv, const char *const *env, int64_t deadline_ms, size_t limit,
                char **ret_output, int *ret_status, struct error *err);
