/* One egress rule as text: what is taken, and as what (what is refused: test_spec.c). */
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
