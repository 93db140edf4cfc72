#include "renderers/private_ranges.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const private_ranges[] = {"0.0.0.0/8",    "10.0.0.0/8",     "100.64.0.0/10",
                                      "127.0.0.0/8",  "169.254.0.0/16", "172.16.0.0/12",
                                      "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15",
                                      "224.0.0.0/3",  "::/128",         "::1/128",
                                      "64:ff9b::/96", "64:ff9b:1::/48", "100::/64",
                                      "2002::/16",    "fc00::/7",       "fe80::/10",
                                      "fec0::/10",    "ff00::/8",       NULL};

enum { BYTES = 16, MAPPED_BYTES = 12 };

struct bits {
    unsigned char bytes[BYTES];
    unsigned length; /* in bytes: 4 or 16 */
};

static bool parse(const char *text, struct bits *ret)
{
    static const unsigned char mapped[MAPPED_BYTES] = {[10] = 0xff, [11] = 0xff};

    if (inet_pton(AF_INET, text, ret->bytes) == 1) {
        ret->length = 4;
        return true;
    }
    if (inet_pton(AF_INET6, text, ret->bytes) != 1)
        return false;
    ret->length = BYTES;
    if (memcmp(ret->bytes, mapped, sizeof mapped) == 0) {
        memmove(ret->bytes, ret->bytes + MAPPED_BYTES, 4);
        ret->length = 4;
    }
    return true;
}

static bool is_in(const struct bits *address, const char *range)
{
    char text[INET6_ADDRSTRLEN];
    struct bits network;
    const char *slash = strchr(range, '/');
    const unsigned count = (unsigned)strtoul(slash + 1, NULL, 10), whole = count / 8;

    (void)snprintf(text, sizeof text, "%.*s", (int)(slash - range), range);
    if (!parse(text, &network) || network.length != address->length ||
        memcmp(network.bytes, address->bytes, whole) != 0)
        return false;
    return count % 8 == 0 || (network.bytes[whole] ^ address->bytes[whole]) >> (8 - count % 8) == 0;
}

bool host_is_private(const char *host)
{
    static const char localhost[] = ".localhost";
    const size_t length = strlen(host), tail = sizeof localhost - 1;
    struct bits address;

    if (strcmp(host, localhost + 1) == 0 ||
        (length > tail && strcmp(host + length - tail, localhost) == 0))
        return true;
    if (!parse(host, &address))
        return false;
    for (size_t i = 0; private_ranges[i]; i++)
        if (is_in(&address, private_ranges[i]))
            return true;
    return false;
}
