/* How a configuration comes to be: the file, then the flags over it, then
 * what is left to defaults, then what must hold between keys. */
#include "server/config.h"

#include <limits.h>
#include <stdio.h>
#include <sys/un.h>

#include "api/plan.h"
#include "base/number.h"
#include "base/text.h"
#include "base/util.h"
#include "server/address.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/config_keys.h"
#include "server/config_paths.h"
#include "server/tls.h"

/* --- Values ------------------------------------------------------------------------------- */

static int add_listen(struct config *config, const char *value, struct error *err)
{
    union address address;
    char words[ADDRESS_SIZE];

    if (config->n_listen == LISTEN_MAX)
        return error_set(err, NULL, "listen: at most %d addresses", LISTEN_MAX);
    if (address_parse(value, &address) == 0)
        return error_set(err, NULL,
                         "listen: \"%.64s\" is not ADDR:PORT, like 127.0.0.1:8080 or [::1]:8080",
                         value);
    address_format(&address, words);
    char *canonical = strdup(words);
    if (!canonical)
        return error_set(err, NULL, "listen: out of memory");
    config->listen[config->n_listen++] = canonical;
    return 0;
}

static int set_ports(struct config *config, const struct config_key *key, const char *value,
                     struct error *err)
{
    const char *dash = strchr(value, '-');
    char first[8];
    int64_t low, high;

    if (dash && (size_t)(dash - value) < sizeof first) {
        (void)snprintf(first, sizeof first, "%.*s", (int)(dash - value), value);
        if (number_parse(first, key->minimum, key->maximum, &low) == 0 &&
            number_parse(dash + 1, key->minimum, key->maximum, &high) == 0 &&
            high - low + 1 >= FORWARDS_MAX) {
            config->host_port_first = low;
            config->host_port_last = high;
            return 0;
        }
    }
    return error_set(
        err, NULL, "%s: \"%.64s\" is not FIRST-LAST within %lld-%lld, with room for %d ports",
        key->name, value, (long long)key->minimum, (long long)key->maximum, FORWARDS_MAX);
}

static int set_number(int64_t *field, const struct config_key *key, const char *value,
                      struct error *err)
{
    int64_t number;

    if (key->type == CONFIG_DURATION) {
        if (duration_parse(value, &number) < 0 || number < key->minimum || number > key->maximum)
            return error_set(
                err, NULL,
                "%s: \"%.64s\" is not a time like 500ms, 30s or 5m between %lldms and %lldms",
                key->name, value, (long long)key->minimum, (long long)key->maximum);
    } else if (number_parse(value, key->minimum, key->maximum, &number) < 0) {
        return error_set(err, NULL, "%s: \"%.64s\" is not an integer between %lld and %lld",
                         key->name, value, (long long)key->minimum, (long long)key->maximum);
    }
    *field = number;
    return 0;
}

static bool choice_fits(const char *choices, const char *value)
{
    size_t length = strlen(value);

    for (const char *choice = choices; choice;
         choice = strchr(choice, '|') ? strchr(choice, '|') + 1 : NULL)
        if (strcspn(choice, "|") == length && strncmp(choice, value, length) == 0)
            return true;
    return false;
}

/* Puts a string (taken over) into a field. */
static int set_string(char **field, char *value, const struct config_key *key, struct error *err)
{
    if (!value)
        return error_set(err, NULL, "%s: out of memory", key->name);
    free(*field);
    *field = value;
    return 0;
}

#define WORD_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

/* "https://ci.example,http://localhost:3000": scheme, host, and the port where it is not the
 * scheme's own, as browsers write them. */
static bool origins_valid(const char *value)
{
    while (*value) {
        size_t scheme = strncmp(value, "https://", 8) == 0  ? 8
                        : strncmp(value, "http://", 7) == 0 ? 7
                                                            : 0;
        size_t host = strspn(value + scheme, "abcdefghijklmnopqrstuvwxyz0123456789.-:[]");
        if (scheme == 0 || host == 0)
            return false;
        value += scheme + host;
        if (*value && *value++ != ',')
            return false;
    }
    return true;
}

int config_set(struct config *config, const struct config_key *key, const char *value,
               struct error *err)
{
    void *field = (char *)config + key->offset;

    switch (key->type) {
    case CONFIG_PATH:
        if (!*value && !key->initial) /* an unset variable of a shell's */
            return error_set(err, NULL, "%s: the path is empty; leave it out to have the default",
                             key->name);
        return set_string(field, path_absolute(value), key, err);
    case CONFIG_PATHS:
        return set_string(field, paths_absolute(value), key, err);
    case CONFIG_HOSTS:
        if (value[strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789.-:,")] != '\0')
            return error_set(err, NULL, "%s: \"%.64s\" is no list like docker.io,ghcr.io:443",
                             key->name, value);
        return set_string(field, strdup(value), key, err);
    case CONFIG_NAMES:
        if (value[strspn(value,
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_,")])
            return error_set(err, NULL, "%s: \"%.64s\" is no list like API_KEY,CI_TOKEN", key->name,
                             value);
        return set_string(field, strdup(value), key, err);
    case CONFIG_WORD:
        if (value[strspn(value, WORD_CHARACTERS)])
            return error_set(err, NULL, "%s: \"%.64s\" is no name", key->name, value);
        return set_string(field, strdup(value), key, err);
    case CONFIG_ORIGINS:
        if (!origins_valid(value))
            return error_set(
                err, NULL, "%s: \"%.64s\" is no list like https://ci.example,http://localhost:3000",
                key->name, value);
        return set_string(field, strdup(value), key, err);
    case CONFIG_CHOICE:
        if (!choice_fits(key->choices, value))
            return error_set(err, NULL, "%s: \"%.64s\" is none of %s", key->name, value,
                             key->choices);
        return set_string(field, strdup(value), key, err);
    case CONFIG_INTEGER:
    case CONFIG_DURATION:
        return set_number(field, key, value, err);
    case CONFIG_PORTS:
        return set_ports(config, key, value, err);
    case CONFIG_BOOLEAN:
        if (!choice_fits("true|false", value))
            return error_set(err, NULL, "%s: \"%.64s\" is neither true nor false", key->name,
                             value);
        *(bool *)field = strcmp(value, "true") == 0;
        return 0;
    case CONFIG_LISTEN:
        return add_listen(config, value, err);
    }
    return -1;
}

/* --- Flags -------------------------------------------------------------------------------- */

struct flags {
    const char **values; /* per row of config_keys; NULL: not given */
    const char *listen[LISTEN_MAX];
    unsigned n_listen;
    bool help, version;
};

/* Does the argument name this flag? Its "=value" is then in *ret_value, else NULL. */
static bool flag_fits(const char *argument, const char *name, const char **ret_value)
{
    const char *rest = argument + 2;

    for (; *name; name++, rest++)
        if (*rest != (*name == '_' ? '-' : *name))
            return false;
    if (*rest != '\0' && *rest != '=')
        return false;
    *ret_value = *rest ? rest + 1 : NULL;
    return true;
}

/* A flag that is a row: keeps its value. Returns how many arguments it used, or -1. */
static int take_row(struct flags *flags, const struct config_key *key, const char *value,
                    const char *next, struct error *err)
{
    const char **kept = &flags->values[key - config_keys];
    int used = 1;

    if (!value && key->type == CONFIG_BOOLEAN) {
        value = "true";
    } else if (!value) {
        if (!next)
            return error_set(err, NULL, "--%s wants a value; see bottled --help", key->name);
        value = next;
        used = 2;
    }
    if (key->type == CONFIG_LISTEN) {
        if (flags->n_listen == LISTEN_MAX)
            return error_set(err, NULL, "listen: at most %d addresses", LISTEN_MAX);
        flags->listen[flags->n_listen++] = value;
    } else if (*kept) {
        return error_set(err, NULL, "%s is given twice", key->name);
    }
    *kept = value;
    return used;
}

/* The flags that are no keys of the file. Returns how many arguments it used, 0 when it is none of
 * them, or -1. */
static int take_special(struct config *config, struct flags *flags, const char *argument,
                        const char *next, struct error *err)
{
    const struct {
        const char *name;
        bool *flag;
    } switches[] = {{"check_config", &config->check_only},
                    {"print_config", &config->print_only},
                    {"version", &flags->version},
                    {"help", &flags->help}};
    const char *value;

    for (size_t i = 0; i < COUNT_OF(switches); i++) {
        if (!flag_fits(argument, switches[i].name, &value))
            continue;
        if (value)
            return error_set(err, NULL, "%s takes no value", argument);
        *switches[i].flag = true;
        return 1;
    }
    if (!flag_fits(argument, "config", &value))
        return 0;
    if (config->config_file)
        return error_set(err, NULL, "--config is given twice");
    if (!value && !next)
        return error_set(err, NULL, "--config wants a file");
    config->config_file = path_absolute(value ? value : next);
    return config->config_file ? (value ? 1 : 2) : error_set(err, NULL, "out of memory");
}

static int take_flags(int argc, char **argv, struct config *config, struct flags *flags,
                      struct error *err)
{
    for (int i = 1; i < argc;) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL, *value = NULL;
        if (strncmp(argv[i], "--", 2) != 0 || argv[i][2] == '\0')
            return error_set(err, NULL, "\"%.64s\" is no flag; see bottled --help", argv[i]);
        int used = take_special(config, flags, argv[i], next, err);
        for (size_t k = 0; used == 0 && k < n_config_keys; k++)
            if (flag_fits(argv[i], config_keys[k].name, &value))
                used = take_row(flags, &config_keys[k], value, next, err);
        if (used < 0)
            return -1;
        if (used == 0)
            return error_set(err, NULL, "there is no flag \"%.64s\"; see bottled --help", argv[i]);
        i += used;
    }
    return 0;
}

static int apply_flags(struct config *config, const struct flags *flags, struct error *err)
{
    for (unsigned i = 0; flags->n_listen && i < config->n_listen; i++)
        free(config->listen[i]);
    if (flags->n_listen)
        config->n_listen = 0;
    for (unsigned i = 0; i < flags->n_listen; i++)
        if (add_listen(config, flags->listen[i], err) < 0)
            return -1;
    for (size_t i = 0; i < n_config_keys; i++)
        if (flags->values[i] && config_keys[i].type != CONFIG_LISTEN &&
            config_set(config, &config_keys[i], flags->values[i], err) < 0)
            return -1;
    return 0;
}

static char *help_text(void)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;

    text_add(&out, "bottled: a REST control plane for microVMs that reach their own sidecars and "
                   "nothing else.\n\n"
                   "  bottled [--config FILE] [flags]\n  bottled token create|list|revoke\n\nEach "
                   "flag but the first five is also a "
                   "key of the file "
                   "(YAML, with underscores); a flag wins.\n\n"
                   "  --config FILE\n        read the configuration from FILE\n"
                   "  --check-config\n        say whether the configuration is right, and end\n"
                   "  --print-config\n        print the whole configuration as YAML, and end\n"
                   "  --version\n  --help\n");
    for (size_t i = 0; i < n_config_keys; i++) {
        const struct config_key *key = &config_keys[i];
        char name[32];
        (void)snprintf(name, sizeof name, "%s", key->name);
        for (char *c = name; *c; c++)
            if (*c == '_')
                *c = '-';
        text_addf(&out, "  --%s%s%s\n        %s", name, key->words ? " " : "",
                  key->words ? key->words : "", key->doc);
        if (key->initial && *key->initial)
            text_addf(&out, " (default: %s)", key->initial);
        text_add(&out, "\n");
    }
    text_add(&out, "\nExit status: 0 asked to end, 1 failed, 2 wrong flags or configuration.\n");
    return text_take(&out);
}

/* --- Defaults and what must hold ---------------------------------------------------------- */

static int set_initial(struct config *config, struct error *err)
{
    for (size_t i = 0; i < n_config_keys; i++)
        if (config_keys[i].initial &&
            config_set(config, &config_keys[i], config_keys[i].initial, err) < 0)
            return -1;
    config->uid_base = geteuid() == 0 ? 1900000000 : 0;
    return 0;
}

static int check(const struct config *config, struct error *err)
{
    struct auth auth;
    struct unix_group group;

    if (strlen(config->socket) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return error_set(err, NULL,
                         "socket: \"%.200s\" is longer than the %zu bytes that the kernel takes",
                         config->socket, sizeof((struct sockaddr_un *)NULL)->sun_path - 1);
    if (!*config->tls_cert != !*config->tls_key)
        return error_set(err, NULL, "tls_cert and tls_key go together; one of them is missing");
    for (unsigned i = 0; i < config->n_listen; i++) {
        union address address;
        if (address_parse(config->listen[i], &address) > 0 && !address_is_loopback(&address) &&
            !*config->tls_cert && !config->insecure_listen)
            return error_set(
                err, NULL,
                "listen: %s is not loopback, and tokens would cross the network in the clear; set "
                "tls_cert and tls_key, or insecure_listen where that is meant",
                config->listen[i]);
    }
    if (geteuid() == 0 ? config->uid_base < 65536 : config->uid_base != 0)
        return error_set(
            err, NULL,
            "uid_base: as root at least 65536, as a user 0 (bottles then run as that user)");
    if (config->max_waiters >= config->max_connections)
        return error_set(
            err, NULL,
            "max_waiters has to be below max_connections, or waiting clients shut out all others");
    if (*config->tls_cert && tls_check(config->tls_cert, config->tls_key, err) < 0)
        return -1;
    if (unix_group_find(config->socket_group, &group, err) < 0)
        return -1;
    return auth_load(config->token_file, &auth, err);
}

static int load(int argc, char **argv, struct config *config, struct flags *flags,
                struct error *err)
{
    if (set_initial(config, err) < 0 || take_flags(argc, argv, config, flags, err) < 0)
        return -1;
    if (flags->help || flags->version)
        return 0;
    if (config->config_file && config_read_file(config, config->config_file, err) < 0)
        return -1;
    if (apply_flags(config, flags, err) < 0 || config_fill_paths(config, err) < 0)
        return -1;
    return check(config, err);
}

/* Prints what was asked for; 1, or 0 when nothing was. */
static int say(const struct config *config, const struct flags *flags)
{
    CLEANUP_FREE char *words = NULL;

    if (flags->help) {
        words = help_text();
    } else if (flags->version) {
        words = strdup("bottled " BOTTLED_VERSION "\n");
    } else if (config->print_only) {
        words = config_text(config);
    } else if (config->check_only) {
        words = strdup("the configuration is right\n");
    } else {
        return 0;
    }
    (void)fputs(words ? words : "", stdout);
    (void)fflush(stdout);
    return 1;
}

int config_load(int argc, char **argv, struct config *ret, struct error *err)
{
    struct config config = {0};
    struct flags flags = {.values = calloc(n_config_keys, sizeof(char *))};
    int result = flags.values ? load(argc, argv, &config, &flags, err)
                              : error_set(err, NULL, "out of memory");

    if (result == 0)
        result = say(&config, &flags);
    free(flags.values);
    if (result == 0)
        *ret = config;
    else
        config_free(&config);
    return result;
}

void config_free(struct config *config)
{
    for (size_t i = 0; i < n_config_keys; i++)
        if (config_keys[i].type <= CONFIG_CHOICE)
            free(*(char **)((char *)config + config_keys[i].offset));
    for (unsigned i = 0; i < config->n_listen; i++)
        free(config->listen[i]);
    free(config->config_file);
    *config = (struct config){0};
}
