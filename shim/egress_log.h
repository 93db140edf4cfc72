/* What a bottle tried to reach, put together for bottled (the packet: shim/protocol.h).
 *
 * Bounded whatever the guest does: equal notes are counted in one entry, there are EGRESS_ENTRIES
 * entries between two packets, and what finds no place is counted in "lost". The totals miss
 * nothing. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/rule_match.h"

enum { EGRESS_ENTRIES = 64 };

struct egress_log;

struct egress_note {
    enum rule_verdict verdict;
    const char *host; /* printable ASCII */
    uint16_t port;
    const char *rule, *why; /* or NULL */
    bool again;             /* bytes of an attempt that was noted before: it is not counted */
    uint64_t bytes_out, bytes_in;
};

struct egress_log *egress_log_new(void);
void egress_log_free(struct egress_log *log);
/* NULL is no log: nothing happens. */
void egress_log_note(struct egress_log *log, const struct egress_note *note, int64_t wall_ms);
/* Whether there is something that no packet told. */
bool egress_log_has_news(const struct egress_log *log);
/* A packet of at most `size` bytes with as many entries as fit, which are forgotten; the caller
 * owns it. NULL when memory is short; then nothing is forgotten. */
json_t *egress_log_take(struct egress_log *log, size_t size);
