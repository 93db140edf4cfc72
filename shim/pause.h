/* A bottle's pause: its processors stand still, its memory and its other programs stay.
 *
 * A QEMU machine is stopped by its monitor, which tells when it is (shim/qmp.h): then time stands
 * still in the guest as well. libkrun has no monitor: the machine's process is stopped by a signal.
 * After a pause the guest is told the time. While it lasts gvproxy is not asked how it does, as it
 * may wait for the guest, and what only the guest could do is refused.
 *
 * QEMU also stops a machine by itself, when its disk's file can not be written for want of room on
 * the host: that is a pause, too, with a reason. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/text.h"

struct supervisor;

struct pause {
    struct loop_source monitor; /* QEMU's; fd 0 or -1: none */
    struct text said;
    bool paused;
    bool goes_on; /* its machine was told to, and has not said so yet */
    int64_t id;   /* of the request under way; 0: none */
    bool wanted;
    struct loop_timer deadline;
};

/* Makes the monitor's ends for a machine that boots: *ret_vm_end is for the VM (the caller closes
 * it). */
int pause_open(struct supervisor *sup, int *ret_vm_end, struct error *err);
/* The monitor of one that was restored; taken over. */
void pause_take(struct supervisor *sup, int fd);
/* The machine is gone, or about to be. */
void pause_close(struct supervisor *sup, const char *why);
/* A request of bottled's, to be answered by {"paused": id, "error"}: pause it, or let it go on. */
void pause_request(struct supervisor *sup, int64_t id, bool wanted);
/* Lets it go on for what comes next (a stop), without waiting for it. */
void pause_lift(struct supervisor *sup, const char *why);
