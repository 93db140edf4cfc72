/* The guest's network: lo, and one Ethernet device with a fixed address. */
#pragma once

#include "base/error.h"
#include "guest/protocol.h"

/* Sets the host name, brings lo up, and eth0 with its own hardware address, its address and prefix,
 * and a default route by way of the gateway. */
int net_up(const struct start_message *start, struct error *err);
