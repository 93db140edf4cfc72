#include "shim/lonely.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/util.h"

enum { LOOPBACK_INDEX = 1, LOOPBACK_NET = 127, LOOPBACK_BITS = 8, V6_BITS = 128 };

/* The attribute of that type of a message whose own struct has `skip` bytes, or NULL. */
static const struct rtattr *attribute(const struct nlmsghdr *message, size_t skip,
                                      unsigned short type)
{
    const char *at = (const char *)NLMSG_DATA(message) + NLMSG_ALIGN(skip);
    size_t left =
        message->nlmsg_len < NLMSG_SPACE(skip) ? 0 : message->nlmsg_len - NLMSG_SPACE(skip);

    while (left >= sizeof(struct rtattr)) {
        const struct rtattr *found = (const struct rtattr *)at;
        size_t length = RTA_ALIGN(found->rta_len);
        if (found->rta_len < sizeof *found || found->rta_len > left)
            return NULL;
        if (found->rta_type == type)
            return found;
        if (length >= left)
            return NULL;
        at += length;
        left -= length;
    }
    return NULL;
}

static bool link_leads_out(const struct nlmsghdr *message, char *ret, size_t size)
{
    const struct ifinfomsg *link = NLMSG_DATA(message);
    const struct rtattr *name = attribute(message, sizeof *link, IFLA_IFNAME);

    if (!(link->ifi_flags & IFF_UP) ||
        ((link->ifi_flags & IFF_LOOPBACK) && link->ifi_index == LOOPBACK_INDEX))
        return false;
    (void)snprintf(ret, size, "the network interface %.*s is up", name ? (int)RTA_PAYLOAD(name) : 1,
                   name ? (const char *)RTA_DATA(name) : "?");
    return true;
}

/* Is it one of the routes that lo's own addresses bring? */
static bool is_own_route(const struct rtmsg *route, const struct rtattr *to)
{
    const uint8_t *address = to ? RTA_DATA(to) : NULL;

    if (route->rtm_family == AF_INET)
        return to && RTA_PAYLOAD(to) == sizeof(struct in_addr) && address[0] == LOOPBACK_NET &&
               route->rtm_dst_len >= LOOPBACK_BITS;
    return to && RTA_PAYLOAD(to) == sizeof(struct in6_addr) && route->rtm_dst_len == V6_BITS &&
           IN6_IS_ADDR_LOOPBACK((const struct in6_addr *)address);
}

static bool route_leads_out(const struct nlmsghdr *message, char *ret, size_t size)
{
    const struct rtmsg *route = NLMSG_DATA(message);
    const struct rtattr *to = attribute(message, sizeof *route, RTA_DST);
    const struct rtattr *device = attribute(message, sizeof *route, RTA_OIF);
    char address[INET6_ADDRSTRLEN] = "everywhere";
    int index = 0;

    /* Routes that say no. */
    if (route->rtm_type == RTN_UNREACHABLE || route->rtm_type == RTN_BLACKHOLE ||
        route->rtm_type == RTN_PROHIBIT || route->rtm_type == RTN_THROW)
        return false;
    if (device && RTA_PAYLOAD(device) == sizeof index)
        memcpy(&index, RTA_DATA(device), sizeof index);
    if (index == LOOPBACK_INDEX && is_own_route(route, to))
        return false;
    if (to &&
        (RTA_PAYLOAD(to) == sizeof(struct in_addr) || RTA_PAYLOAD(to) == sizeof(struct in6_addr)))
        (void)inet_ntop(route->rtm_family, RTA_DATA(to), address, sizeof address);
    (void)snprintf(ret, size, "a route leads to %s/%u over interface number %d", address,
                   route->rtm_dst_len, index);
    return true;
}

bool lonely_message_leads_out(const struct nlmsghdr *message, char *ret, size_t size)
{
    if (message->nlmsg_type == RTM_NEWLINK &&
        message->nlmsg_len >= NLMSG_LENGTH(sizeof(struct ifinfomsg)))
        return link_leads_out(message, ret, size);
    if (message->nlmsg_type == RTM_NEWROUTE &&
        message->nlmsg_len >= NLMSG_LENGTH(sizeof(struct rtmsg)))
        return route_leads_out(message, ret, size);
    (void)snprintf(ret, size, "the kernel's table has an entry of an unknown kind (%u)",
                   message->nlmsg_type);
    return true;
}

/* Goes through one packet of a dump: 1 when more come, 0 at its end, -1 on a way out. */
static int take_packet(const char *packet, size_t length, struct error *err)
{
    char words[256];

    while (length >= sizeof(struct nlmsghdr)) {
        const struct nlmsghdr *message = (const struct nlmsghdr *)packet;
        size_t size = NLMSG_ALIGN(message->nlmsg_len);
        if (message->nlmsg_len < sizeof *message || message->nlmsg_len > length)
            return error_set(err, NULL, "a broken answer of the kernel");
        if (message->nlmsg_type == NLMSG_DONE)
            return 0;
        if (message->nlmsg_type == NLMSG_ERROR)
            return error_set(err, NULL, "the kernel does not show its tables");
        if (lonely_message_leads_out(message, words, sizeof words))
            return error_set(err, NULL, "%s", words);
        if (size >= length)
            break;
        packet += size;
        length -= size;
    }
    return 1;
}

static int look_through(int fd, unsigned short type, struct error *err)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg body; /* the larger of the two requests' bodies; all zero: everything */
    } request = {.header = {.nlmsg_len = sizeof request,
                            .nlmsg_type = type,
                            .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
    _Alignas(struct nlmsghdr) char packet[32768];
    int more = 1;

    if (send(fd, &request, sizeof request, 0) < 0)
        return error_errno(err, NULL, "asking the kernel");
    while (more > 0) {
        ssize_t got = recv(fd, packet, sizeof packet, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return error_errno(err, NULL, "asking the kernel");
        more = take_packet(packet, (size_t)got, err);
    }
    return more;
}

int lonely_check(struct error *err)
{
    CLEANUP_CLOSE int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    if (fd < 0)
        return error_errno(err, NULL, "netlink");
    return look_through(fd, RTM_GETLINK, err) < 0 || look_through(fd, RTM_GETROUTE, err) < 0 ? -1
                                                                                             : 0;
}
