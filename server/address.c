#include "server/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"

socklen_t address_parse(const char *text, union address *ret)
{
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    char host[ADDRESS_SIZE];
    int64_t port;

    *ret = (union address){0};
    if (!colon || length >= sizeof host || number_parse(colon + 1, 0, 65535, &port) < 0)
        return 0;
    (void)snprintf(host, sizeof host, "%.*s", (int)length, text);
    if (strcmp(host, "localhost") == 0)
        (void)snprintf(host, sizeof host, "127.0.0.1");
    if (inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1) {
        ret->v4.sin_family = AF_INET;
        ret->v4.sin_port = htons((uint16_t)port);
        return sizeof ret->v4;
    }
    if (length < 2 || host[0] != '[' || host[length - 1] != ']')
        return 0;
    host[length - 1] = '\0';
    if (inet_pton(AF_INET6, host + 1, &ret->v6.sin6_addr) != 1)
        return 0;
    ret->v6.sin6_family = AF_INET6;
    ret->v6.sin6_port = htons((uint16_t)port);
    return sizeof ret->v6;
}

/* The IPv4 address, also one inside IPv6 (::ffff:a.b.c.d); NULL when it is none. */
static const uint8_t *v4_bytes(const union address *address)
{
    if (address->any.sa_family == AF_INET)
        return (const uint8_t *)&address->v4.sin_addr;
    if (address->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&address->v6.sin6_addr))
        return address->v6.sin6_addr.s6_addr + 12;
    return NULL;
}

void address_format(const union address *address, char ret[ADDRESS_SIZE])
{
    const uint8_t *v4 = v4_bytes(address);
    char host[INET6_ADDRSTRLEN];

    *ret = '\0';
    if (v4)
        (void)snprintf(ret, ADDRESS_SIZE, "%u.%u.%u.%u:%u", v4[0], v4[1], v4[2], v4[3],
                       address_port(address));
    else if (address->any.sa_family == AF_INET6 &&
             inet_ntop(AF_INET6, &address->v6.sin6_addr, host, sizeof host))
        (void)snprintf(ret, ADDRESS_SIZE, "[%s]:%u", host, address_port(address));
}

bool address_is_loopback(const union address *address)
{
    const uint8_t *v4 = v4_bytes(address);

    return v4 ? v4[0] == 127
              : address->any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr);
}

unsigned address_port(const union address *address)
{
    return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port : address->v4.sin_port);
}

/* What getsockname() or getpeername() says. */
static int look_up(int fd, int (*look)(int fd, struct sockaddr *address, socklen_t *length),
                   union address *ret)
{
    socklen_t length = sizeof *ret;

    *ret = (union address){0};
    return look(fd, &ret->any, &length) == 0 &&
                   (ret->any.sa_family == AF_INET || ret->any.sa_family == AF_INET6)
               ? 0
               : -1;
}

int address_local(int fd, union address *ret)
{
    return look_up(fd, getsockname, ret);
}

int address_peer(int fd, union address *ret)
{
    return look_up(fd, getpeername, ret);
}
