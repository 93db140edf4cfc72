/* Addresses that are not public: where a bottle gets by a rule that says "private" only. */
#pragma once

#include <stdbool.h>

/* Everything but public unicast, as ADDRESS/BITS; ends with NULL. ::ffff:0:0/96 is not listed: a
 * mapped address is taken for the IPv4 address in it. 64:ff9b::/96 and 2002::/16 carry IPv4
 * addresses. */
extern const char *const private_ranges[];

/* Is `host` (a rule's: render.h) an address in one of them, or a name that can lead nowhere else
 * (RFC 6761, 6.3: localhost)? Any other name has to be looked up first. */
bool host_is_private(const char *host);
