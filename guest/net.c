#include "guest/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/number.h"
#include "base/util.h"

enum {
    NIC_TRIES = 400, /* of 5 ms */
    HOSTNAME_MAX = 64,
};

static const char nic[] = "eth0";

static void put_address(struct sockaddr *ret, struct in_addr address)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = address};

    memcpy(ret, &in, sizeof in);
}

static struct ifreq request_for(const char *name)
{
    struct ifreq request = {0};

    memcpy(request.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
    return request;
}

static int set_up(int fd, const char *name, struct error *err)
{
    struct ifreq request = request_for(name);

    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        return error_errno(err, NULL, "reading the state of the network device %s", name);
    request.ifr_flags = (short)(request.ifr_flags | IFF_UP | IFF_RUNNING);
    if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        return error_errno(err, NULL, "bringing the network device %s up", name);
    return 0;
}

static int set_address(int fd, unsigned long what, struct in_addr address, struct error *err)
{
    struct ifreq request = request_for(nic);

    put_address(&request.ifr_addr, address);
    if (ioctl(fd, what, &request) < 0)
        return error_errno(err, NULL, "giving the network device %s its address", nic);
    return 0;
}

static int set_default_route(int fd, struct in_addr gateway, struct error *err)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};

    put_address(&route.rt_dst, (struct in_addr){0});
    put_address(&route.rt_genmask, (struct in_addr){0});
    put_address(&route.rt_gateway, gateway);
    if (ioctl(fd, SIOCADDRT, &route) < 0)
        return error_errno(err, NULL, "setting the default route");
    return 0;
}

static bool wait_for_nic(int fd)
{
    struct ifreq request = request_for(nic);

    for (int i = 0; i < NIC_TRIES; i++) {
        if (ioctl(fd, SIOCGIFINDEX, &request) == 0)
            return true;
        (void)poll(NULL, 0, 5);
    }
    return false;
}

/* While the card is down. One restored from a template has the template's. */
static int set_mac(int fd, const uint8_t mac[ETH_ALEN], struct error *err)
{
    static const uint8_t none[ETH_ALEN];
    struct ifreq request = request_for(nic);

    if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
        return error_errno(err, NULL, "reading the address of the network device %s", nic);
    if (memcmp(mac, none, ETH_ALEN) == 0 || memcmp(request.ifr_hwaddr.sa_data, mac, ETH_ALEN) == 0)
        return 0;
    memcpy(request.ifr_hwaddr.sa_data, mac, ETH_ALEN);
    return ioctl(fd, SIOCSIFHWADDR, &request) < 0
               ? error_errno(err, NULL, "giving the network device %s its own address", nic)
               : 0;
}

/* The gateway speaks IPv4 only: the device's own IPv6 chatter would be noise in its log. */
static void quiet_ipv6(void)
{
    CLEANUP_CLOSE int fd = open("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", O_WRONLY | O_CLOEXEC);

    if (fd >= 0 && write(fd, "1", 1) != 1)
        return; /* a kernel without IPv6 is as good */
}

/* A kernel with the dummy driver built in has a dummy0 of its own accord. A bottle has lo and its
 * card. What can't be taken away is harmless: it leads nowhere. */
static void remove_dummy(void)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg link;
    } request = {
        .header = {.nlmsg_len = sizeof request,
                   .nlmsg_type = RTM_DELLINK,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .link = {.ifi_family = AF_UNSPEC, .ifi_index = (int)if_nametoindex("dummy0")},
    };
    char answer[256];

    if (request.link.ifi_index == 0)
        return;
    CLEANUP_CLOSE int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd >= 0 && send(fd, &request, sizeof request, 0) == (ssize_t)sizeof request)
        (void)recv(fd, answer, sizeof answer, 0); /* done once it is answered */
}

/* "192.168.50.2/24" */
static int read_address(const char *text, struct in_addr *ret_own, struct in_addr *ret_mask)
{
    const char *slash = strchr(text, '/');
    char address[INET_ADDRSTRLEN];
    int64_t bits;

    if (!slash || number_parse(slash + 1, 1, 30, &bits) < 0 ||
        snprintf(address, sizeof address, "%.*s", (int)(slash - text), text) >= (int)sizeof address)
        return -1;
    ret_mask->s_addr = htonl(UINT32_MAX << (32 - bits));
    return inet_pton(AF_INET, address, ret_own) == 1 ? 0 : -1;
}

int net_up(const struct start_message *start, struct error *err)
{
    const char *hostname = start->hostname;
    struct in_addr own, next, mask;

    if (strlen(hostname) > HOSTNAME_MAX || sethostname(hostname, strlen(hostname)) < 0)
        return error_errno(err, NULL, "setting the host name");
    if (read_address(start->address, &own, &mask) < 0 ||
        inet_pton(AF_INET, start->gateway, &next) != 1)
        return error_set(err, NULL, "the start message's addresses are not IPv4 addresses");
    CLEANUP_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(err, NULL, "opening a socket");
    if (set_up(fd, "lo", err) < 0)
        return -1;
    if (!wait_for_nic(fd))
        return error_set(err, NULL, "this machine has no network device %s", nic);
    quiet_ipv6();
    remove_dummy();
    if (set_mac(fd, start->mac, err) < 0 || set_address(fd, SIOCSIFADDR, own, err) < 0 ||
        set_address(fd, SIOCSIFNETMASK, mask, err) < 0 || set_up(fd, nic, err) < 0)
        return -1;
    return set_default_route(fd, next, err);
}
