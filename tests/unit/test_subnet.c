/* Subnets: stable, within 254, never 17, moving on when taken, and going on past 253. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "api/plan.h"

static bool none_taken(unsigned subnet, void *context)
{
    (void)subnet;
    (void)context;
    return false;
}

static bool all_taken(unsigned subnet, void *context)
{
    (void)subnet;
    (void)context;
    return true;
}

static bool in_map(unsigned subnet, void *context)
{
    return ((const bool *)context)[subnet];
}

static unsigned pick(const char *slug, subnet_taken *taken, void *context)
{
    struct error err = ERROR_INIT;
    unsigned number = SUBNETS_MAX;

    cr_assert_eq(subnet_pick(slug, taken, context, &number, &err), 0, "%s", err.text);
    return number;
}

Test(subnet, stable)
{
    /* The numbers themselves: a change of the hash would move every bottle. */
    static const struct {
        const char *slug;
        unsigned number;
    } cases[] = {{"", 2166136261u % 254}, {"a", 0xe40c292cu % 254}, {"foobar", 0xbf9cf968u % 254}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_eq(pick(cases[i].slug, none_taken, NULL), cases[i].number, "%s", cases[i].slug);
        cr_expect_eq(pick(cases[i].slug, none_taken, NULL), pick(cases[i].slug, none_taken, NULL));
    }
}

Test(subnet, within_254)
{
    char slug[32];

    for (int i = 0; i < 5000; i++) {
        (void)snprintf(slug, sizeof slug, "bottle-%d", i);
        cr_assert_lt(pick(slug, none_taken, NULL), 254);
    }
}

Test(subnet, never_17)
{
    char slug[32];
    int met = 0;

    for (int i = 0; i < 5000; i++) {
        (void)snprintf(slug, sizeof slug, "bottle-%d", i);
        unsigned number = pick(slug, none_taken, NULL);
        cr_assert_neq(number, 17);
        met += number == 18;
    }
    cr_assert_gt(met, 0, "who would have had 17 has 18");
}

Test(subnet, moves_on_when_taken)
{
    static bool taken[SUBNETS_MAX];
    unsigned first = pick("a", none_taken, NULL);

    for (unsigned i = 0; i < 253; i++) {
        unsigned number = pick("a", in_map, taken);
        unsigned wanted = (first + i) % 254;
        cr_assert_lt(number, 254);
        cr_assert_not(taken[number]);
        if (first + i < 17)
            cr_assert_eq(number, wanted);
        taken[number] = true;
    }
    cr_assert_not(taken[17]);
    cr_assert_geq(pick("a", in_map, taken), 254, "past 253 it goes on in 10.128.0.0/9");
}

Test(subnet, all_of_them_and_then_an_error)
{
    static bool taken[SUBNETS_MAX];
    struct error err = ERROR_INIT;
    unsigned number = 7;

    for (unsigned i = 0; i < SUBNETS_MAX; i++)
        taken[i] = i != SUBNETS_MAX - 1 && i != 17;
    cr_assert_eq(pick("a", in_map, taken), SUBNETS_MAX - 1, "the last one is found");
    cr_assert_eq(subnet_pick("a", all_taken, NULL, &number, &err), -1);
    cr_assert_eq(number, 7);
    cr_assert_str_eq(err.kind, "no-free-subnet");
}

Test(subnet, addresses)
{
    static const struct {
        unsigned number;
        const char *subnet, *gateway, *guest, *mac;
    } cases[] = {
        {0, "192.168.0.0/24", "192.168.0.1", "192.168.0.2", "5a:94:ef:00:00:00"},
        {50, "192.168.50.0/24", "192.168.50.1", "192.168.50.2", "5a:94:ef:00:00:32"},
        {253, "192.168.253.0/24", "192.168.253.1", "192.168.253.2", "5a:94:ef:00:00:fd"},
        {254, "10.128.0.0/24", "10.128.0.1", "10.128.0.2", "5a:94:ef:00:00:fe"},
        {254 + 256, "10.129.0.0/24", "10.129.0.1", "10.129.0.2", "5a:94:ef:00:01:fe"},
        {33021, "10.255.255.0/24", "10.255.255.1", "10.255.255.2", "5a:94:ef:00:80:fd"},
        {33022, "10.0.0.0/28", "10.0.0.1", "10.0.0.2", "5a:94:ef:00:80:fe"},
        {33022 + 17, "10.0.1.16/28", "10.0.1.17", "10.0.1.18", "5a:94:ef:00:81:0f"},
        {SUBNETS_MAX - 1, "10.127.255.240/28", "10.127.255.241", "10.127.255.242",
         "5a:94:ef:08:80:fd"},
    };
    char subnet[20], gateway[16], guest[16], mac[18];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        subnet_format(cases[i].number, subnet, gateway, guest);
        subnet_mac(cases[i].number, mac);
        cr_expect_str_eq(subnet, cases[i].subnet);
        cr_expect_str_eq(gateway, cases[i].gateway);
        cr_expect_str_eq(guest, cases[i].guest);
        cr_expect_str_eq(mac, cases[i].mac);
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

Test(subnet, every_number_has_its_own_addresses_and_mac)
{
    static char macs[SUBNETS_MAX][18], subnets[SUBNETS_MAX][20];
    char gateway[16], guest[16];

    for (unsigned i = 0; i < SUBNETS_MAX; i++) {
        subnet_mac(i, macs[i]);
        subnet_format(i, subnets[i], gateway, guest);
        cr_assert_str_neq(macs[i], GATEWAY_MAC);
    }
    qsort(macs, SUBNETS_MAX, sizeof macs[0], by_text);
    qsort(subnets, SUBNETS_MAX, sizeof subnets[0], by_text);
    for (unsigned i = 1; i < SUBNETS_MAX; i++) {
        cr_assert_str_neq(macs[i], macs[i - 1]);
        cr_assert_str_neq(subnets[i], subnets[i - 1]);
    }
}
