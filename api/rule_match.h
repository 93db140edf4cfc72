/* Which egress rule allows a host and port: the one answer that everybody gives who asks.
 *
 * A host that a rule could not be written for (an address in another form than four decimal
 * numbers, a name with an empty part, anything that is not ASCII) is allowed by no rule, so that
 * two readers of one text can't take it for two hosts. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "renderers/render.h"

enum {
    RULE_HOST_MAX = 253,
    RULE_TEXT_SIZE = RULE_HOST_MAX + sizeof "*.:65535",
    RULES_IN_LIST_MAX = 4096,
};

enum rule_verdict { RULE_ALLOWED, RULE_DENIED };

/* "allowed", "denied". */
extern const char *const rule_verdict_names[];

/* Lower case, one trailing dot dropped. NULL, or what is wrong with it (static text that ends a
 * sentence), and then nothing is written. */
const char *rule_host_normal(const char *text, size_t length, char ret[RULE_HOST_MAX + 1]);
/* Whether both are well-formed and the same host. */
bool rule_host_equal(const char *a, const char *b);
/* Four decimal numbers, as a normal host has them. */
bool rule_host_is_address(const char *normal);

/* The first rule that allows `host` in any spelling; NULL: none does. One that can lead to no
 * public address takes a rule that says "private". Borrowed from `rules`. */
const struct egress_rule *rules_match(const struct egress_rule *rules, size_t n_rules,
                                      const char *host, uint16_t port);
/* As its author wrote it: "*.example.org:8443". */
void rule_text(const struct egress_rule *rule, char ret[RULE_TEXT_SIZE]);

/* An array of "host[:port]" and {"host": "host[:port]", "private": true}. The rules are released
 * with rules_free. */
int rules_decode(const json_t *list, struct egress_rule **ret, size_t *ret_count,
                 struct error *err);
int rules_copy(const struct egress_rule *rules, size_t n_rules, struct egress_rule **ret);
void rules_free(struct egress_rule *rules, size_t n_rules);
