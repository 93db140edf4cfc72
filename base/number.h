/* Text to numbers, strictly: the whole string, decimal digits, within bounds, or an error. */
#pragma once

#include <stdint.h>

/* 0 and *ret, or -1 when `text` is not a decimal integer in [min, max]. No sign but '-', no spaces.
 */
int number_parse(const char *text, int64_t min, int64_t max, int64_t *ret);
/* "500ms", "30s", "5m", "1h" or plain seconds → milliseconds; -1 when malformed or above a day. */
int duration_parse(const char *text, int64_t *ret_ms);
