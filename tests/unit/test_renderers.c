/* The renderers: their shape (under the names of the mission's own tests), what they refuse, and
 * golden files.
 *
 * tests/golden/<case>/input.json is rendered into each file that it has the sections for and
 * compared with its neighbour of that name; a refusal is compared with <file>.error.
 * UPDATE_GOLDEN=1 writes them anew. The directory is GOLDEN_DIR, or tests/golden below the current
 * one. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>

#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "renderers/check.h"
#include "renderers/render.h"
#include "tests/unit/render_case.h"

enum { FILE_LIMIT = 1 << 20 };

static const struct port_forward all_forwards[] = {{"pipelock", 8888, NULL, 51001},
                                                   {"git-gate", 8889, NULL, 51002},
                                                   {"supervise", 8890, NULL, 51003}};

static const struct env_var one_variable[] = {{"GREETING", "hello"}};
static const char *const one_command[] = {"sh", "-c", "echo hello"};

static void build(struct network *ret, size_t n_forwards)
{
    network_build(ret, "192.168.50.0/24", "192.168.50.1", "192.168.50.2", "5a:94:ef:00:00:32",
                  all_forwards, n_forwards);
}

static struct guest_config guest_config(void)
{
    return (struct guest_config){
        .image = "alpine:3.20",
        .command = one_command,
        .n_command = COUNT_OF(one_command),
        .workdir = "/workspace",
        .env = one_variable,
        .n_env = COUNT_OF(one_variable),
        .cpus = 1,
        .memory_mib = 256,
    };
}

static struct qemu_config qemu_config(void)
{
    return (struct qemu_config){
        .binary = "/usr/bin/qemu-system-x86_64",
        .kernel = "/vm/kernel",
        .initrd = "/vm/initrd",
        .image = "/vm/image",
        .cpus = 1,
        .memory_mib = 256,
        .guest_mac = "5a:94:ef:00:00:32",
        .agent_fd = 3,
        .qmp_fd = 6,
    };
}

static char *gvproxy_text(size_t n_forwards)
{
    struct network network;
    struct text out = TEXT_INIT;
    struct error err = ERROR_INIT;

    build(&network, n_forwards);
    cr_assert_eq(render_gvproxy(&network, &out, &err), 0, "%s", err.text);
    return text_take(&out);
}

static char *smolfile_text(const struct guest_config *guest, enum smolfile_dialect dialect)
{
    struct network network;
    struct text out = TEXT_INIT;
    struct error err = ERROR_INIT;

    build(&network, 1);
    cr_assert_eq(render_smolfile(guest, &network, dialect, &out, &err), 0, "%s", err.text);
    return text_take(&out);
}

static void expect_has(const char *text, const char *part)
{
    cr_expect(strstr(text, part), "missing:\n%s\nin:\n%s", part, text);
}

static void expect_lacks(const char *text, const char *part)
{
    cr_expect_not(strcasestr(text, part), "unwanted: %s\nin:\n%s", part, text);
}

Test(config_build, subnet_and_gateway_pass_through)
{
    struct network network;

    build(&network, 1);
    cr_expect_str_eq(network.subnet, "192.168.50.0/24");
    cr_expect_str_eq(network.gateway, "192.168.50.1");
    cr_expect_str_eq(network.guest_ip, "192.168.50.2");
    cr_expect_str_eq(network.guest_mac, "5a:94:ef:00:00:32");
    cr_expect_str_eq(network.gateway_mac, GATEWAY_MAC);
}

Test(config_build, one_zone_one_record)
{
    struct network network;

    build(&network, 3);
    cr_expect_str_eq(network.zone.zone, ".");
    cr_expect_eq(network.zone.n_records, 1);
    cr_expect_str_eq(network.zone.records[0].name, "proxy.internal");
    cr_expect_str_eq(network.zone.records[0].ip, "192.168.50.1");
}

Test(config_build, one_forward_per_entry_all_on_loopback)
{
    struct network network;

    build(&network, 3);
    cr_assert_eq(network.n_forwards, 3);
    for (size_t i = 0; i < 3; i++) {
        cr_expect_str_eq(network.forwards[i].host, "127.0.0.1");
        cr_expect_str_eq(network.forwards[i].sidecar, all_forwards[i].sidecar);
        cr_expect_eq(network.forwards[i].gateway_port, all_forwards[i].gateway_port);
        cr_expect_eq(network.forwards[i].host_port, all_forwards[i].host_port);
    }
}

Test(config_build, empty_list_stays_an_empty_list)
{
    struct network network;

    build(&network, 0);
    cr_expect_eq(network.n_forwards, 0);
}

static const char mission_lines[] = "subnet: \"192.168.50.0/24\"\n"
                                    "gateway: \"192.168.50.1\"\n"
                                    "dns:\n"
                                    "  - zone: \".\"\n"
                                    "    records:\n"
                                    "      - name: \"proxy.internal\"\n"
                                    "        ip: \"192.168.50.1\"\n"
                                    "port_forwards:\n"
                                    "  - gateway_port: 8888\n"
                                    "    host: \"127.0.0.1\"\n"
                                    "    host_port: 51001\n";

Test(render, mission_lines_come_first_byte_for_byte)
{
    CLEANUP_FREE char *text = gvproxy_text(1);

    cr_expect_eq(strncmp(text, mission_lines, strlen(mission_lines)), 0, "%s", text);
}

Test(render, quoted_strings)
{
    CLEANUP_FREE char *text = gvproxy_text(1);

    expect_has(text, "subnet: \"192.168.50.0/24\"\n");
    expect_has(text, "name: \"proxy.internal\"\n");
    expect_has(text, "regexp: \"(?i)^proxy\\\\.internal$\"\n");
}

Test(render, list_form)
{
    CLEANUP_FREE char *text = gvproxy_text(3);

    expect_has(text, "port_forwards:\n  - gateway_port: 8888\n    host: \"127.0.0.1\"\n"
                     "    host_port: 51001\n  - gateway_port: 8889\n    host: \"127.0.0.1\"\n"
                     "    host_port: 51002\n  - gateway_port: 8890\n    host: \"127.0.0.1\"\n"
                     "    host_port: 51003\nlog-level:");
}

Test(render, bare_integers)
{
    CLEANUP_FREE char *text = gvproxy_text(1);

    expect_has(text, "gateway_port: 8888\n");
    expect_has(text, "host_port: 51001\n");
    expect_has(text, "mtu: 1500\n");
}

Test(render, port_forwards_empty_list)
{
    CLEANUP_FREE char *text = gvproxy_text(0);

    expect_has(text, "\nport_forwards: []\n");
}

Test(render, policy_and_stack_agree)
{
    CLEANUP_FREE char *text = gvproxy_text(1);

    expect_has(text, "  gatewayIP: \"192.168.50.1\"\n");
    expect_has(text, "  subnet: \"192.168.50.0/24\"\n");
    expect_has(text, "  nat: {\"192.168.50.1\": \"127.0.0.1\"}\n");
    expect_has(text, "  dhcpStaticLeases: {\"192.168.50.2\": \"5a:94:ef:00:00:32\"}\n");
    expect_has(text, "  ec2MetadataAccess: false\n");
}

Test(render, no_tsi_or_allow_list_leak)
{
    static const char *const words[] = {"allow-cidr",  "allow-host", "allow_cidr",
                                        "allow_hosts", "tsi",        "allow_host"};
    static const struct env_var spaces[] = {{"A", "1 "}, {"B", "2"}};
    static const struct egress_rule rules[] = {{"example.com", true, 0, false},
                                               {"example.org", false, 80, false}};
    struct guest_config guest = guest_config();
    struct proxy_config proxy = {.port = 20001, .rules = rules, .n_rules = 2};
    struct qemu_config qemu = qemu_config();
    struct text out = TEXT_INIT;

    guest.env = spaces;
    guest.n_env = 2;
    guest.image = "builtin:busybox";
    guest.workdir = "relative";
    guest.cpus = 256;
    guest.memory_mib = 32;
    cr_assert_eq(render_squid(&proxy, &out, NULL), 0);
    cr_assert_eq(render_pipelock(&proxy, &out, NULL), 0);
    cr_assert_eq(render_qemu(&qemu, &out, NULL), 0);
    CLEANUP_FREE char *texts[] = {gvproxy_text(3), smolfile_text(&guest, SMOLFILE_DEVICE),
                                  smolfile_text(&guest, SMOLFILE_SMOLVM), text_take(&out)};
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        for (size_t j = 0; j < COUNT_OF(words); j++)
            expect_lacks(texts[i], words[j]);
    for (size_t i = 1; i < COUNT_OF(texts); i++)
        free(texts[i]);
}

static void edit_gateway(struct network *network)
{
    network->gateway = "192.168.50.1\"\nport_forwards: []";
}

static void edit_subnet(struct network *network)
{
    network->subnet = "192.168.50.0/33";
}

static void edit_guest_mac(struct network *network)
{
    network->guest_mac = "5A:94:EF:00:00:32";
}

static void edit_record(struct network *network)
{
    network->record.name = "*";
}

static void edit_records(struct network *network)
{
    network->zone.n_records = 0;
}

static void edit_zone(struct network *network)
{
    network->zone.zone = "internal.";
}

static void edit_forward_host(struct network *network)
{
    network->forwards[0].host = "127.1.0.1";
}

static void edit_forward_port(struct network *network)
{
    network->forwards[0].host_port = 0;
}

Test(render, gvproxy_refuses_what_is_not_the_policy)
{
    void (*const edits[])(struct network *) = {edit_gateway,      edit_subnet,      edit_guest_mac,
                                               edit_record,       edit_records,     edit_zone,
                                               edit_forward_host, edit_forward_port};

    for (size_t i = 0; i < COUNT_OF(edits); i++) {
        struct network network;
        CLEANUP_TEXT struct text out = TEXT_INIT;
        struct error err = ERROR_INIT;
        build(&network, 1);
        edits[i](&network);
        cr_expect_eq(render_gvproxy(&network, &out, &err), -1, "edit %zu", i);
        cr_expect_eq(out.length, 0);
        cr_expect_neq(err.text[0], '\0');
    }
}

Test(smolfile, escapes_in_basic_strings)
{
    static const char *const command[] = {"\"\\\b\t\n\f\r\x01\x1f\x7f $`'é\u2028"};
    struct guest_config guest = guest_config();

    guest.command = command;
    guest.n_command = 1;
    CLEANUP_FREE char *text = smolfile_text(&guest, SMOLFILE_DEVICE);
    expect_has(text, "cmd = [\"\\\"\\\\\\b\\t\\n\\f\\r\\u0001\\u001F\\u007F $`'é\u2028\"]\n");
}

Test(smolfile, device_dialect_has_the_card_and_every_value)
{
    static const struct env_var env[] = {{"A", "x "}, {"B", ""}};
    struct guest_config guest = guest_config();

    guest.env = env;
    guest.n_env = 2;
    guest.image = "builtin:busybox";
    CLEANUP_FREE char *text = smolfile_text(&guest, SMOLFILE_DEVICE);
    expect_has(text, "image = \"builtin:busybox\"\n");
    expect_has(text, "    \"A=x \",\n    \"B=\",\n");
    expect_has(text, "\n[[device]]\ntype = \"virtio-net\"\nbackend = \"gvproxy\"\n"
                     "socket = \"unixgram:///run/bottle/net.sock\"\nmac = \"5a:94:ef:00:00:32\"\n");
    expect_lacks(text, "net = ");
    expect_lacks(text, "#");
}

Test(smolfile, smolvm_dialect_has_no_network)
{
    struct guest_config guest = guest_config();
    CLEANUP_FREE char *text = smolfile_text(&guest, SMOLFILE_SMOLVM);

    expect_has(text, "\nnet = false\n");
    expect_has(text, "image = \"alpine:3.20\"\n");
    expect_lacks(text, "device");
}

Test(smolfile, smolvm_dialect_leaves_out_what_would_change)
{
    static const struct env_var env[] = {{"A", "secret "}, {"B", "secret\n"}, {"C", "secret\u00a0"},
                                         {"D", " kept"},   {"E", "\t"},       {"F", "kept\u200b"}};
    struct guest_config guest = guest_config();

    guest.env = env;
    guest.n_env = COUNT_OF(env);
    guest.image = "./dir";
    guest.workdir = "relative";
    guest.cpus = 256;
    guest.memory_mib = 63;
    CLEANUP_FREE char *text = smolfile_text(&guest, SMOLFILE_SMOLVM);
    expect_has(text, "# env: 4 of 6 entries left out");
    expect_has(text, "env = [\n    \"D= kept\",\n    \"F=kept\u200b\",\n]\n");
    expect_lacks(text, "secret");
    for (const char *const *key = (const char *const[]){"image", "workdir", "cpus", "memory", NULL};
         *key; key++) {
        char line[32];
        (void)snprintf(line, sizeof line, "# %s left out", *key);
        expect_has(text, line);
        (void)snprintf(line, sizeof line, "\n%s = ", *key);
        expect_lacks(text, line);
    }
}

Test(smolfile, smolvm_images)
{
    static const struct {
        const char *image;
        bool kept;
    } rows[] = {
        {"alpine", true},      {"ghcr.io/a/b:1", true},
        {"a@sha256:00", true}, {"localhost:5000/x", true},
        {"-", false},          {"./x", false},
        {"../x", false},       {"/x", false},
        {"x.tar", false},      {"x.tar.gz", false},
        {"x.tgz", false},      {"a/", false},
        {"http://x/y", false}, {" a", false},
        {"a\n", false},        {"", false},
        {"a\"b", false},       {"~/x", false},
        {"builtin:x", false},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct guest_config guest = guest_config();
        guest.image = rows[i].image;
        CLEANUP_FREE char *text = smolfile_text(&guest, SMOLFILE_SMOLVM);
        cr_expect_eq(strncmp(text, "image = ", 8) == 0, rows[i].kept, "%s", rows[i].image);
    }
}

Test(smolfile, refuses_what_is_not_text)
{
    static const char *const command[] = {"\xff"};
    static const struct env_var names[] = {
        {"A=B", "x"}, {"", "x"}, {"1A", "x"}, {"A B", "x"}, {"A", "\xc0\x80"}};
    struct guest_config guest = guest_config();
    struct network network;
    CLEANUP_TEXT struct text out = TEXT_INIT;

    build(&network, 0);
    guest.command = command;
    guest.n_command = 1;
    cr_expect_eq(render_smolfile(&guest, &network, SMOLFILE_DEVICE, &out, NULL), -1);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        guest = guest_config();
        guest.env = &names[i];
        cr_expect_eq(render_smolfile(&guest, &network, SMOLFILE_SMOLVM, &out, NULL), -1, "%zu", i);
    }
    cr_expect_eq(out.length, 0);
}

Test(qemu, refuses_option_separators_in_paths)
{
    static const char *const paths[] = {"/vm/image,readonly=off", "vm/image", "", "/vm/a b", NULL};

    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        struct qemu_config config = qemu_config();
        CLEANUP_TEXT struct text out = TEXT_INIT;
        config.image = paths[i];
        cr_expect_eq(render_qemu(&config, &out, NULL), -1, "%zu", i);
        cr_expect_eq(out.length, 0);
    }
}

Test(qemu, probe_has_the_agents_port_only)
{
    struct qemu_config config = qemu_config();
    struct text out = TEXT_INIT;

    config.probe = true;
    config.image = NULL;
    config.guest_mac = NULL;
    cr_assert_eq(render_qemu(&config, &out, NULL), 0);
    CLEANUP_FREE char *text = text_take(&out);
    expect_has(text, "name=bottled.agent");
    expect_lacks(text, "-netdev");
    expect_lacks(text, "-drive");
}

Test(proxy, hostile_hosts_are_refused_by_both_engines)
{
    static const struct egress_rule rules[] = {
        {"", false, 0, false},
        {"a b", false, 0, false},
        {"a\nhttp_access allow all", false, 0, false},
        {"a\"b", false, 0, false},
        {"*", false, 0, false},
        {"a.", false, 0, false},
        {".a", false, 0, false},
        {"a..b", false, 0, false},
        {"A.example", false, 0, false},
        {"-a.example", false, 0, false},
        {"a/b", false, 0, false},
        {"127.1", false, 0, false},
        {"0x7f.1", false, 0, false},
        {"2130706433", false, 0, false},
        {"0x7f000001", false, 0, false},
        {"1.2.3.4", true, 0, false},
        {"[::1]", false, 0, false},
        {"2001:DB8::1", false, 0, false},
        {"2001:db8:0::1", false, 0, false},
        {"::1", true, 0, false},
        {NULL, false, 0, false},
    };

    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        struct proxy_config config = {.port = 20001, .rules = &rules[i], .n_rules = 1};
        CLEANUP_TEXT struct text out = TEXT_INIT;
        cr_expect_eq(render_squid(&config, &out, NULL), -1, "squid took rule %zu", i);
        cr_expect_eq(render_pipelock(&config, &out, NULL), -1, "pipelock took rule %zu", i);
        cr_expect_eq(out.length, 0);
    }
}

Test(proxy, no_rules_deny_all)
{
    struct proxy_config config = {.port = 20001};
    struct text out = TEXT_INIT;

    cr_assert_eq(render_squid(&config, &out, NULL), 0);
    CLEANUP_FREE char *text = text_take(&out);
    expect_lacks(text, "http_access allow");
    expect_has(text, "\nhttp_access deny all\n");
}

Test(proxy, pipelock_has_no_rule_by_port)
{
    static const struct egress_rule rule = {"registry.example", false, 8443, false};
    struct proxy_config config = {.port = 20001, .rules = &rule, .n_rules = 1};
    struct error err = ERROR_INIT;
    CLEANUP_TEXT struct text out = TEXT_INIT;

    cr_expect_eq(render_pipelock(&config, &out, &err), -1);
    cr_expect_str_eq(err.kind, "unsupported-rule");
    expect_has(err.text, "registry.example:8443");
}

Test(proxy, pipelock_can_not_open_private_addresses_to_one_host)
{
    static const struct egress_rule rule = {"lan.example", true, 0, true};
    struct proxy_config config = {.port = 20001, .rules = &rule, .n_rules = 1};
    struct error err = ERROR_INIT;
    CLEANUP_TEXT struct text out = TEXT_INIT;

    cr_expect_eq(render_pipelock(&config, &out, &err), -1);
    cr_expect_str_eq(err.kind, "unsupported-rule");
    expect_has(err.text, "*.lan.example");
}

Test(proxy, squids_timers_let_quiet_streams_live)
{
    static const char *const timers[] = {
        "\nclient_lifetime 30 days\n", "\nread_timeout 7 days\n",
        "\nwrite_timeout 7 days\n",    "\nrequest_start_timeout 1 hour\n",
        "\nrequest_timeout 1 hour\n",  "\nclient_idle_pconn_timeout 1 hour\n",
    };
    struct proxy_config config = {.port = 20001};
    struct text out = TEXT_INIT;

    cr_assert_eq(render_squid(&config, &out, NULL), 0);
    CLEANUP_FREE char *text = text_take(&out);
    for (size_t i = 0; i < COUNT_OF(timers); i++)
        expect_has(text, timers[i]);
}

Test(check, utf8)
{
    static const char *const good[] = {
        "", "a", "é", "\u2028", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"};
    static const char *const malformed[] = {"\x80",
                                            "\xc0\x80",
                                            "\xc1\xbf",
                                            "\xe0\x80\x80",
                                            "\xed\xa0\x80",
                                            "\xf0\x80\x80\x80",
                                            "\xf4\x90\x80\x80",
                                            "\xff",
                                            "\xc3",
                                            "a\xe2\x82",
                                            "\xf8\x88\x80\x80\x80"};

    for (size_t i = 0; i < COUNT_OF(good); i++)
        cr_expect(check_utf8(good[i]), "%zu", i);
    for (size_t i = 0; i < COUNT_OF(malformed); i++)
        cr_expect_not(check_utf8(malformed[i]), "%zu", i);
}

/* Renders `file` of a case: the text, or "kind: words" with *ret_name set to <file>.error. */
static char *rendered(const json_t *input, const char *file, const char *directory, char *ret_path,
                      size_t size)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;
    struct error err = ERROR_INIT;
    int result = case_render(input, file, &out, &err);

    (void)snprintf(ret_path, size, "%s/%s%s", directory, file, result < 0 ? ".error" : "");
    if (result < 0)
        text_addf(&out, "%s: %s\n", err.kind ? err.kind : "internal", err.text);
    return text_take(&out);
}

static void compare_case(const char *directory, bool update)
{
    char path[512];
    size_t length;

    (void)snprintf(path, sizeof path, "%s/input.json", directory);
    CLEANUP_FREE char *bytes = file_read(path, FILE_LIMIT, &length, NULL);
    cr_assert(bytes, "%s is missing", path);
    CLEANUP_JSON json_t *input = json_parse(bytes, length, NULL);
    cr_assert(input, "%s is not JSON", path);
    for (const char *const *file = case_files; *file; file++) {
        if (!case_has(input, *file))
            continue;
        CLEANUP_FREE char *text = rendered(input, *file, directory, path, sizeof path);
        CLEANUP_FREE char *again = rendered(input, *file, directory, path, sizeof path);
        cr_expect_str_eq(text, again, "%s: two renderings differ", path);
        if (update)
            cr_assert_eq(file_write(path, text, strlen(text), 0644, false, NULL), 0);
        CLEANUP_FREE char *expected = file_read(path, FILE_LIMIT, NULL, NULL);
        cr_expect(expected, "%s is missing; UPDATE_GOLDEN=1 writes it", path);
        if (expected)
            cr_expect_str_eq(text, expected, "%s differs", path);
    }
}

Test(golden, every_case)
{
    const char *root = getenv("GOLDEN_DIR");
    bool update = getenv("UPDATE_GOLDEN") != NULL;
    size_t cases = 0;
    const struct dirent *entry;

    if (!root)
        root = "tests/golden";
    DIR *directory = opendir(root);
    cr_assert(directory, "no directory %s: run from the project's root or set GOLDEN_DIR", root);
    while ((entry = readdir(directory))) {
        char path[300];
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof path, "%s/%s", root, entry->d_name);
        compare_case(path, update);
        cases++;
    }
    (void)closedir(directory);
    cr_expect_gt(cases, 0);
}
