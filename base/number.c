#include "base/number.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

int number_parse(const char *text, int64_t min, int64_t max, int64_t *ret)
{
    char *end;
    size_t digits = strspn(*text == '-' ? text + 1 : text, "0123456789");

    if (digits == 0)
        return -1;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end || value < min || value > max)
        return -1;
    *ret = value;
    return 0;
}

int duration_parse(const char *text, int64_t *ret_ms)
{
    static const struct {
        const char *suffix;
        int64_t ms;
    } units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    const int64_t day_ms = 86400000;
    size_t digits = strspn(text, "0123456789");
    char number[16] = {0};
    int64_t value;

    if (digits == 0 || digits >= sizeof number)
        return -1;
    memcpy(number, text, digits);
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (strcmp(text + digits, units[i].suffix) != 0)
            continue;
        if (number_parse(number, 0, day_ms / units[i].ms, &value) < 0)
            return -1;
        *ret_ms = value * units[i].ms;
        return 0;
    }
    return -1;
}
