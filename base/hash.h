/* Digests: SHA-256 (by nettle) for names, tags and files; FNV-1a where a small stable number will
 * do. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SHA256_HEX_SIZE 65 /* 64 digits and NUL */

/* Lower-case hex digits of the SHA-256 of `length` bytes. */
void sha256_hex(const void *bytes, size_t length, char ret[SHA256_HEX_SIZE]);
/* 32-bit FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/) of a string. */
uint32_t fnv1a32(const char *string);
