#include "base/hash.h"

#include <nettle/sha2.h>
#include <stdio.h>

#include "base/util.h"

void sha256_hex(const void *bytes, size_t length, char ret[SHA256_HEX_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    struct sha256_ctx context;
    uint8_t digest[SHA256_DIGEST_SIZE];

    sha256_init(&context);
    sha256_update(&context, length, bytes);
    sha256_digest(&context, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++) {
        ret[2 * i] = digits[digest[i] >> 4];
        ret[2 * i + 1] = digits[digest[i] & 15];
    }
    ret[SHA256_HEX_SIZE - 1] = '\0';
}

uint32_t fnv1a32(const char *string)
{
    uint32_t hash = 2166136261u;

    for (const unsigned char *c = (const unsigned char *)string; *c; c++)
        hash = (hash ^ *c) * 16777619u;
    return hash;
}
