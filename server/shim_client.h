/* bottled's side of shim/protocol.h: spawning a supervisor, its socket, its statuses, its exit
 * record.
 *
 * What a shim says is checked before it is believed: it runs as the bottle's user. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "api/bottle.h"
#include "base/error.h"
#include "server/row.h"
#include "shim/protocol.h"

enum { SHIM_PROCESSES_MAX = 12 };

struct shim_process {
    char name[32];
    pid_t pid;
    uint64_t start_time;
};

struct shim_status {
    enum bottle_state state;
    char reason[REASON_SIZE]; /* "" when there is none */
    bool has_exit_code;
    int exit_code;
    int64_t started_ms, finished_ms, boots; /* 0: not yet, or not said */
    int64_t ran_ms;                         /* how long the command ran, or runs */
    char boot[12];                          /* "template", "cold"; "": no guest has come up yet */
    char boot_reason[REASON_SIZE];
    bool template_failed;
    pid_t pid;
    uint64_t start_time;
    struct shim_process processes[SHIM_PROCESSES_MAX];
    size_t n_processes;
};

/* Whether this is the last word of a shim. */
bool shim_status_final(const struct shim_status *status);
int shim_status_parse(const char *bytes, size_t length, struct shim_status *ret, struct error *err);
/* Reads <run_dir>/exit.json: 0 and *ret when it holds a final status, else -1. */
int shim_exit_record(const char *run_dir, struct shim_status *ret, struct error *err);

/* Random hex digits. */
int shim_token(char ret[TOKEN_SIZE], struct error *err);

struct shim_spawned {
    pid_t pid;
    uint64_t start_time;
    int pidfd, ready_fd; /* ready_fd does not block */
};

/* Starts `binary` with the launch spec in a memfd and, where the spec tells of them, the secrets in
 * another (-1: none); log_fd (-1: ours) becomes its stdout and stderr. */
int shim_spawn(const char *binary, const json_t *spec, int secrets_fd, int log_fd,
               struct shim_spawned *ret, struct error *err);
/* A pidfd for the supervisor on record, or -1: it is gone, or its pid is somebody else's by now
 * (also one that happens to have begun at the same tick of another boot). */
int shim_open(pid_t pid, uint64_t start_time);
/* Whether a process is called as supervisors are; false with errno ESRCH: it is not. */
bool shim_named(pid_t pid);
/* Connects to <run_dir>/shim.sock without blocking; the descriptor, and the pid that listens there.
 */
int shim_connect(const char *run_dir, pid_t *ret_pid, struct error *err);
int shim_hello(int fd, const char *token, struct error *err);
int shim_stop(int fd, int64_t grace_ms, struct error *err);
/* Pauses the machine, or lets it go on; the answer is a packet with "paused". */
int shim_pause(int fd, int64_t id, bool pause, struct error *err);
/* Sends {"rules", "files"}; the answer is a packet with "applied". */
int shim_egress(int fd, int64_t id, const json_t *egress, struct error *err);
/* Hands on secrets in a memfd; the answer is a packet with "secrets". `signal`: for the command, 0:
 * none. */
int shim_secrets(int fd, int64_t id, int signal, int secrets, struct error *err);
/* Asks for a report; the answer is a packet with "report". */
int shim_report(int fd, int64_t id, struct error *err);
/* Has a program run beside the command: `stream` is the supervisor's end of a socketpair (the
 * caller closes its own copy). */
int shim_exec(int fd, const char *id, int stream, struct error *err);
/* Tells an exec this (all 0: nothing), and asks how it stands; the answer is a packet with "exec".
 */
int shim_exec_result(int fd, const char *id, const struct exec_note *note, struct error *err);
