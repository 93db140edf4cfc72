/* JSON to the renderers' structs. Everything is borrowed from the JSON value, arrays are of a fixed
 * size: a test tool, not a decoder of requests. */
#include "tests/unit/render_case.h"

#include <string.h>

#include "base/json.h"
#include "base/util.h"
#include "renderers/render.h"

enum { CASE_ITEMS_MAX = 2048 };

static void read_network(const json_t *section, struct network *ret)
{
    struct port_forward forwards[FORWARDS_MAX] = {0};
    const json_t *list = json_object_get(section, "forwards");
    size_t count = json_array_size(list);

    for (size_t i = 0; i < count && i < FORWARDS_MAX; i++) {
        const json_t *item = json_array_get(list, i);
        forwards[i] = (struct port_forward){
            .sidecar = json_member_string(item, "sidecar"),
            .gateway_port = (uint16_t)json_member_integer(item, "gateway_port", 0),
            .host_port = (uint16_t)json_member_integer(item, "host_port", 0),
        };
    }
    network_build(ret, json_member_string(section, "subnet"),
                  json_member_string(section, "gateway"), json_member_string(section, "guest_ip"),
                  json_member_string(section, "guest_mac"), forwards, count);
}

static int render_case_gvproxy(const json_t *input, struct text *out, struct error *err)
{
    struct network network;

    read_network(json_object_get(input, "network"), &network);
    return render_gvproxy(&network, out, err);
}

static int smolfile(const json_t *input, enum smolfile_dialect dialect, struct text *out,
                    struct error *err)
{
    static const char *command[CASE_ITEMS_MAX];
    static struct env_var env[CASE_ITEMS_MAX];
    const json_t *section = json_object_get(input, "guest");
    const json_t *list = json_object_get(section, "command");
    struct network network;
    struct guest_config guest = {
        .image = json_member_string(section, "image"),
        .command = command,
        .workdir = json_member_string(section, "workdir"),
        .env = env,
        .cpus = (unsigned)json_member_integer(section, "cpus", 1),
        .memory_mib = (unsigned)json_member_integer(section, "memory_mib", 256),
    };
    const char *name;
    json_t *value;

    for (; guest.n_command < json_array_size(list) && guest.n_command < CASE_ITEMS_MAX;
         guest.n_command++)
        command[guest.n_command] = json_string_value(json_array_get(list, guest.n_command));
    json_object_foreach(json_object_get(section, "env"), name,
                        value) if (guest.n_env < CASE_ITEMS_MAX) env[guest.n_env++] =
        (struct env_var){name, json_string_value(value)};
    read_network(json_object_get(input, "network"), &network);
    return render_smolfile(&guest, &network, dialect, out, err);
}

static int render_case_device(const json_t *input, struct text *out, struct error *err)
{
    return smolfile(input, SMOLFILE_DEVICE, out, err);
}

static int render_case_smolvm(const json_t *input, struct text *out, struct error *err)
{
    return smolfile(input, SMOLFILE_SMOLVM, out, err);
}

static int render_case_qemu(const json_t *input, struct text *out, struct error *err)
{
    const json_t *section = json_object_get(input, "qemu");
    struct qemu_config config = {
        .binary = json_member_string(section, "binary"),
        .kernel = json_member_string(section, "kernel"),
        .initrd = json_member_string(section, "initrd"),
        .image = json_member_string(section, "image"),
        .cpus = (unsigned)json_member_integer(section, "cpus", 1),
        .memory_mib = (unsigned)json_member_integer(section, "memory_mib", 256),
        .guest_mac = json_member_string(section, "guest_mac"),
        .kvm = json_is_true(json_object_get(section, "kvm")),
        .tsc_khz = (unsigned)json_member_integer(section, "tsc_khz", 0),
        .agent_fd = (int)json_member_integer(section, "agent_fd", 3),
        .probe = json_is_true(json_object_get(section, "probe")),
        .template_ram = json_member_string(section, "template_ram"),
        .template_make = json_is_true(json_object_get(section, "template_make")),
        .qmp_fd = (int)json_member_integer(section, "qmp_fd", 0),
    };

    return render_qemu(&config, out, err);
}

static int render_case_krun(const json_t *input, struct text *out, struct error *err)
{
    const json_t *section = json_object_get(input, "krun"),
                 *guest = json_object_get(input, "guest");
    const struct guest_config shape = {
        .cpus = (unsigned)json_member_integer(guest, "cpus", 1),
        .memory_mib = (unsigned)json_member_integer(guest, "memory_mib", 256),
    };
    struct network network;
    const struct krun_config config = {
        .binary = json_member_string(section, "binary"),
        .library = json_member_string(section, "library"),
        .firmware = json_member_string(section, "firmware"),
        .root = json_member_string(section, "root"),
        .image = json_member_string(section, "image"),
        .guest = &shape,
        .network = &network,
        .agent_fd = (int)json_member_integer(section, "agent_fd", 3),
    };

    read_network(json_object_get(input, "network"), &network);
    return render_krun(&config, out, err);
}

typedef int proxy_renderer(const struct proxy_config *, struct text *, struct error *);

static int proxy(const json_t *input, proxy_renderer *render, struct text *out, struct error *err)
{
    static struct egress_rule rules[CASE_ITEMS_MAX];
    const json_t *section = json_object_get(input, "proxy");
    const json_t *list = json_object_get(section, "rules");
    struct proxy_config config = {
        .port = (uint16_t)json_member_integer(section, "port", 0),
        .rules = rules,
    };

    for (; config.n_rules < json_array_size(list) && config.n_rules < CASE_ITEMS_MAX;
         config.n_rules++) {
        const json_t *item = json_array_get(list, config.n_rules);
        rules[config.n_rules] = (struct egress_rule){
            .host = json_member_string(item, "host"),
            .suffix = json_is_true(json_object_get(item, "suffix")),
            .port = (uint16_t)json_member_integer(item, "port", 0),
            .private_ok = json_is_true(json_object_get(item, "private")),
        };
    }
    return render(&config, out, err);
}

static int render_case_squid(const json_t *input, struct text *out, struct error *err)
{
    return proxy(input, render_squid, out, err);
}

static int render_case_pipelock(const json_t *input, struct text *out, struct error *err)
{
    return proxy(input, render_pipelock, out, err);
}

static const struct {
    const char *file, *section;
    int (*render)(const json_t *input, struct text *out, struct error *err);
} rows[] = {
    {"gvproxy.yaml", "network", render_case_gvproxy},
    {"smolfile.device.toml", "guest", render_case_device},
    {"smolfile.smolvm.toml", "guest", render_case_smolvm},
    {"qemu.json", "qemu", render_case_qemu},
    {"krun.json", "krun", render_case_krun},
    {"squid.conf", "proxy", render_case_squid},
    {"pipelock.yaml", "proxy", render_case_pipelock},
};

const char *const case_files[] = {
    "gvproxy.yaml", "smolfile.device.toml", "smolfile.smolvm.toml", "qemu.json",
    "krun.json",    "squid.conf",           "pipelock.yaml",        NULL,
};

int case_has(const json_t *input, const char *file)
{
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (strcmp(rows[i].file, file) == 0)
            return json_object_get(input, rows[i].section) != NULL;
    return 0;
}

int case_render(const json_t *input, const char *file, struct text *out, struct error *err)
{
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (strcmp(rows[i].file, file) == 0 && json_object_get(input, rows[i].section))
            return rows[i].render(input, out, err);
    return error_set(err, NULL, "the case has nothing to make %s from", file);
}
