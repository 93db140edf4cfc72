/* The character sets, one function each. Locale-free: ctype.h would ask the environment. */
#include "renderers/check.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/number.h"

#define DIGITS "0123456789"
#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

enum { NAME_MAX_LENGTH = 253, LABEL_MAX_LENGTH = 63, MAC_LENGTH = 17 };

static bool consists_of(const char *text, const char *set)
{
    return *text && !text[strspn(text, set)];
}

bool check_ipv4(const char *text)
{
    struct in_addr address;

    return text && inet_pton(AF_INET, text, &address) == 1;
}

bool check_loopback(const char *text)
{
    struct in_addr address;

    return text && inet_pton(AF_INET, text, &address) == 1 &&
           (ntohl(address.s_addr) & 0xffff00ffU) == INADDR_LOOPBACK;
}

bool check_ipv4_subnet(const char *text)
{
    char address[INET_ADDRSTRLEN];
    const char *slash = text ? strchr(text, '/') : NULL;
    int64_t bits;

    if (!slash || (size_t)(slash - text) >= sizeof address)
        return false;
    memcpy(address, text, (size_t)(slash - text));
    address[slash - text] = '\0';
    return check_ipv4(address) && consists_of(slash + 1, DIGITS) &&
           number_parse(slash + 1, 0, 32, &bits) == 0;
}

bool check_mac(const char *text)
{
    if (!text || strlen(text) != MAC_LENGTH)
        return false;
    for (size_t i = 0; i < MAC_LENGTH; i++)
        if (!strchr(i % 3 == 2 ? ":" : DIGITS "abcdef", text[i]))
            return false;
    return true;
}

static bool reads_as_number(const char *label)
{
    return consists_of(label, DIGITS) ||
           (strncmp(label, "0x", 2) == 0 && !label[2 + strspn(label + 2, DIGITS "abcdef")]);
}

bool check_host_name(const char *text)
{
    const char *label = text;

    if (!text || !*text || strlen(text) > NAME_MAX_LENGTH)
        return false;
    for (;;) {
        size_t length = strspn(label, LOWER DIGITS "_-");
        if (length == 0 || length > LABEL_MAX_LENGTH || label[0] == '-' || label[length - 1] == '-')
            return false;
        if (!label[length])
            return !reads_as_number(label);
        if (label[length] != '.')
            return false;
        label += length + 1;
    }
}

bool check_ip_literal(const char *text)
{
    struct in6_addr address;
    char canonical[INET6_ADDRSTRLEN];

    if (check_ipv4(text))
        return true;
    return text && inet_pton(AF_INET6, text, &address) == 1 &&
           inet_ntop(AF_INET6, &address, canonical, sizeof canonical) &&
           strcmp(text, canonical) == 0;
}

bool check_jail_path(const char *text)
{
    return text && text[0] == '/' && consists_of(text, LOWER UPPER DIGITS "._/+-");
}

size_t utf8_decode(const char *text, unsigned *ret_point)
{
    static const struct {
        unsigned char mask, lead;
        unsigned least; /* smallest code point that needs this many bytes */
    } forms[] = {{0x80, 0x00, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    unsigned char lead = (unsigned char)text[0];

    if (!lead)
        return 0;
    for (size_t more = 0; more < sizeof forms / sizeof forms[0]; more++) {
        if ((lead & forms[more].mask) != forms[more].lead)
            continue;
        unsigned point = lead & (unsigned char)~forms[more].mask;
        for (size_t i = 1; i <= more; i++) {
            if (((unsigned char)text[i] & 0xc0) != 0x80)
                return 0;
            point = point << 6 | ((unsigned char)text[i] & 0x3f);
        }
        if (point < forms[more].least || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
            return 0;
        *ret_point = point;
        return more + 1;
    }
    return 0;
}

bool check_utf8(const char *text)
{
    unsigned point;

    if (!text)
        return false;
    while (*text) {
        size_t length = utf8_decode(text, &point);
        if (length == 0)
            return false;
        text += length;
    }
    return true;
}
