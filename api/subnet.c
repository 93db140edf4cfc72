/* Subnets by number: the choice, the addresses, the MAC.
 *
 * A number below 254 is the third octet of 192.168.x.0/24; n >= 254 is /24 number n - 254 of
 * 10.128.0.0/9. A bottle's network is its own (nothing routes between them or to the host), so a
 * number only has to be unique; the hash makes it the same one each time while it is free. */
#include <stdio.h>

#include "api/plan.h"
#include "base/hash.h"

enum { SMALL_COUNT = 254, NEVER = 17, LARGE_COUNT = SUBNETS_MAX - SMALL_COUNT };

/* First free of `count` numbers from `base`, from `start` on and around the end. */
static int search(unsigned base, unsigned count, unsigned start, subnet_taken *taken, void *context,
                  unsigned *ret)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned number = base + (start + i) % count;
        if (number == NEVER || taken(number, context))
            continue;
        *ret = number;
        return 0;
    }
    return -1;
}

int subnet_pick(const char *slug, subnet_taken *taken, void *context, unsigned *ret,
                struct error *err)
{
    uint32_t hash = fnv1a32(slug);

    if (search(0, SMALL_COUNT, hash % SMALL_COUNT, taken, context, ret) == 0 ||
        search(SMALL_COUNT, LARGE_COUNT, hash % LARGE_COUNT, taken, context, ret) == 0)
        return 0;
    return error_set(err, "no-free-subnet",
                     "all %d subnets are taken by bottles: delete one that is no longer needed",
                     SUBNETS_MAX - 1);
}

void subnet_format(unsigned subnet, char ret_subnet[20], char ret_gateway[16], char ret_guest[16])
{
    unsigned a = 192, b = 168, c = subnet;

    if (subnet >= SMALL_COUNT) {
        unsigned large = (subnet - SMALL_COUNT) % LARGE_COUNT;
        a = 10;
        b = 128 + (large >> 8);
        c = large & 255;
    }
    (void)snprintf(ret_subnet, 20, "%u.%u.%u.0/24", a, b & 255, c & 255);
    (void)snprintf(ret_gateway, 16, "%u.%u.%u.1", a, b & 255, c & 255);
    (void)snprintf(ret_guest, 16, "%u.%u.%u.2", a, b & 255, c & 255);
}

void subnet_mac(unsigned subnet, char ret[18])
{
    (void)snprintf(ret, 18, "5a:94:ef:%02x:%02x:%02x", (subnet >> 16) & 255, (subnet >> 8) & 255,
                   subnet & 255);
}
