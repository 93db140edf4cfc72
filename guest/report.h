/* An egress report, from inside the guest: each check in a forked process of its own, so that the
 * command is not disturbed and silence is waited for once only. No program and no file of the guest
 * is used. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/agent.h"
#include "guest/checks.h"

struct report {
    int fd; /* what the checks write to, a packet each; -1: no report is under way */
    uint32_t id;
    pid_t pids[CHECKS_MAX]; /* 0: reaped, or never there */
    int64_t until_ms;
};

/* Starts the checks that REPORT's payload asks for; a report that is under way is given up. -1 when
 * the payload is malformed. */
int report_begin(struct report *report, const struct frame *frame, const char *gateway);
/* Sends on what a check has told, when the agent has room, and REPORT_END at the end. */
void report_pump(struct report *report, struct agent *agent);
void report_reaped(struct report *report, pid_t pid);
/* Kills the checks; nothing more is sent. */
void report_end(struct report *report);
