#include "api/rule_match.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/spec.h"
#include "base/json.h"
#include "renderers/private_ranges.h"

const char *const rule_verdict_names[] = {
    [RULE_ALLOWED] = "allowed",
    [RULE_DENIED] = "denied",
};

bool rule_host_equal(const char *a, const char *b)
{
    char first[RULE_HOST_MAX + 1], second[RULE_HOST_MAX + 1];

    return !rule_host_normal(a, strlen(a), first) && !rule_host_normal(b, strlen(b), second) &&
           strcmp(first, second) == 0;
}

/* The last part of a normal host is a number only in an address. */
bool rule_host_is_address(const char *normal)
{
    const char *dot = strrchr(normal, '.');

    return dot && dot[1 + strspn(dot + 1, "0123456789")] == '\0';
}

static bool host_matches(const struct egress_rule *rule, const char *host)
{
    size_t length = strlen(host), tail = strlen(rule->host);

    if (!rule->suffix)
        return strcmp(host, rule->host) == 0;
    return length > tail + 1 && host[length - tail - 1] == '.' &&
           strcmp(host + length - tail, rule->host) == 0;
}

const struct egress_rule *rules_match(const struct egress_rule *rules, size_t n_rules,
                                      const char *host, uint16_t port)
{
    char normal[RULE_HOST_MAX + 1];

    if (rule_host_normal(host, strlen(host), normal))
        return NULL;
    const bool needs_private = host_is_private(normal);
    for (size_t i = 0; i < n_rules; i++) {
        bool port_matches = rules[i].port ? rules[i].port == port : port == 443 || port == 80;
        if (port_matches && (rules[i].private_ok || !needs_private) &&
            host_matches(&rules[i], normal))
            return &rules[i];
    }
    return NULL;
}

void rule_text(const struct egress_rule *rule, char ret[RULE_TEXT_SIZE])
{
    const char *star = rule->suffix ? "*." : "";

    if (rule->port)
        (void)snprintf(ret, RULE_TEXT_SIZE, "%s%s:%u", star, rule->host, rule->port);
    else
        (void)snprintf(ret, RULE_TEXT_SIZE, "%s%s", star, rule->host);
}

int rules_decode(const json_t *list, struct egress_rule **ret, size_t *ret_count, struct error *err)
{
    size_t count = json_array_size(list);

    if (!json_is_array(list) || count > RULES_IN_LIST_MAX)
        return error_set(err, NULL, "no list of rules, or too many");
    struct egress_rule *rules = calloc(count + 1, sizeof *rules);
    if (!rules)
        return error_set(err, NULL, "out of memory");
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        const char *text =
            json_is_object(item) ? json_member_string(item, "host") : json_string_value(item);
        const char *wrong = text ? egress_rule_parse(text, &rules[i]) : "is no text";
        if (wrong) {
            rules_free(rules, i);
            return error_set(err, NULL, "rule %zu %s", i, wrong);
        }
        rules[i].private_ok = json_is_true(json_object_get(item, "private"));
    }
    *ret = rules;
    *ret_count = count;
    return 0;
}

int rules_copy(const struct egress_rule *rules, size_t n_rules, struct egress_rule **ret)
{
    struct egress_rule *copy = calloc(n_rules + 1, sizeof *copy);

    for (size_t i = 0; copy && i < n_rules; i++) {
        copy[i] = rules[i];
        copy[i].host = strdup(rules[i].host);
        if (!copy[i].host) {
            rules_free(copy, i);
            copy = NULL;
        }
    }
    if (!copy)
        return -1;
    *ret = copy;
    return 0;
}

void rules_free(struct egress_rule *rules, size_t n_rules)
{
    for (size_t i = 0; i < n_rules; i++)
        free((char *)rules[i].host);
    free(rules);
}
