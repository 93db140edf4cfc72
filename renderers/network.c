/* The shape of every bottle's network policy, in the one place that makes it: one zone that covers
 * every name, one record in it, and each forward to the host's loopback. */
#include "renderers/config.h"

#include <stdio.h>

void loopback_format(unsigned n, char ret[16])
{
    (void)snprintf(ret, 16, "127.0.%u.1", n % LOOPBACKS_MAX);
}

void network_build(struct network *ret, const char *subnet, const char *gateway,
                   const char *guest_ip, const char *guest_mac, const struct port_forward *forwards,
                   size_t n_forwards)
{
    *ret = (struct network){
        .subnet = subnet,
        .gateway = gateway,
        .guest_ip = guest_ip,
        .gateway_mac = GATEWAY_MAC,
        .guest_mac = guest_mac,
        .record = {PROXY_NAME, gateway},
        .n_forwards = n_forwards < FORWARDS_MAX ? n_forwards : FORWARDS_MAX,
    };
    ret->zone = (struct dns_zone){".", &ret->record, 1};
    for (size_t i = 0; i < ret->n_forwards; i++) {
        ret->forwards[i] = forwards[i];
        if (!forwards[i].host)
            ret->forwards[i].host = LOOPBACK;
    }
}
