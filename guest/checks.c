#include "guest/checks.h"

#define REFUSED "refused at once"

const struct check_row check_rows[N_FIXED_CHECKS] = {
    [CHECK_NAME] = {"proxy-name", "A proxy.internal, asked of the gateway",
                    "the gateway's address"},
    [CHECK_OTHER_NAME] = {"other-name", "A example.com, asked of the gateway", "no address"},
    [CHECK_TEXT] = {"name-text", "TXT proxy.internal, asked of the gateway", "no text"},
    [CHECK_DNS_ELSEWHERE] = {"dns-elsewhere", "A example.com, asked of 8.8.8.8 by UDP",
                             "no answer"},
    [CHECK_GATEWAY_SSH] = {"gateway-ssh", "TCP to the gateway, port 22", REFUSED},
    [CHECK_GATEWAY_API] = {"gateway-api", "GET /services/forwarder/all at the gateway, port 80",
                           "refused, or nothing exposed"},
    [CHECK_PUBLIC] = {"public", "TCP to 1.1.1.1, port 443", REFUSED},
    [CHECK_PRIVATE_10] = {"private-10", "TCP to 10.0.0.1, port 80", REFUSED},
    [CHECK_PRIVATE_172] = {"private-172", "TCP to 172.16.0.1, port 80", REFUSED},
    /* No bottle is ever given this subnet. */
    [CHECK_NEIGHBOUR] = {"private-192", "TCP to 192.168.17.1, port 80", REFUSED},
    [CHECK_SHARED] = {"shared-100", "TCP to 100.64.0.1, port 80", REFUSED},
    [CHECK_METADATA] = {"metadata", "TCP to 169.254.169.254, port 80", REFUSED},
    [CHECK_IPV6] = {"ipv6", "TCP to 2606:4700:4700::1111, port 443", REFUSED},
    [CHECK_PROXY_ADDRESS] = {"proxy-address", "CONNECT 192.0.2.1:443 by the proxy", "status 403"},
    [CHECK_PROXY_NAME] = {"proxy-denied", "CONNECT egress-report.invalid:443 by the proxy",
                          "status 403"},
};
