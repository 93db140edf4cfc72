/* The checks of an egress report that run inside the guest: their names and what has to come back.
 *
 * The guest says only a check's number, whether it passed, and what it got; all other words are the
 * host's own, from this table. Each check is harmless: it asks, it changes nothing, and from a cell
 * that holds none of it leaves the machine. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum check {
    CHECK_NAME,
    CHECK_OTHER_NAME,
    CHECK_TEXT,
    CHECK_DNS_ELSEWHERE,
    CHECK_GATEWAY_SSH,
    CHECK_GATEWAY_API,
    CHECK_PUBLIC,
    CHECK_PRIVATE_10,
    CHECK_PRIVATE_172,
    CHECK_NEIGHBOUR,
    CHECK_SHARED,
    CHECK_METADATA,
    CHECK_IPV6,
    CHECK_PROXY_ADDRESS,
    CHECK_PROXY_NAME,
    N_FIXED_CHECKS, /* after these, one for each port forward: that its port answers */
};

enum {
    CHECK_FORWARDS_MAX = 8,
    CHECKS_MAX = N_FIXED_CHECKS + CHECK_FORWARDS_MAX,
    CHECK_WORDS_MAX = 120, /* bytes of what was got */
};

struct check_row {
    const char *name, *tried, *expected;
};
extern const struct check_row check_rows[N_FIXED_CHECKS];
