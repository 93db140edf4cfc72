/* Egress rules: "host", "*.suffix", "host:port", "192.0.2.1", each checked and brought to one form.
 *
 * Strict, since a rule that is taken and then matches nothing (or something else than its author
 * read) is worse than one that is refused: no addresses in the forms that only inet_aton() knows
 * ("127.1", "0x7f.1"), no Unicode, no scheme, no path. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/rule_match.h"
#include "api/spec.h"
#include "base/number.h"

enum { LABEL_MAX = 63, RULE_MAX = 255 };

#define LETTERS "abcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"

/* Four decimal numbers of 0–255 without leading zeros. */
static bool ipv4_valid(const char *host)
{
    int parts = 0;

    for (const char *at = host;; at++) {
        char number[4] = {0};
        int64_t value;
        size_t length = strspn(at, DIGITS);
        if (length == 0 || length > 3 || (length > 1 && *at == '0'))
            return false;
        memcpy(number, at, length);
        if (number_parse(number, 0, 255, &value) < 0)
            return false;
        parts++;
        at += length;
        if (*at != '.')
            return *at == '\0' && parts == 4;
    }
}

/* Whether a resolver would read the name as an address: its last label is a number, also a
 * hexadecimal one (https://url.spec.whatwg.org/#ends-in-a-number-checker). */
static bool looks_numeric(const char *host)
{
    const char *dot = strrchr(host, '.');
    const char *last = dot ? dot + 1 : host;
    bool hexadecimal = last[0] == '0' && last[1] == 'x';

    return last[strspn(last, DIGITS)] == '\0' ||
           (hexadecimal && last[2 + strspn(last + 2, DIGITS "abcdef")] == '\0');
}

/* A lower-case host name: NULL, or what is wrong. */
static const char *name_wrong(const char *host)
{
    size_t length = strlen(host);

    if (length == 0)
        return "has no host name";
    if (length > RULE_HOST_MAX)
        return "has a host name of more than 253 characters";
    for (const char *label = host; label;) {
        size_t size = strcspn(label, ".");
        if (size == 0)
            return "has an empty part between two dots";
        if (size > LABEL_MAX)
            return "has a part of more than 63 characters between its dots";
        if (strspn(label, LETTERS DIGITS "-_") < size)
            return "has a character that no host name has (letters, digits, '-', '_' and '.' are)";
        if (label[0] == '-' || label[size - 1] == '-')
            return "has a part that begins or ends with '-'";
        label = label[size] ? label + size + 1 : NULL;
    }
    return NULL;
}

/* What people write instead of a rule, and what to write: NULL when it is none of these. */
static const char *shape_wrong(const char *text)
{
    if (strcmp(text, "*") == 0 || strncmp(text, "*:", 2) == 0)
        return "would allow every host; name the hosts, or a suffix as \"*.example.org\"";
    if (strstr(text, "://"))
        return "is a URL; write the host alone, as \"example.org\" or \"example.org:8443\"";
    if (strchr(text, '/'))
        return "has a '/': write a host, without a path or a network's length";
    if (strchr(text, '@'))
        return "has a '@': write the host alone";
    if (text[0] == '[' || (strchr(text, ':') != strrchr(text, ':')))
        return "is an IPv6 address, which bottles can't reach: write a host name or an IPv4 "
               "address";
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c >= 0x80)
            return "is not ASCII: write an international name in its \"xn--\" form";
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            return "has a space or a control character in it";
    }
    if (strchr(strncmp(text, "*.", 2) == 0 ? text + 2 : text, '*'))
        return "has a '*' elsewhere than in a leading \"*.\"";
    return NULL;
}

/* Splits "host:port"; writes the host in lower case, without its final dot. */
static const char *split(const char *text, char ret_host[RULE_MAX + 1], int64_t *ret_port)
{
    size_t length = strcspn(text, ":");

    *ret_port = 0;
    if (text[length] && number_parse(text + length + 1, 1, 65535, ret_port) < 0)
        return "has a port that is not a number from 1 to 65535";
    if (text[length] && text[length + 1] == '0')
        return "has a port with a leading zero";
    for (size_t i = 0; i < length; i++)
        ret_host[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a' : text[i]);
    if (length > 1 && ret_host[length - 1] == '.')
        length--;
    ret_host[length] = '\0';
    return NULL;
}

const char *rule_host_normal(const char *text, size_t length, char ret[RULE_HOST_MAX + 1])
{
    char host[RULE_HOST_MAX + 1] = {0};

    if (length > 1 && text[length - 1] == '.')
        length--;
    if (length > RULE_HOST_MAX)
        return "has a host name of more than 253 characters";
    if (memchr(text, '\0', length))
        return "has a NUL in it";
    for (size_t i = 0; i < length; i++)
        host[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a' : text[i]);
    const char *wrong = name_wrong(host);
    if (wrong)
        return wrong;
    if (looks_numeric(host) && !ipv4_valid(host))
        return "looks like an address and is none";
    memcpy(ret, host, sizeof host);
    return NULL;
}

const char *egress_rule_parse(const char *text, struct egress_rule *ret)
{
    char host[RULE_MAX + 1] = {0};
    int64_t port;
    bool suffix = strncmp(text, "*.", 2) == 0;

    if (*text == '\0')
        return "is empty";
    if (strlen(text) > RULE_MAX)
        return "is longer than 255 bytes";
    const char *wrong = shape_wrong(text);
    if (!wrong)
        wrong = split(suffix ? text + 2 : text, host, &port);
    if (!wrong)
        wrong = name_wrong(host);
    if (wrong)
        return wrong;
    if (looks_numeric(host) && suffix)
        return "has a \"*.\" before an address";
    if (looks_numeric(host) && !ipv4_valid(host))
        return "looks like an address and is none: write all four numbers, as \"192.0.2.1\"";
    char *owned = strdup(host);
    if (!owned)
        return "could not be kept: memory is short";
    *ret = (struct egress_rule){.host = owned, .suffix = suffix, .port = (uint16_t)port};
    return NULL;
}
