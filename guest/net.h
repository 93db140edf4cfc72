/* The guest's network: lo, and one Ethernet device with a fixed address. */
#pragma once

#include "base/error.h"

/* Sets the host name, brings lo up, and eth0 with guest_ip/24 and a default route by way of the
 * gateway. */
int net_up(const char *hostname, const char *guest_ip, const char *gateway, struct error *err);
