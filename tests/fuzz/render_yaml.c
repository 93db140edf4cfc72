/* gvproxy.yaml and pipelock.yaml, made of whatever strings: what is written is read back by
 * libyaml's parser as the input and nothing else. The first byte says which; then come its numbers
 * and its strings. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "renderers/render.h"
#include "tests/fuzz/take.h"

enum { RULES_MAX = 16 };

static yaml_document_t document;

static const char *scalar(const yaml_node_t *node)
{
    MUST(node && node->type == YAML_SCALAR_NODE);
    return (const char *)node->data.scalar.value;
}

/* The entry of a mapping that must be there. */
static yaml_node_t *entry(const yaml_node_t *map, const char *key)
{
    MUST(map && map->type == YAML_MAPPING_NODE);
    for (yaml_node_pair_t *pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top;
         pair++)
        if (strcmp(scalar(yaml_document_get_node(&document, pair->key)), key) == 0)
            return yaml_document_get_node(&document, pair->value);
    MUST(false);
    return NULL;
}

static size_t entries(const yaml_node_t *map)
{
    return (size_t)(map->data.mapping.pairs.top - map->data.mapping.pairs.start);
}

/* The item of a list that has so many. */
static yaml_node_t *item(const yaml_node_t *list, size_t number, size_t count)
{
    MUST(list && list->type == YAML_SEQUENCE_NODE);
    MUST((size_t)(list->data.sequence.items.top - list->data.sequence.items.start) == count);
    return number < count
               ? yaml_document_get_node(&document, list->data.sequence.items.start[number])
               : NULL;
}

/* A string that was quoted: nothing else is a string whatever it holds. */
static void same(const yaml_node_t *node, const char *value)
{
    MUST(strcmp(scalar(node), value) == 0);
    MUST(node->data.scalar.style == YAML_DOUBLE_QUOTED_SCALAR_STYLE);
}

static void same_number(const yaml_node_t *node, unsigned value)
{
    char words[16];

    (void)snprintf(words, sizeof words, "%u", value);
    MUST(strcmp(scalar(node), words) == 0);
    MUST(node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE);
}

static yaml_node_t *load(const struct text *text, yaml_parser_t *parser)
{
    MUST(text->data && yaml_parser_initialize(parser));
    yaml_parser_set_input_string(parser, (const unsigned char *)text->data, text->length);
    MUST(yaml_parser_load(parser, &document));
    return yaml_document_get_root_node(&document);
}

static void unload(yaml_parser_t *parser)
{
    yaml_document_t more;

    yaml_document_delete(&document);
    MUST(yaml_parser_load(parser, &more) && !yaml_document_get_root_node(&more)); /* one only */
    yaml_document_delete(&more);
    yaml_parser_delete(parser);
}

static void check_gvproxy(const struct network *network, const struct text *text)
{
    yaml_parser_t parser;
    yaml_node_t *root = load(text, &parser), *stack = entry(root, "stack");
    const yaml_node_t *zone = item(entry(root, "dns"), 0, 1),
                      *record = item(entry(zone, "records"), 0, 1);

    MUST(entries(root) == 8 && entries(stack) == 12);
    same(entry(root, "subnet"), network->subnet);
    same(entry(root, "gateway"), network->gateway);
    same(entry(zone, "zone"), ".");
    same(entry(record, "name"), PROXY_NAME);
    same(entry(record, "ip"), network->gateway);
    same(entry(stack, "subnet"), network->subnet);
    same(entry(stack, "gatewayIP"), network->gateway);
    same(entry(entry(stack, "nat"), network->gateway), LOOPBACK);
    same(entry(entry(stack, "dhcpStaticLeases"), network->guest_ip), network->guest_mac);
    for (size_t i = 0; i < network->n_forwards; i++) {
        const yaml_node_t *forward = item(entry(root, "port_forwards"), i, network->n_forwards);
        MUST(entries(forward) == 3);
        same_number(entry(forward, "gateway_port"), network->forwards[i].gateway_port);
        same(entry(forward, "host"), network->forwards[i].host);
        same_number(entry(forward, "host_port"), network->forwards[i].host_port);
    }
    (void)item(entry(root, "port_forwards"), 0, network->n_forwards);
    unload(&parser);
}

static void gvproxy(struct input *input)
{
    struct port_forward forwards[FORWARDS_MAX];
    size_t count = take_byte(input) % (FORWARDS_MAX + 1);
    CLEANUP_TEXT struct text text = TEXT_INIT;
    struct network network;
    char *words[4], hosts[FORWARDS_MAX][16];

    for (size_t i = 0; i < count; i++) {
        loopback_format(take_byte(input), hosts[i]);
        forwards[i] = (struct port_forward){
            .gateway_port = take_u16(input), .host = hosts[i], .host_port = take_u16(input)};
    }
    for (size_t i = 0; i < 4; i++)
        words[i] = take_string(input);
    network_build(&network, words[0], words[1], words[2], words[3], forwards, count);
    if (render_gvproxy(&network, &text, NULL) == 0)
        check_gvproxy(&network, &text);
    for (size_t i = 0; i < 4; i++)
        free(words[i]);
}

static void check_pipelock(const struct proxy_config *config, const struct text *text)
{
    yaml_parser_t parser;
    const yaml_node_t *root = load(text, &parser);
    char listen[32];

    MUST(entries(root) == 8);
    same(entry(root, "mode"), "strict");
    (void)snprintf(listen, sizeof listen, "127.0.%u.1:%u", config->loopback, config->port);
    same(entry(entry(root, "fetch_proxy"), "listen"), listen);
    for (size_t i = 0; i < config->n_rules; i++) {
        char host[300];
        (void)snprintf(host, sizeof host, "%s%s", config->rules[i].suffix ? "*." : "",
                       config->rules[i].host);
        same(item(entry(root, "api_allowlist"), i, config->n_rules), host);
    }
    (void)item(entry(root, "api_allowlist"), 0, config->n_rules);
    unload(&parser);
}

static void pipelock(struct input *input)
{
    struct egress_rule rules[RULES_MAX];
    CLEANUP_TEXT struct text text = TEXT_INIT;
    struct proxy_config config = {
        .loopback = take_byte(input), .port = take_u16(input), .rules = rules};

    for (; config.n_rules < RULES_MAX && input->at < input->end; config.n_rules++) {
        uint8_t kind = take_byte(input);
        rules[config.n_rules] = (struct egress_rule){.suffix = kind & 1,
                                                     .port = kind & 2 ? 443 : 0,
                                                     .private_ok = (kind & 12) == 12,
                                                     .host = take_string(input)};
    }
    if (render_pipelock(&config, &text, NULL) == 0)
        check_pipelock(&config, &text);
    for (size_t i = 0; i < config.n_rules; i++)
        free((char *)(uintptr_t)rules[i].host);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {bytes, bytes + length};

    if (take_bool(&input))
        pipelock(&input);
    else
        gvproxy(&input);
    return 0;
}
