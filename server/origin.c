#include "server/origin.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Is `host` this name with this port, which may be left out where it is the scheme's own? */
static bool is_at(const char *host, const char *name, size_t length, unsigned port, bool tls)
{
    char words[8];

    if (strncasecmp(host, name, length) != 0)
        return false;
    if (host[length] == '\0')
        return port == (tls ? 443 : 80);
    (void)snprintf(words, sizeof words, ":%u", port);
    return strcmp(host + length, words) == 0;
}

static bool is_named(const char *names, const char *host, unsigned port, bool tls)
{
    for (const char *name = names; *name;) {
        size_t length = strcspn(name, ",");
        bool has_port = memchr(name, ':', length) != NULL;
        if (length > 0 && (has_port ? strlen(host) == length && strncasecmp(host, name, length) == 0
                                    : is_at(host, name, length, port, tls)))
            return true;
        name += length + (name[length] == ',');
    }
    return false;
}

bool host_fits(const union address *local, bool tls, const char *names, const char *host)
{
    unsigned port = address_port(local);
    char address[ADDRESS_SIZE];

    if (!host || !*host)
        return false;
    address_format(local, address);
    const char *colon = strrchr(address, ':');
    if (colon && is_at(host, address, (size_t)(colon - address), port, tls))
        return true;
    if (address_is_loopback(local) && is_at(host, "localhost", strlen("localhost"), port, tls))
        return true;
    return is_named(names, host, port, tls);
}

bool origin_is_same(const char *origin, const char *host, bool tls)
{
    size_t scheme = strncmp(origin, "https://", 8) == 0          ? 8
                    : !tls && strncmp(origin, "http://", 7) == 0 ? 7
                                                                 : 0;

    return scheme > 0 && host && strcasecmp(origin + scheme, host) == 0;
}

bool list_has(const char *list, const char *item)
{
    size_t length = strlen(item);

    for (const char *at = list; *at;) {
        size_t span = strcspn(at, ",");
        if (span == length && strncmp(at, item, length) == 0)
            return true;
        at += span + (at[span] == ',');
    }
    return false;
}
