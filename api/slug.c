/* Slugs: the names of bottles. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "api/spec.h"
#include "base/clock.h"

static const bool slug_bytes[256] = {['a' ... 'z'] = true, ['0' ... '9'] = true, ['-'] = true};

bool slug_valid(const char *slug)
{
    size_t length = 0;

    while (slug_bytes[(unsigned char)slug[length]])
        length++;
    return length >= 1 && length <= SLUG_MAX && slug[length] == '\0' && slug[0] != '-' &&
           slug[length - 1] != '-';
}

void slug_make(char ret[64])
{
    uint32_t number;

    /* At start-up the kernel's pool may be empty; uniqueness is what counts, not secrecy. */
    if (getrandom(&number, sizeof number, GRND_NONBLOCK) != (ssize_t)sizeof number)
        number = (uint32_t)clock_monotonic_ms() * 2654435761u;
    (void)snprintf(ret, 64, "bottle-%08x", number);
}
