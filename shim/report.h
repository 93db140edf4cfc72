/* An egress report: the guest's own checks (guest/checks.h), and what the kernel says of the
 * programs around it, which the guest can't forge.
 *
 * One at a time. The guest is not trusted: it says which check passed and what it got, within
 * bounds; what it does not say in time has failed. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "guest/checks.h"
#include "guest/protocol.h"

struct supervisor;

struct report {
    int64_t id; /* 0: none is under way */
    uint32_t asked;
    struct {
        bool told, passed;
        char got[CHECK_WORDS_MAX + 1];
    } results[CHECKS_MAX];
};

/* Answers the request {"op":"report","id":N} now or later, by control_send. */
void report_request(struct supervisor *sup, int64_t id);
/* FRAME_CHECK and FRAME_REPORT_END. -1: the frame is malformed. */
int report_frame(struct supervisor *sup, const struct frame *frame);

/* Adds the checks on one jailed program of the child `pid` to an array: that its processes have no
 * rights and a filter, and, when `lonely`, a network of their own that has lo and nothing else. */
void report_add_program(json_t *checks, const char *name, pid_t pid, bool lonely);
/* Ends a report that is under way with a fault. */
void report_abort(struct supervisor *sup, const char *why);
