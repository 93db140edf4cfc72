/* Host ports: distinct, bindable, on loopback; the last free one is found. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "api/plan.h"
#include "base/util.h"

static bool none_taken(uint16_t port, void *context)
{
    (void)port;
    (void)context;
    return false;
}

static bool is_number(uint16_t port, void *context)
{
    return port == *(const uint16_t *)context;
}

/* A listener on that port of an address (0: any port); its port in *ret. */
static int listener(in_addr_t address, uint16_t port, uint16_t *ret)
{
    struct sockaddr_in name = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(address)}};
    socklen_t length = sizeof name;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_geq(fd, 0);
    if (bind(fd, (const struct sockaddr *)&name, sizeof name) < 0 || listen(fd, 1) < 0) {
        close(fd);
        return -1;
    }
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&name, &length), 0);
    *ret = ntohs(name.sin_port);
    return fd;
}

/* The first of `count` ports in a row that are all free at the moment. Each test has a stretch of
 * its own, since tests run at the same time. */
static uint16_t free_run(uint16_t from, size_t count)
{
    for (uint16_t first = from; first < from + 400; first++) {
        size_t good = 0;
        while (good < count) {
            uint16_t port;
            int fd = listener(INADDR_LOOPBACK, (uint16_t)(first + good), &port);
            if (fd < 0)
                break;
            close(fd);
            good++;
        }
        if (good == count)
            return first;
    }
    cr_assert(0, "no %zu free ports in a row", count);
    return 0;
}

Test(ports, distinct)
{
    uint16_t first = free_run(42000, 60), ports[60];
    struct error err = ERROR_INIT;
    bool seen[60] = {false};

    cr_assert_eq(ports_pick(0, first, first + 59, 60, none_taken, NULL, ports, &err), 0, "%s",
                 err.text);
    for (size_t i = 0; i < 60; i++) {
        cr_assert(ports[i] >= first && ports[i] <= first + 59);
        cr_assert_not(seen[ports[i] - first]);
        seen[ports[i] - first] = true;
    }
}

Test(ports, bindable)
{
    uint16_t first = free_run(42500, 8), ports[8], port;
    struct error err = ERROR_INIT;

    cr_assert_eq(ports_pick(0, first, first + 7, 3, none_taken, NULL, ports, &err), 0);
    for (size_t i = 0; i < 3; i++) {
        CLEANUP_CLOSE int fd = listener(INADDR_LOOPBACK, ports[i], &port);
        cr_expect_geq(fd, 0, "%u", ports[i]);
    }
}

Test(ports, loopback)
{
    uint16_t first = free_run(43000, 4), ports[4], port;
    struct error err = ERROR_INIT;
    CLEANUP_CLOSE int loopback = listener(INADDR_LOOPBACK, first, &port);
    CLEANUP_CLOSE int any = listener(INADDR_ANY, first + 1, &port);
    CLEANUP_CLOSE int other = listener(INADDR_LOOPBACK + 1, first + 2, &port);

    cr_assert(loopback >= 0 && any >= 0 && other >= 0);
    cr_assert_eq(ports_pick(0, first, first + 3, 2, none_taken, NULL, ports, &err), 0, "%s",
                 err.text);
    cr_assert_eq(ports[0], first + 2, "another loopback address is no hindrance");
    cr_assert_eq(ports[1], first + 3);
    cr_assert_eq(ports_pick(0, first, first + 3, 3, none_taken, NULL, ports, &err), -1);
    cr_assert_str_eq(err.kind, "no-free-port");
}

Test(ports, each_address_has_its_own)
{
    uint16_t first = free_run(43200, 2), ports[2], port;
    struct error err = ERROR_INIT;
    CLEANUP_CLOSE int here = listener(INADDR_LOOPBACK, first, &port);
    CLEANUP_CLOSE int there = listener(INADDR_LOOPBACK + (3 << 8), first + 1, &port);

    cr_assert(here >= 0 && there >= 0);
    cr_assert_eq(ports_pick(3, first, first + 1, 1, none_taken, NULL, ports, &err), 0);
    cr_expect_eq(ports[0], first, "what is listened on at 127.0.0.1 is free at 127.0.3.1");
    cr_assert_eq(ports_pick(0, first, first + 1, 1, none_taken, NULL, ports, &err), 0);
    cr_expect_eq(ports[0], first + 1);
    cr_expect_eq(ports_pick(3, first, first + 1, 2, none_taken, NULL, ports, &err), -1);
}

Test(ports, lowest_first_then_on_from_the_last)
{
    uint16_t first = free_run(43500, 6), ports[4];
    struct error err = ERROR_INIT;

    cr_assert_eq(ports_pick(0, first, first + 5, 2, none_taken, NULL, ports, &err), 0);
    cr_assert_eq(ports[0], first);
    cr_assert_eq(ports[1], first + 1);
    cr_assert_eq(ports_pick(0, first, first + 5, 3, none_taken, NULL, ports, &err), 0);
    cr_assert_eq(ports[0], first + 2);
    cr_assert_eq(ports_pick(0, first, first + 5, 2, none_taken, NULL, ports, &err), 0);
    cr_assert_eq(ports[0], first + 5);
    cr_assert_eq(ports[1], first, "around the end");
}

Test(ports, exactly_as_many_as_needed)
{
    uint16_t first = free_run(44000, 4), ports[4] = {1, 2, 3, 4};
    uint16_t gone = (uint16_t)(first + 2);
    struct error err = ERROR_INIT;

    for (int i = 0; i < 5; i++)
        cr_assert_eq(ports_pick(0, first, first + 3, 4, none_taken, NULL, ports, &err), 0);
    cr_assert_eq(ports_pick(0, first, first + 3, 3, is_number, &gone, ports, &err), 0);
    for (int i = 0; i < 3; i++)
        cr_expect_neq(ports[i], gone);
    memset(ports, 0, sizeof ports);
    cr_assert_eq(ports_pick(0, first, first + 3, 4, is_number, &gone, ports, &err), -1);
    cr_assert_eq(ports[0], 0, "the output is untouched");
    cr_assert_str_eq(err.kind, "no-free-port");
    cr_assert(strstr(err.text, "host_ports"));
}

Test(ports, odd_ranges)
{
    uint16_t ports[2] = {0};
    struct error err = ERROR_INIT;

    cr_assert_eq(ports_pick(0, 2000, 1999, 1, none_taken, NULL, ports, &err), -1);
    cr_assert_eq(ports_pick(0, 0, 0, 1, none_taken, NULL, ports, &err), -1);
    cr_assert_eq(ports_pick(0, 65535, 65535, 2, none_taken, NULL, ports, &err), -1);
    cr_assert_eq(ports_pick(0, 65535, 65535, 0, none_taken, NULL, ports, &err), 0);
}
