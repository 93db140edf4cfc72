/* Time: the wall clock for people, the monotonic clock for deadlines. Milliseconds everywhere. */
#pragma once

#include <stdint.h>

#define TIMESTAMP_SIZE 25 /* "2026-01-02T03:04:05.678Z" and NUL */

int64_t clock_wall_ms(void);
int64_t clock_monotonic_ms(void);
int64_t clock_monotonic_us(void);
/* clock_monotonic_ms() as the kernel's last tick left it, up to 10 ms ago: for what is asked with
 * each request and need not be exact. */
int64_t clock_coarse_ms(void);
/* RFC 3339 in UTC with milliseconds. */
void timestamp_format(int64_t wall_ms, char ret[TIMESTAMP_SIZE]);
/* The sooner of two waits in milliseconds, of which -1 is for ever. */
int wait_sooner(int a, int b);
