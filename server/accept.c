#include "server/accept.h"

#include <string.h>
#include <strings.h>

/* Thousandths of the weight behind ";q="; 1000 without one, 0 when it can't be read. */
static int weight(const char *parameters, size_t length)
{
    for (size_t i = 0; i + 2 < length; i++) {
        if (parameters[i] != ';')
            continue;
        size_t at = i + 1 + strspn(parameters + i + 1, " \t");
        if (at + 2 > length || strncasecmp(parameters + at, "q=", 2) != 0)
            continue;
        const char *digits = parameters + at + 2;
        if (*digits != '0' && *digits != '1')
            return 0;
        int value = (*digits - '0') * 1000, scale = 100;
        if (digits[1] == '.')
            for (const char *c = digits + 2; *c >= '0' && *c <= '9' && scale > 0; c++, scale /= 10)
                value += (*c - '0') * scale;
        return value > 1000 ? 1000 : value;
    }
    return 1000;
}

/* How exactly a range covers an offer: 3 itself, 2 type/ *, 1 everything, 0 not. */
static int closeness(const char *range, size_t length, const char *offer)
{
    size_t type = strcspn(offer, "/") + 1;

    if (length == strlen(offer) && strncasecmp(range, offer, length) == 0)
        return 3;
    if (length == type + 1 && range[type] == '*' && strncasecmp(range, offer, type) == 0)
        return 2;
    return length == 3 && strncmp(range, "*/*", 3) == 0 ? 1 : 0;
}

/* The weight that the header gives an offer: that of the range which covers it most exactly. */
static int weight_of(const char *header, const char *offer)
{
    int best = 0, value = 0;

    for (const char *item = header; *item;) {
        item += strspn(item, ", \t");
        size_t length = strcspn(item, ",");
        size_t range = strcspn(item, ",; \t");
        int close = closeness(item, range, offer);
        if (close > best) {
            best = close;
            value = weight(item + range, length - range);
        }
        item += length;
    }
    return value;
}

int accept_choose(const char *header, const char *const *offers, size_t n_offers)
{
    int best = 0, choice = -1;

    if (!header || header[strspn(header, ", \t")] == '\0')
        return 0;
    for (size_t i = 0; i < n_offers; i++) {
        int value = weight_of(header, offers[i]);
        if (value > best) {
            best = value;
            choice = (int)i;
        }
    }
    return choice;
}
