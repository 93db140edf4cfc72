/* The bottle's command: starting it, passing on what it prints, reaping, and how it ended. */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "guest/agent.h"
#include "guest/boot.h"
#include "guest/protocol.h"
#include "guest/secrets.h"

enum run_end {
    RUN_EXITED,    /* EXIT is queued */
    RUN_POWEROFF,  /* the host asked for it */
    RUN_CLOSED,    /* the host is gone */
    RUN_MALFORMED, /* the host broke the protocol; the error says how */
};

/* Runs the command of START, whose strings outlive the call, to its end, or to another end.
 * *ret_leave: a stop that was asked for, untouched without one. */
enum run_end run_command(struct agent *agent, const struct start_message *start,
                         struct secrets *secrets, struct leave *ret_leave, struct error *err);
