/* What supervisor.c and bringup.c share: one bottle's state, and the two ends of its life. */
#pragma once

#include "base/loop.h"
#include "shim/agent.h"
#include "shim/children.h"
#include "shim/control.h"
#include "shim/egress_change.h"
#include "shim/egress_tell.h"
#include "shim/exec.h"
#include "shim/health.h"
#include "shim/pause.h"
#include "shim/relay.h"
#include "shim/report.h"
#include "shim/restore.h"
#include "shim/secrets.h"
#include "shim/spec.h"

enum phase { PHASE_STARTING, PHASE_RUNNING, PHASE_STOPPING, PHASE_ENDING, PHASE_OVER };

struct supervisor {
    struct launch *launch;
    struct loop *loop;
    struct control *control;
    struct loop_source signals, listeners;
    struct loop_timer tick, deadline;
    struct child gvproxy, vm, sidecars[SIDECARS_MAX];
    struct child servers[MOUNTS_MAX]; /* of the host's directories; as long as the VM */
    struct loop_timer server_lost;
    struct sink command;
    struct agent agent;
    struct health *health; /* from when the cell is ready */
    struct relay *relays[FORWARDS_MAX];
    struct egress_tell *tell;
    struct report report;
    struct egress_change change;
    struct execs execs;
    struct secrets secrets;
    struct loop_timer report_deadline;
    struct restore restore;
    struct pause pause;
    enum phase phase;
    bool cell_ready, hello, sidecars_ready, start_sent, stop_requested, restarting_vm;
    bool ended; /* the guest said how its command ended */
    int exit_code;
    unsigned boots;
    const char *outcome; /* final state, once known */
    char reason[512];
    char stop_words[160];            /* why a stop was not a kind one; "" */
    int64_t stop_until_ms;           /* the grace of a stop; monotonic */
    int64_t event_ms[3];             /* of the last EVENT of each kind that was told; monotonic */
    int64_t started_ms, finished_ms; /* wall clock */
    int64_t running_ms;              /* since when the command runs; monotonic */
    int64_t sidecars_until_ms;       /* monotonic */
};

/* Starts the sidecars and the cell, and sees to the rest from the loop. */
void bringup_begin(struct supervisor *sup);
/* Starts the cell again after a VM that did not come up: gvproxy answers its first peer for ever.
 */
void bringup_again(struct supervisor *sup);
/* Sends START once the guest, the cell and the sidecars are all there. */
void bringup_send_start(struct supervisor *sup);
void bringup_close_relays(struct supervisor *sup);
/* Ends the VM, and a new one is started. */
void bringup_discard_vm(struct supervisor *sup);
/* One that served a directory has ended: in the next moment the VM has too, or all is over. */
void bringup_server_ended(struct supervisor *sup, struct child *server, int status);

/* logs.c: the sinks of all that the bottle's programs say. */
int logs_open(struct supervisor *sup, int log_dir, struct error *err);
void logs_close(struct supervisor *sup);

/* Whether the guest can be asked for anything beside its command. */
bool supervisor_serves(const struct supervisor *sup);
/* Ends the bottle: `stopped` when that was asked for, `exited` when the command had ended, else
 * `failed` with the reason. */
void supervisor_fail(struct supervisor *sup, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void supervisor_on_frame(void *context, const struct frame *frame);
void supervisor_on_agent_end(void *context, const char *why);
