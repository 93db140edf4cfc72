#include "base/base64.h"

#include <stdint.h>

void base64_add(struct text *text, const void *bytes, size_t length)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
    enum { PADDING = 64 };
    const uint8_t *at = bytes;

    for (; length > 0; at += 3) {
        size_t have = length < 3 ? length : 3;
        uint32_t group = (uint32_t)at[0] << 16 | (have > 1 ? (uint32_t)at[1] << 8 : 0) |
                         (have > 2 ? (uint32_t)at[2] : 0);
        const char four[4] = {digits[group >> 18], digits[group >> 12 & 63],
                              digits[have > 1 ? group >> 6 & 63 : PADDING],
                              digits[have > 2 ? group & 63 : PADDING]};
        text_add_bytes(text, four, sizeof four);
        length -= have;
    }
}
