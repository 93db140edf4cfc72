/* gvproxy.yaml: first the policy under its own keys, then the sections that gvproxy itself reads,
 * both from one struct network so that they can't disagree. gvproxy's parser is lax: it skips keys
 * that it does not know.
 *
 * No text in it comes from a client: addresses are allocated, paths are fixed names in the jails.
 */
#include <string.h>

#include "renderers/check.h"
#include "renderers/render.h"
#include "renderers/yaml.h"

enum { LINK_MTU = 1500 };

static int bad(struct error *err, const char *what)
{
    return error_set(err, NULL, "gvproxy.yaml: the network's %s is not well-formed", what);
}

/* The policy that the file must express: one zone for all names, one record, loopback only. */
static int check_policy(const struct network *network, struct error *err)
{
    const struct dns_zone *zone = &network->zone;

    if (!zone->zone || strcmp(zone->zone, ".") != 0 || zone->n_records != 1)
        return bad(err, "DNS zone");
    if (!check_host_name(zone->records[0].name) || !check_ipv4(zone->records[0].ip))
        return bad(err, "DNS record");
    if (network->n_forwards > FORWARDS_MAX)
        return bad(err, "number of forwards");
    for (size_t i = 0; i < network->n_forwards; i++) {
        const struct port_forward *forward = &network->forwards[i];
        if (!check_loopback(forward->host) || !forward->gateway_port || !forward->host_port)
            return bad(err, "port forward");
    }
    return 0;
}

static int check_network(const struct network *network, struct error *err)
{
    const struct {
        const char *name, *value;
        bool (*check)(const char *);
    } rows[] = {
        {"subnet", network->subnet, check_ipv4_subnet},
        {"gateway", network->gateway, check_ipv4},
        {"guest address", network->guest_ip, check_ipv4},
        {"gateway MAC", network->gateway_mac, check_mac},
        {"guest MAC", network->guest_mac, check_mac},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!rows[i].check(rows[i].value))
            return bad(err, rows[i].name);
    return check_policy(network, err);
}

static void entry(struct yaml_writer *writer, const char *key, const char *value)
{
    yaml_key(writer, key);
    yaml_string(writer, value);
}

static void entry_integer(struct yaml_writer *writer, const char *key, int64_t value)
{
    yaml_key(writer, key);
    yaml_integer(writer, value);
}

static void entry_empty_map(struct yaml_writer *writer, const char *key)
{
    yaml_key(writer, key);
    yaml_map(writer, true);
    yaml_map_end(writer);
}

/* key: {"name": "value"} */
static void entry_pair(struct yaml_writer *writer, const char *key, const char *name,
                       const char *value)
{
    yaml_key(writer, key);
    yaml_map(writer, true);
    yaml_string(writer, name);
    yaml_string(writer, value);
    yaml_map_end(writer);
}

static void policy_dns(struct yaml_writer *writer, const struct dns_zone *zone)
{
    yaml_key(writer, "dns");
    yaml_list(writer, false);
    yaml_map(writer, false);
    entry(writer, "zone", zone->zone);
    yaml_key(writer, "records");
    yaml_list(writer, false);
    for (size_t i = 0; i < zone->n_records; i++) {
        yaml_map(writer, false);
        entry(writer, "name", zone->records[i].name);
        entry(writer, "ip", zone->records[i].ip);
        yaml_map_end(writer);
    }
    yaml_list_end(writer);
    yaml_map_end(writer);
    yaml_list_end(writer);
}

static void policy_forwards(struct yaml_writer *writer, const struct network *network)
{
    yaml_key(writer, "port_forwards");
    yaml_list(writer, network->n_forwards == 0);
    for (size_t i = 0; i < network->n_forwards; i++) {
        const struct port_forward *forward = &network->forwards[i];
        yaml_map(writer, false);
        entry_integer(writer, "gateway_port", forward->gateway_port);
        entry(writer, "host", forward->host);
        entry_integer(writer, "host_port", forward->host_port);
        yaml_map_end(writer);
    }
    yaml_list_end(writer);
}

/* A regular expression that is the whole name in any case: gvproxy compares `name:` case by case.
 */
static void record_regexp(struct yaml_writer *writer, const char *name)
{
    CLEANUP_TEXT struct text pattern = TEXT_INIT;

    text_add(&pattern, "(?i)^");
    for (const char *c = name; *c; c++)
        text_addf(&pattern, *c == '.' ? "\\%c" : "%c", *c);
    text_add(&pattern, "$");
    if (pattern.failed)
        writer->failed = true;
    else
        entry(writer, "regexp", pattern.data);
}

/* "." in the policy means every name; gvproxy's word for that is "". */
static void stack_dns(struct yaml_writer *writer, const struct dns_zone *zone)
{
    yaml_key(writer, "dns");
    yaml_list(writer, false);
    yaml_map(writer, false);
    entry(writer, "name", "");
    yaml_key(writer, "records");
    yaml_list(writer, false);
    for (size_t i = 0; i < zone->n_records; i++) {
        yaml_map(writer, false);
        record_regexp(writer, zone->records[i].name);
        entry(writer, "ip", zone->records[i].ip);
        yaml_map_end(writer);
    }
    yaml_list_end(writer);
    yaml_map_end(writer);
    yaml_list_end(writer);
}

/* gvproxy's types.Configuration (pkg/types/configuration.go of gvisor-tap-vsock v0.8.9). An empty
 * `nat` would be filled again with the host's address, so it names the gateway: gateway:port is the
 * cell's 127.0.0.1:port. */
static void stack(struct yaml_writer *writer, const struct network *network)
{
    yaml_key(writer, "stack");
    yaml_map(writer, false);
    entry_integer(writer, "mtu", LINK_MTU);
    entry(writer, "subnet", network->subnet);
    entry(writer, "gatewayIP", network->gateway);
    entry(writer, "gatewayMacAddress", network->gateway_mac);
    stack_dns(writer, &network->zone);
    yaml_key(writer, "dnsSearchDomains");
    yaml_list(writer, true);
    yaml_list_end(writer);
    entry_empty_map(writer, "forwards");
    entry_pair(writer, "nat", network->gateway, LOOPBACK);
    yaml_key(writer, "gatewayVirtualIPs");
    yaml_list(writer, true);
    yaml_string(writer, network->gateway);
    yaml_list_end(writer);
    entry_pair(writer, "dhcpStaticLeases", network->guest_ip, network->guest_mac);
    entry_empty_map(writer, "vpnKitUUIDMacAddresses");
    yaml_key(writer, "ec2MetadataAccess");
    yaml_boolean(writer, false);
    yaml_map_end(writer);
}

int render_gvproxy(const struct network *network, struct text *out, struct error *err)
{
    struct yaml_writer writer;

    if (check_network(network, err) < 0)
        return -1;
    yaml_begin(&writer);
    yaml_map(&writer, false);
    entry(&writer, "subnet", network->subnet);
    entry(&writer, "gateway", network->gateway);
    policy_dns(&writer, &network->zone);
    policy_forwards(&writer, network);
    entry(&writer, "log-level", "info");
    yaml_key(&writer, "interfaces");
    yaml_map(&writer, false);
    entry(&writer, "vfkit", "unixgram://" JAIL_NET_SOCKET);
    yaml_map_end(&writer);
    entry(&writer, "services", "unix://" JAIL_SERVICES_SOCKET);
    stack(&writer, network);
    yaml_map_end(&writer);
    return yaml_finish(&writer, out, err);
}
