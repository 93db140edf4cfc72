/* What the fuzz targets have in common. A target is a program tests/fuzz/NAME.c whose entry is
 * libFuzzer's; its seeds are tests/fuzz/seeds/NAME/. `make fuzz T=60` runs each of them for so many
 * seconds; a crash or an input that is too slow is left in $(BUILD)/found/NAME, and becomes a row
 * of a unit test. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* Ends the program: a property does not hold. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            __builtin_trap();                                                                      \
    } while (0)
