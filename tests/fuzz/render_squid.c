/* squid.conf, made of whatever rules: read back as squid reads it, a line at a time and a line in
 * words, it allows the hosts of the rules and nothing else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "renderers/render.h"
#include "tests/fuzz/take.h"

enum { RULES_MAX = 16, WORDS_MAX = 64 };

/* Cuts a line into its words, as squid does. */
static size_t split(char *line, char **words)
{
    size_t count = 0;
    char *next = NULL;

    for (char *word = strtok_r(line, " \t\r", &next); word; word = strtok_r(NULL, " \t\r", &next)) {
        MUST(count < WORDS_MAX);
        words[count++] = word;
    }
    return count;
}

static bool is(char **words, size_t count, size_t number, const char *word)
{
    return number < count && strcmp(words[number], word) == 0;
}

/* The lines of a rule: its list, the list of itself, of its port, and what they allow. */
static void check_rule(char **words, size_t count, const struct egress_rule *rule, size_t number)
{
    char name[32], itself[40], port[40], digits[8], host[300];

    (void)snprintf(name, sizeof name, "rule%zu", number);
    (void)snprintf(itself, sizeof itself, "rule%zu_itself", number);
    (void)snprintf(port, sizeof port, "rule%zu_port", number);
    (void)snprintf(digits, sizeof digits, "%u", rule->port);
    (void)snprintf(host, sizeof host, strchr(rule->host, ':') ? "[%s]" : "%s%s",
                   strchr(rule->host, ':') ? rule->host
                   : rule->suffix          ? "."
                                           : "",
                   strchr(rule->host, ':') ? "" : rule->host);
    if (is(words, count, 0, "acl")) {
        MUST(is(words, count, 1, name) ? count == 5 && strcmp(words[4], host) == 0
             : is(words, count, 1, itself)
                 ? rule->suffix && count == 5 && strcmp(words[4], rule->host) == 0
                 : is(words, count, 1, port) && rule->port && count == 4 &&
                       strcmp(words[3], digits) == 0);
        return;
    }
    size_t at = 2;
    MUST(is(words, count, 0, "http_access") && is(words, count, 1, "allow"));
    MUST(is(words, count, at++, name));
    if (rule->suffix) {
        MUST(words[at][0] == '!' && strcmp(words[at] + 1, itself) == 0);
        at++;
    }
    MUST(is(words, count, at++, rule->port ? port : "web_port"));
    MUST(rule->private_ok || is(words, count, at++, "!private"));
    MUST(at == count);
}

/* Which of the rules a line is about; -1: it is one of those that every file has. */
static int rule_of(const char *line)
{
    const char *word = strstr(line, " rule");
    char *end;

    if (strncmp(line, "acl rule", 8) != 0 && strncmp(line, "http_access allow rule", 22) != 0)
        return -1;
    long number = strtol(word + 5, &end, 10);
    MUST(end > word + 5 && number >= 0 && number < RULES_MAX);
    return (int)number;
}

static void check(const struct proxy_config *config, const char *fixed, char *text)
{
    unsigned allowed[RULES_MAX] = {0};
    char *next = NULL, *words[WORDS_MAX];

    for (char *line = strtok_r(text, "\n", &next); line; line = strtok_r(NULL, "\n", &next)) {
        int rule = rule_of(line);
        if (rule < 0) {
            MUST(strstr(fixed, line) || strncmp(line, "http_port 127.0.0.1:", 20) == 0);
            continue;
        }
        MUST((size_t)rule < config->n_rules);
        allowed[rule] += line[0] == 'h';
        check_rule(words, split(line, words), &config->rules[rule], (size_t)rule);
    }
    for (size_t i = 0; i < config->n_rules; i++)
        MUST(allowed[i] == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct text fixed; /* the file of no rule */
    struct input input = {bytes, bytes + length};
    struct egress_rule rules[RULES_MAX];
    CLEANUP_TEXT struct text text = TEXT_INIT;
    struct proxy_config config = {.port = take_u16(&input), .rules = rules};

    if (!fixed.data) {
        const struct proxy_config none = {.port = 1};
        MUST(render_squid(&none, &fixed, NULL) == 0);
    }
    for (; config.n_rules < RULES_MAX && input.at < input.end; config.n_rules++) {
        uint8_t kind = take_byte(&input);
        rules[config.n_rules] = (struct egress_rule){.suffix = kind & 1,
                                                     .private_ok = kind & 2,
                                                     .port = kind & 4 ? take_u16(&input) : 0,
                                                     .host = take_string(&input)};
    }
    if (render_squid(&config, &text, NULL) == 0)
        check(&config, fixed.data, text.data);
    for (size_t i = 0; i < config.n_rules; i++)
        free((char *)(uintptr_t)rules[i].host);
    return 0;
}
