/* squid.conf: an allow list by host and port, for `squid -N -f FILE` run by an ordinary user (squid
 * 5 and 6).
 *
 * How it decides: rules are tried in order, each by host, then port, then address. So a name that
 * no rule lists is refused without being looked up, and a listed one that resolves to a private
 * address is refused too, unless that very rule says that it may. All is in this one file; nothing
 * is kept on disk, and both logs go to the standard streams, which the shim reads. squid reads a
 * whole line as words: what is written here is checked against a strict character set first. */
#include <string.h>

#include "renderers/check.h"
#include "renderers/private_ranges.h"
#include "renderers/render.h"

/* http://www.squid-cache.org/Versions/v5/cfgman/ ; visible_hostname keeps the host's name off error
 * pages, and max_filedescriptors bounds a table that would otherwise be sized by the limit that
 * squid was started with.
 *
 * The timers: a tunnel ends when its server says nothing for read_timeout; so does a response,
 * and when its client has been there for client_lifetime, whatever flows. The others are for
 * requests that are long in coming. server_idle_pconn_timeout is squid's own: a server closes an
 * idle connection soon, and a request that is sent just then would be lost. */
static const char settings[] =
    "visible_hostname " PROXY_NAME "\n"
    "httpd_suppress_version_string on\n"
    "pid_filename none\n"
    "coredump_dir none\n"
    "cache_log /dev/stderr\n"
    "cache_store_log none\n"
    "netdb_filename none\n"
    "pinger_enable off\n"
    "digest_generation off\n"
    "global_internal_static off\n"
    "cache deny all\n"
    "cache_mem 0 MB\n"
    "memory_pools off\n"
    "max_filedescriptors 4096\n"
    "quick_abort_min 0 KB\n"
    "quick_abort_max 0 KB\n"
    "via off\n"
    "forwarded_for delete\n"
    "client_lifetime 30 days\n"
    "read_timeout 7 days\n"
    "write_timeout 7 days\n"
    "request_start_timeout 1 hour\n"
    "request_timeout 1 hour\n"
    "client_idle_pconn_timeout 1 hour\n"
    "server_idle_pconn_timeout 1 minute\n"
    "shutdown_lifetime 0 seconds\n"
    "err_page_stylesheet none\n"
    "logformat bottle {\"time\":\"%{%Y-%m-%dT%H:%M:%S}tg.%03tuZ\",\"client\":\"%>a\","
    "\"method\":\"%#.32rm\",\"target\":\"%#.2048ru\",\"status\":%>Hs,\"squid\":\"%Ss\",\"peer\":\"%"
    "<a\","
    "\"in\":%>st,\"out\":%<st,\"ms\":%tr}\n"
    "access_log stdio:/dev/stdout bottle\n";

static const char acls[] = "acl CONNECT method CONNECT\n"
                           "acl http proto HTTP\n"
                           "acl web_port port 80 443\n";

/* A line for each family. squid would take ::ffff:0:0/96 for all of IPv4, and compares a mapped
 * address with the IPv4 ranges. */
static void add_private(struct text *out)
{
    for (int family = 0; family < 2; family++) {
        text_add(out, "acl private dst");
        for (size_t i = 0; private_ranges[i]; i++)
            if ((strchr(private_ranges[i], ':') != NULL) == family)
                text_addf(out, " %s", private_ranges[i]);
        text_add(out, "\n");
    }
}

/* squid's ".host" also matches the host itself, which "*.host" does not: that one is taken off
 * again. */
static void add_rule(struct text *out, const struct egress_rule *rule, size_t number)
{
    bool bracket = strchr(rule->host, ':') != NULL;

    text_addf(out, "acl rule%zu dstdomain -n %s%s%s%s\n", number, rule->suffix ? "." : "",
              bracket ? "[" : "", rule->host, bracket ? "]" : "");
    if (rule->suffix)
        text_addf(out, "acl rule%zu_itself dstdomain -n %s\n", number, rule->host);
    if (rule->port)
        text_addf(out, "acl rule%zu_port port %u\n", number, rule->port);
    text_addf(out, "http_access allow rule%zu", number);
    if (rule->suffix)
        text_addf(out, " !rule%zu_itself", number);
    if (rule->port)
        text_addf(out, " rule%zu_port", number);
    else
        text_add(out, " web_port");
    text_add(out, rule->private_ok ? "\n" : " !private\n");
}

static int check_config(const struct proxy_config *config, struct error *err)
{
    if (!config->port)
        return error_set(err, NULL, "squid.conf: no port to listen on");
    for (size_t i = 0; i < config->n_rules; i++) {
        const struct egress_rule *rule = &config->rules[i];
        if (!check_host_name(rule->host) && (rule->suffix || !check_ip_literal(rule->host)))
            return error_set(err, NULL, "squid.conf: rule %zu is not well-formed", i);
    }
    return 0;
}

int render_squid(const struct proxy_config *config, struct text *out, struct error *err)
{
    char address[16];

    if (check_config(config, err) < 0)
        return -1;
    loopback_format(config->loopback, address);
    text_addf(out, "http_port %s:%u\n", address, config->port);
    text_add(out, settings);
    text_add(out, acls);
    add_private(out);
    /* Neither ftp:// nor squid's own pages: http:// and CONNECT, nothing else. */
    text_add(out, "http_access deny !CONNECT !http\nhttp_access deny manager\n");
    for (size_t i = 0; i < config->n_rules; i++)
        add_rule(out, &config->rules[i], i);
    text_add(out, "http_access deny all\n");
    return out->failed ? error_set(err, NULL, "squid.conf: out of memory") : 0;
}
