/* The configuration: every row of its table as a flag and as a YAML key, what is refused and in
 * which words, and that what
 * --print-config prints loads back the same. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/util.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/config_keys.h"
#include "server/config_paths.h"

/* A value of each type that differs from every default. */
static const char *example(const struct config_key *key)
{
    static char words[64];

    switch (key->type) {
    case CONFIG_PATH:
        (void)snprintf(words, sizeof words, "/example/%s", key->name);
        return words;
    case CONFIG_PATHS:
        return "/example/a:/example/b";
    case CONFIG_HOSTS:
        return "a.example,b.example:5000";
    case CONFIG_NAMES:
        return "API_KEY,_b2";
    case CONFIG_WORD:
        return "root";
    case CONFIG_ORIGINS:
        return "https://a.example,http://localhost:3000";
    case CONFIG_CHOICE:
        return strrchr(key->choices, '|') + 1;
    case CONFIG_INTEGER:
        (void)snprintf(words, sizeof words, "%lld", (long long)(key->minimum + 7));
        return words;
    case CONFIG_DURATION:
        (void)snprintf(words, sizeof words, "%lldms", (long long)(key->minimum + 7));
        return words;
    case CONFIG_PORTS:
        return "2000-3000";
    case CONFIG_BOOLEAN:
        return "true";
    case CONFIG_LISTEN:
        return "127.0.0.1:8080";
    }
    return NULL;
}

Test(config, table_rows_are_whole)
{
    for (size_t i = 0; i < n_config_keys; i++) {
        const struct config_key *key = &config_keys[i];
        cr_expect_eq(config_key(key->name), key, "%s is there twice", key->name);
        cr_expect(strlen(key->name) < 32 &&
                  strspn(key->name, "abcdefghijklmnopqrstuvwxyz_") == strlen(key->name));
        cr_expect(key->doc && *key->doc, "%s has no words for --help", key->name);
        cr_expect_eq(key->type == CONFIG_CHOICE, key->choices != NULL, "%s", key->name);
        if (key->initial) {
            struct config config = {0};
            struct error err = ERROR_INIT;
            cr_expect_eq(config_set(&config, key, key->initial, &err), 0, "default of %s: %s",
                         key->name, err.text);
            config_free(&config);
        } else if (key->type == CONFIG_PATH) {
            struct config config = {0};
            cr_expect_eq(config_set(&config, key, "", NULL), -1, "%s may not be empty", key->name);
            config_free(&config);
        }
    }
}

/* Every row as a line of YAML, then all of them printed, read and printed again. */
Test(config, every_key_round_trips)
{
    for (size_t i = 0; i < n_config_keys; i++) {
        const struct config_key *key = &config_keys[i];
        struct config config = {0}, again = {0};
        struct error err = ERROR_INIT;
        char line[128];
        bool list = key->type == CONFIG_LISTEN;
        int length = snprintf(line, sizeof line, "%s: %s%s%s\n", key->name, list ? "[" : "",
                              example(key), list ? "]" : "");
        if (list)
            length = snprintf(line, sizeof line, "%s:\n  - %s\n", key->name, example(key));
        cr_assert_eq(config_read_text(&config, "f", line, (size_t)length, &err), 0, "%s: %s",
                     key->name, err.text);
        /* Rows without a value print as empty, and numbers of 0 may be out of their bounds: fill
         * those. */
        for (size_t k = 0; k < n_config_keys; k++)
            if (k != i && config_keys[k].type != CONFIG_LISTEN)
                cr_assert_eq(config_set(&config, &config_keys[k], example(&config_keys[k]), &err),
                             0, "%s", err.text);
        CLEANUP_FREE char *printed = config_text(&config);
        cr_assert_not_null(printed);
        cr_assert_eq(config_read_text(&again, "f", printed, strlen(printed), &err), 0, "%s\n%s",
                     err.text, printed);
        CLEANUP_FREE char *second = config_text(&again);
        cr_expect_str_eq(printed, second);
        config_free(&config);
        config_free(&again);
    }
}

Test(config, bounds_are_those_of_the_table)
{
    for (size_t i = 0; i < n_config_keys; i++) {
        const struct config_key *key = &config_keys[i];
        const char *unit = key->type == CONFIG_DURATION ? "ms" : "";
        if (key->type != CONFIG_INTEGER && key->type != CONFIG_DURATION)
            continue;
        const struct {
            int64_t value;
            int result;
        } tries[] = {
            {key->minimum, 0}, {key->maximum, 0}, {key->minimum - 1, -1}, {key->maximum + 1, -1}};
        for (size_t k = 0; k < COUNT_OF(tries); k++) {
            struct config config = {0};
            char words[40];
            (void)snprintf(words, sizeof words, "%lld%s", (long long)tries[k].value, unit);
            cr_expect_eq(config_set(&config, key, words, NULL), tries[k].result, "%s %s", key->name,
                         words);
        }
    }
}

static const struct {
    const char *text;
    const char *fault; /* part of the error, or NULL when it is taken */
} texts[] = {
    {"", NULL},
    {"# nothing\n", NULL},
    {"log_level: debug\n", NULL},
    {"log_level: \"debug\"\n", NULL},
    {"listen: 127.0.0.1:80\n", NULL},
    {"listen: []\n", NULL},
    {"listen: [\"127.0.0.1:80\", \"[::1]:80\", \"localhost:1\"]\n", NULL},
    {"\n\nbogus: 1\n", "f:3: there is no key \"bogus\""},
    {"log_level: info\nlog_level: info\n", "f:2: the key log_level is there twice"},
    {"log_level: loud\n", "f:1: log_level: \"loud\" is none of error|warning|info|debug"},
    {"log_level: [info]\n", "f:1: log_level takes one value"},
    {"log_level: {a: b}\n", "f:1: log_level has to be a plain value"},
    {"log_level: !!str info\n", "f:1: log_level has to be a plain value"},
    {"log_level: &a info\nsocket: *a\n", "f:1: log_level has to be a plain value"},
    {"? [a]\n: b\n", "f:1: a key has to be a plain name"},
    {"- log_level\n", "f:1: the file has to be a mapping"},
    {"info\n", "f:1: the file has to be a mapping"},
    {"log_level: info\n---\nlog_level: info\n", "f:2: there is a second document"},
    {"log_level: 'info\n", "f:"},
    {"log_level: info\n bad: x\n", "f:1: log_level: \"info bad\" is none of"},
    {"stop_bottles: yes\n", "f:1: stop_bottles: \"yes\" is neither true nor false"},
    {"max_bottles: 1.5\n", "f:1: max_bottles: \"1.5\" is not an integer"},
    {"max_bottles:\n", "f:1: max_bottles: \"\" is not an integer"},
    {"boot_timeout: 1w\n", "f:1: boot_timeout: \"1w\" is not a time"},
    {"host_ports: 100-200\n", "f:1: host_ports: "},
    {"host_ports: 3000-2000\n", "f:1: host_ports: "},
    {"host_ports: 2000\n", "f:1: host_ports: "},
    {"host_ports: 2000-70000\n", "f:1: host_ports: "},
    {"listen: 0.0.0.0:80\n", NULL}, /* taken with TLS; see the command lines */
    {"listen: 0.0.0:80\n", "f:1: listen: \"0.0.0:80\" is not ADDR:PORT"},
    {"cors_origins: https://a.example,http://localhost:3000\n", NULL},
    {"cors_origins: \"*\"\n", "f:1: cors_origins: \"*\" is no list like"},
    {"cors_origins: a.example\n", "f:1: cors_origins: "},
    {"cors_origins: https://a.example/\n", "f:1: cors_origins: "},
    {"cors_origins: https://\n", "f:1: cors_origins: "},
    {"socket_group: a b\n", "f:1: socket_group: \"a b\" is no name"},
    {"listen: [::]:80\n", "f:"},
    {"listen: \"[::2]:80\"\n", NULL},
    {"listen: \"[::2:80\"\n", "f:1: listen: "},
    {"listen: 127.0.0.1\n", "f:1: listen: "},
    {"listen: 127.0.0.1:65536\n", "f:1: listen: "},
    {"listen: 127.1:80\n", "f:1: listen: "},
    {"listen: example.org:80\n", "f:1: listen: "},
};

Test(config, texts)
{
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct config config = {0};
        struct error err = ERROR_INIT;
        int result = config_read_text(&config, "f", texts[i].text, strlen(texts[i].text), &err);
        cr_expect_eq(result, texts[i].fault ? -1 : 0, "%s: %s", texts[i].text, err.text);
        if (texts[i].fault)
            cr_expect(strncmp(err.text, texts[i].fault, strlen(texts[i].fault)) == 0, "%s gave: %s",
                      texts[i].text, err.text);
        config_free(&config);
    }
}

/* --- Command lines -------------------------------------------------------------------------- */

#define LINE(...)                                                                                  \
    {                                                                                              \
        "bottled", "--state-dir", "/s", "--run-dir", "/r", __VA_ARGS__, NULL                       \
    }

static int load(const char *const *line, struct config *config, struct error *err)
{
    int argc = 0;

    while (line[argc])
        argc++;
    return config_load(argc, (char **)(uintptr_t)line, config, err);
}

Test(config, flags_set_every_key)
{
    for (size_t i = 0; i < n_config_keys; i++) {
        const struct config_key *key = &config_keys[i];
        struct config config = {0};
        struct error err = ERROR_INIT;
        char flag[128];
        const char *reason[] = {"token_file",      "listen",   "state_dir",
                                "run_dir",         "uid_base", "max_waiters",
                                "max_connections", "tls_cert", "tls_key"};
        bool skipped = false;
        /* These need another key or the right user; they have tests of their own. */
        for (size_t k = 0; k < COUNT_OF(reason); k++)
            skipped |= strcmp(reason[k], key->name) == 0;
        if (skipped)
            continue;
        int length = snprintf(flag, sizeof flag, "--%s=%s", key->name, example(key));
        for (char *c = flag; *c && *c != '='; c++)
            if (*c == '_')
                *c = '-';
        cr_assert(length < (int)sizeof flag);
        const char *const line[] = LINE(flag);
        cr_assert_eq(load(line, &config, &err), 0, "%s: %s", flag, err.text);
        CLEANUP_FREE char *text = config_text(&config);
        cr_expect_not_null(strstr(text, key->name));
        config_free(&config);
    }
}

Test(config, command_lines_that_are_refused)
{
    char too_long[109]; /* with its NUL one more than the kernel takes */
    memset(too_long, 'a', sizeof too_long);
    too_long[0] = '/';
    too_long[sizeof too_long - 1] = '\0';
    const struct {
        const char *line[10];
        const char *fault;
    } tries[] = {
        {LINE("--bogus"), "there is no flag \"--bogus\""},
        {LINE("extra"), "\"extra\" is no flag"},
        {LINE("--"), "\"--\" is no flag"},
        {LINE("--socket"), "--socket wants a value"},
        {LINE("--log_level=info"), "there is no flag"},
        {LINE("--log-level", "info", "--log-level", "info"), "log_level is given twice"},
        {LINE("--help=x"), "--help=x takes no value"},
        {LINE("--listen", "0.0.0.0:80"), "listen: 0.0.0.0:80 is not loopback"},
        {LINE("--listen", "[::]:80"), "listen: [::]:80 is not loopback"},
        {LINE("--tls-cert", "/c"), "tls_cert and tls_key go together"},
        {LINE("--tls-key", "/c"), "tls_cert and tls_key go together"},
        {LINE("--max-waiters", "16", "--max-connections", "16"),
         "max_waiters has to be below max_connections"},
        {LINE("--config", "/no/such/file"), "/no/such/file: "},
        {LINE("--token-file", "/dev/null"), "token_file /dev/null is not a regular file"},
        {LINE("--socket", too_long), "socket: "},
    };

    for (size_t i = 0; i < COUNT_OF(tries); i++) {
        struct config config = {0};
        struct error err = ERROR_INIT;
        cr_expect_eq(load(tries[i].line, &config, &err), -1, "%s", tries[i].fault);
        cr_expect(strncmp(err.text, tries[i].fault, strlen(tries[i].fault)) == 0,
                  "wanted %s, got %s", tries[i].fault, err.text);
    }
}

Test(config, defaults_follow_from_directories)
{
    const char *const line[] = LINE("--tools-path", "/t:/t:/u");
    struct config config = {0};
    struct error err = ERROR_INIT;

    cr_assert_eq(setenv("PATH", "/u:/bin", 1), 0);
    cr_assert_eq(load(line, &config, &err), 0, "%s", err.text);
    cr_expect_str_eq(config.socket, "/r/bottled.sock");
    cr_expect_str_eq(config.tools_path, "/t:/u:/bin");
    cr_expect_str_eq(config.log_level, "info");
    cr_expect_eq(config.boot_timeout_ms, 30000);
    cr_expect_eq(config.host_port_first, 20000);
    cr_expect_eq(config.host_port_last, 32767);
    cr_expect_eq(config.uid_base, geteuid() == 0 ? 1900000000 : 0);
    char want[4200];
    (void)snprintf(want, sizeof want, "%s/guest", config.libexec_dir);
    cr_expect_str_eq(config.guest_dir, want);
    config_free(&config);
}

Test(config, a_flag_wins_over_the_file)
{
    char path[] = "/tmp/bottled-config-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] = "log_level: error\nmax_bottles: 12\nlisten: []\n";
    struct config config = {0};
    struct error err = ERROR_INIT;

    cr_assert_eq(write_all(fd, text, sizeof text - 1), 0);
    (void)close(fd);
    const char *const line[] = LINE("--config", path, "--log-level", "debug", "--stop-bottles");
    cr_assert_eq(load(line, &config, &err), 0, "%s", err.text);
    cr_expect_str_eq(config.log_level, "debug");
    cr_expect_eq(config.max_bottles, 12);
    cr_expect(config.stop_bottles);
    config_free(&config);
    (void)unlink(path);
}
