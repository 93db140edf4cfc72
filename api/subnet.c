/* Subnets by number: the choice, the addresses, the MAC.
 *
 * Three blocks after each other: a number below 254 is the third octet of 192.168.x.0/24; then come
 * the /24s of 10.128.0.0/9, and for more bottles than those the /28s of 10.0.0.0/9. A bottle's
 * network is its own (nothing routes between them or to the host), so a number only has to be
 * unique; the hash makes it the same one each time while it is free. */
#include <stdio.h>

#include "api/plan.h"
#include "base/hash.h"
#include "base/util.h"

enum { NEVER = 17 };

static const struct block {
    unsigned count;
    uint32_t first; /* address */
    unsigned bits;  /* prefix length */
} blocks[] = {{254, 0xc0a80000, 24}, {32768, 0x0a800000, 24}, {524288, 0x0a000000, 28}};

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
    unsigned base = 0;

    for (size_t i = 0; i < COUNT_OF(blocks); base += blocks[i++].count)
        if (search(base, blocks[i].count, hash % blocks[i].count, taken, context, ret) == 0)
            return 0;
    return error_set(err, "no-free-subnet",
                     "all %d subnets are taken by bottles: delete one that is no longer needed",
                     SUBNETS_MAX - 1);
}

static void address_format(uint32_t address, char ret[16])
{
    (void)snprintf(ret, 16, "%u.%u.%u.%u", address >> 24, address >> 16 & 255, address >> 8 & 255,
                   address & 255);
}

void subnet_format(unsigned subnet, char ret_subnet[20], char ret_gateway[16], char ret_guest[16])
{
    const struct block *block = blocks;
    char first[16];

    while (subnet >= block->count && block < blocks + COUNT_OF(blocks) - 1)
        subnet -= block++->count;
    uint32_t address = block->first + (subnet % block->count << (32 - block->bits));
    address_format(address, first);
    (void)snprintf(ret_subnet, 20, "%s/%u", first, block->bits);
    address_format(address + 1, ret_gateway);
    address_format(address + 2, ret_guest);
}

void subnet_mac(unsigned subnet, char ret[18])
{
    (void)snprintf(ret, 18, "5a:94:ef:%02x:%02x:%02x", (subnet >> 16) & 255, (subnet >> 8) & 255,
                   subnet & 255);
}
