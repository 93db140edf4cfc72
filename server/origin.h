/* Which Host and Origin headers are ours: against names that an attacker points at this machine,
 * and against pages of other sites. Pure functions. */
#pragma once

#include <stdbool.h>

#include "server/address.h"

/* Is this Host (may be NULL) one that a connection to our end `local` may name: that address,
 * localhost where it is loopback, or one of `names` ("NAME[:PORT][,…]"; without a port, the
 * listener's)? The scheme's own port may be left out. */
bool host_fits(const union address *local, bool tls, const char *names, const char *host);
/* Is the Origin that of a page which came from this very Host? Without TLS here there may be a
 * proxy with TLS before us: both schemes fit. */
bool origin_is_same(const char *origin, const char *host, bool tls);
/* Is `item` one of a comma-separated list? */
bool list_has(const char *list, const char *item);
