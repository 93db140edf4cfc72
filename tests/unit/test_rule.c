/* One egress rule as text: what is taken, and as what, and what is refused. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "api/spec.h"
#include "base/text.h"
#include "base/util.h"

Test(egress_rule, taken)
{
    static const struct {
        const char *text, *host;
        bool suffix;
        uint16_t port;
    } cases[] = {{"example.com", "example.com", false, 0},
                 {"EXAMPLE.Com.", "example.com", false, 0},
                 {"*.example.com", "example.com", true, 0},
                 {"*.Example.com.:8443", "example.com", true, 8443},
                 {"example.com:1", "example.com", false, 1},
                 {"example.com:65535", "example.com", false, 65535},
                 {"192.0.2.1", "192.0.2.1", false, 0},
                 {"192.0.2.1.", "192.0.2.1", false, 0},
                 {"0.0.0.0:80", "0.0.0.0", false, 80},
                 {"255.255.255.255", "255.255.255.255", false, 0},
                 {"registry", "registry", false, 0},
                 {"_srv._tcp.example", "_srv._tcp.example", false, 0},
                 {"xn--bcher-kva.example", "xn--bcher-kva.example", false, 0},
                 {"1.example", "1.example", false, 0},
                 {"a-b.c-d", "a-b.c-d", false, 0},
                 {"0xyz", "0xyz", false, 0}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct egress_rule rule = {0};
        const char *wrong = egress_rule_parse(cases[i].text, &rule);
        cr_assert_null(wrong, "%s: %s", cases[i].text, wrong);
        cr_expect_str_eq(rule.host, cases[i].host);
        cr_expect_eq(rule.suffix, cases[i].suffix, "%s", cases[i].text);
        cr_expect_eq(rule.port, cases[i].port, "%s", cases[i].text);
        free((char *)rule.host);
    }
}

#define A10 "aaaaaaaaaa"
#define A60 A10 A10 A10 A10 A10 A10

static const char *const wrong_rules[] = {"",
                                          "*",
                                          "*:443",
                                          "*.",
                                          "*..com",
                                          "*.*.com",
                                          "a*.com",
                                          "*com",
                                          "a.*",
                                          ".",
                                          "..",
                                          ".com",
                                          "a..b",
                                          "a..",
                                          "a b",
                                          " a",
                                          "a ",
                                          "a\tb",
                                          "a\n",
                                          "http://a",
                                          "https://a.example/x",
                                          "a/b",
                                          "10.0.0.0/8",
                                          "user@a",
                                          "a:",
                                          "a:0",
                                          "a:65536",
                                          "a:443x",
                                          "a:-1",
                                          "a:0443",
                                          "a:1:2",
                                          "a:+1",
                                          ":443",
                                          "[::1]",
                                          "[::1]:443",
                                          "::1",
                                          "fe80::1",
                                          "-a.com",
                                          "a-.com",
                                          "a.-b",
                                          "a%41.com",
                                          "a,b",
                                          "a;b",
                                          "a\"b",
                                          "a'b",
                                          "a\\b",
                                          "a$b",
                                          "a#b",
                                          "1.2.3",
                                          "1.2.3.4.5",
                                          "1.2.3.256",
                                          "01.2.3.4",
                                          "127.1",
                                          "0x7f.1",
                                          "0x7f000001",
                                          "2130706433",
                                          "a.0x7f",
                                          "a.1",
                                          "*.1.2.3.4",
                                          "caf\xc3\xa9.example",
                                          A60 "aaaa.com",
                                          A60 "." A60 "." A60 "." A60 ".aaaaaaaaaa",
                                          A60 A60 A60 A60 "aaaaaaaaaaaaaaaa"};

Test(egress_rule, refused)
{
    for (size_t i = 0; i < COUNT_OF(wrong_rules); i++) {
        const char *text = wrong_rules[i];
        struct egress_rule rule = {.port = 7};
        const char *wrong = egress_rule_parse(text, &rule);
        cr_expect(wrong, "%s", text);
        cr_expect(rule.port == 7 && !rule.host, "%s: the output is untouched", text);
    }
}
