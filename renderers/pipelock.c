/* pipelock.yaml: the same allow list for pipelock 2.3. It has no rule by port (an allowed host is
 * allowed on any), so a rule for a port of its own is refused rather than widened; so is one that
 * may reach private addresses, which its ssrf section opens to every host. Its "*.x" also matches
 * x.
 *
 * Each listener that it opens gets the bottle's own port, on loopback addresses of its own (the
 * metrics page 127.0.<n>.9): two bottles never meet, and that page is not on the address that the
 * guest's traffic is relayed to. */
#include <stdio.h>

#include "renderers/check.h"
#include "renderers/render.h"
#include "renderers/yaml.h"

enum { DAY_SECONDS = 86400, REQUESTS_PER_MINUTE = 1000000 };

static int check_config(const struct proxy_config *config, struct error *err)
{
    if (!config->port)
        return error_set(err, NULL, "pipelock.yaml: no port to listen on");
    for (size_t i = 0; i < config->n_rules; i++) {
        const struct egress_rule *rule = &config->rules[i];
        if (!check_host_name(rule->host) && (rule->suffix || !check_ip_literal(rule->host)))
            return error_set(err, NULL, "pipelock.yaml: rule %zu is not well-formed", i);
        if (rule->private_ok)
            return error_set(err, "unsupported-rule",
                             "pipelock can't open private addresses to one host alone: leave "
                             "private out of the rule for %s%s, or choose the squid engine",
                             rule->suffix ? "*." : "", rule->host);
        if (rule->port && rule->port != 443 && rule->port != 80)
            return error_set(err, "unsupported-rule",
                             "pipelock has no rule by port: %s%s:%u can't be expressed; leave the "
                             "port out, or choose the squid engine",
                             rule->suffix ? "*." : "", rule->host, rule->port);
    }
    return 0;
}

static void key_listen(struct yaml_writer *writer, const char *key, const char *address,
                       unsigned port)
{
    char listen[64];

    (void)snprintf(listen, sizeof listen, "%s:%u", address, port);
    yaml_key(writer, key);
    yaml_string(writer, listen);
}

static void key_integer(struct yaml_writer *writer, const char *key, int64_t value)
{
    yaml_key(writer, key);
    yaml_integer(writer, value);
}

static void key_boolean(struct yaml_writer *writer, const char *key, bool value)
{
    yaml_key(writer, key);
    yaml_boolean(writer, value);
}

static void section(struct yaml_writer *writer, const char *key)
{
    yaml_key(writer, key);
    yaml_map(writer, false);
}

static void allow_list(struct yaml_writer *writer, const struct proxy_config *config)
{
    yaml_key(writer, "api_allowlist");
    yaml_list(writer, config->n_rules == 0);
    for (size_t i = 0; i < config->n_rules; i++) {
        char host[260];
        (void)snprintf(host, sizeof host, "%s%s", config->rules[i].suffix ? "*." : "",
                       config->rules[i].host);
        yaml_string(writer, host);
    }
    yaml_list_end(writer);
}

/* Tunnels may live and idle for a day. The sentry section is off because presets carry an address
 * to report to; dlp.scan_env would read the environment, which is empty. */
int render_pipelock(const struct proxy_config *config, struct text *out, struct error *err)
{
    struct yaml_writer writer;
    char address[16], metrics[16];

    if (check_config(config, err) < 0)
        return -1;
    loopback_format(config->loopback, address);
    (void)snprintf(metrics, sizeof metrics, "127.0.%u.9", config->loopback % LOOPBACKS_MAX);
    yaml_begin(&writer);
    yaml_map(&writer, false);
    key_integer(&writer, "version", 1);
    yaml_key(&writer, "mode");
    yaml_string(&writer, "strict");
    allow_list(&writer, config);
    key_listen(&writer, "metrics_listen", metrics, config->port);
    section(&writer, "fetch_proxy");
    key_listen(&writer, "listen", address, config->port);
    section(&writer, "monitoring");
    key_integer(&writer, "max_requests_per_minute", REQUESTS_PER_MINUTE);
    yaml_map_end(&writer);
    yaml_map_end(&writer);
    section(&writer, "forward_proxy");
    key_boolean(&writer, "enabled", true);
    key_integer(&writer, "max_tunnel_seconds", DAY_SECONDS);
    key_integer(&writer, "idle_timeout_seconds", DAY_SECONDS);
    yaml_map_end(&writer);
    section(&writer, "dlp");
    key_boolean(&writer, "scan_env", false);
    yaml_map_end(&writer);
    section(&writer, "sentry");
    key_boolean(&writer, "enabled", false);
    yaml_map_end(&writer);
    yaml_map_end(&writer);
    return yaml_finish(&writer, out, err);
}
