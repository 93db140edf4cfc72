#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t now_us(clockid_t clock)
{
    struct timespec now;

    (void)clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t clock_wall_ms(void)
{
    return now_us(CLOCK_REALTIME) / 1000;
}

int64_t clock_monotonic_ms(void)
{
    return now_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_coarse_ms(void)
{
    return now_us(CLOCK_MONOTONIC_COARSE) / 1000;
}

int64_t clock_monotonic_us(void)
{
    return now_us(CLOCK_MONOTONIC);
}

void timestamp_format(int64_t wall_ms, char ret[TIMESTAMP_SIZE])
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm utc;
    unsigned ms = (unsigned)(wall_ms % 1000);

    (void)gmtime_r(&seconds, &utc);
    size_t length = strftime(ret, TIMESTAMP_SIZE, "%Y-%m-%dT%H:%M:%S", &utc);
    (void)snprintf(ret + length, TIMESTAMP_SIZE - length, ".%03uZ", ms % 1000);
}

int wait_sooner(int a, int b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}
