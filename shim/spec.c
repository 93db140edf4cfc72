#include "shim/spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/rule_match.h"
#include "api/spec.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "guest/protocol.h"
#include "renderers/check.h"
#include "shim/limits.h"

/* The spec comes from our own daemon, yet every field is checked: a shim that starts half of a
 * bottle is worse than one that refuses. `fault` keeps the first thing that is wrong, and later
 * steps go on harmlessly. */
struct reader {
    struct error *err;
    bool failed;
};

static void fault(struct reader *reader, const char *what)
{
    if (!reader->failed)
        error_set(reader->err, NULL, "launch spec: %s", what);
    reader->failed = true;
}

static const char *string_of(struct reader *reader, const json_t *object, const char *key)
{
    const char *value = json_member_string(object, key);

    if (!value)
        fault(reader, key);
    return value ? value : "";
}

static json_int_t integer_of(struct reader *reader, const json_t *object, const char *key,
                             json_int_t min, json_int_t max)
{
    json_int_t value = json_member_integer(object, key, min - 1);

    if (value < min || value > max) {
        fault(reader, key);
        return min;
    }
    return value;
}

/* A NULL-terminated argv, owned; NULL with a fault. */
static const char **read_argv(struct reader *reader, const json_t *list)
{
    size_t count = json_array_size(list);
    const char **argv = calloc(count + 1, sizeof *argv);

    if (!argv || count == 0) {
        fault(reader, "argv");
        free(argv);
        return NULL;
    }
    for (size_t i = 0; i < count; i++)
        if (!(argv[i] = json_string_value(json_array_get(list, i))))
            fault(reader, "argv");
    return argv;
}

static void read_binds(struct reader *reader, const json_t *binds, struct program *ret)
{
    if (json_array_size(binds) > BINDS_MAX) {
        fault(reader, "binds");
        return;
    }
    for (; ret->n_binds < json_array_size(binds); ret->n_binds++) {
        const json_t *pair = json_array_get(binds, ret->n_binds);
        struct bind *bind = &ret->binds[ret->n_binds];
        bind->host = json_string_value(json_array_get(pair, 0));
        bind->jail = json_string_value(json_array_get(pair, 1));
        bind->writable = json_is_true(json_array_get(pair, 2));
        if (!bind->host || !bind->jail) {
            fault(reader, "binds");
            return;
        }
    }
}

static void read_program(struct reader *reader, const json_t *object, struct program *ret)
{
    ret->name = string_of(reader, object, "name");
    ret->env = json_object_get(object, "env");
    ret->argv = read_argv(reader, json_object_get(object, "argv"));
    read_binds(reader, json_object_get(object, "binds"), ret);
}

static const char *host_of(struct reader *reader, const json_t *row)
{
    const char *host = string_of(reader, row, "host");

    if (!check_loopback(host))
        fault(reader, "host");
    return host;
}

static void read_forwards(struct reader *reader, const json_t *list, struct launch *ret)
{
    if (!json_is_array(list) || json_array_size(list) > FORWARDS_MAX) {
        fault(reader, "forwards");
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        ret->forwards[ret->n_forwards++] = (struct port_forward){
            .sidecar = string_of(reader, row, "sidecar"),
            .gateway_port = (uint16_t)integer_of(reader, row, "gateway_port", 1, 65535),
            .host = host_of(reader, row),
            .host_port = (uint16_t)integer_of(reader, row, "host_port", 1, 65535),
        };
    }
}

static void read_config(struct reader *reader, const json_t *object, struct sidecar_config *ret)
{
    if (!object || json_is_null(object))
        return;
    ret->path = string_of(reader, object, "path");
    ret->name = string_of(reader, object, "name");
    ret->check = read_argv(reader, json_object_get(object, "check"));
    ret->complaint = json_member_string(object, "complaint");
    ret->in_force = string_of(reader, object, "in_force");
    ret->hangs_up = json_is_true(json_object_get(object, "hangs_up"));
    if (strchr(ret->name, '/') || ret->name[0] == '\0' || ret->name[0] == '.')
        fault(reader, "config");
}

static void read_rules(struct reader *reader, const json_t *list, struct launch *ret)
{
    if (reader->failed)
        return;
    if (rules_decode(list, &ret->rules, &ret->n_rules, reader->err) < 0) {
        reader->failed = true;
        (void)error_wrap(reader->err, "launch spec: rules");
    }
}

static void read_sidecars(struct reader *reader, const json_t *list, struct launch *ret)
{
    if (!json_is_array(list) || json_array_size(list) > SIDECARS_MAX) {
        fault(reader, "sidecars");
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        struct sidecar_spec *sidecar = &ret->sidecars[ret->n_sidecars++];
        read_program(reader, row, &sidecar->program);
        read_config(reader, json_object_get(row, "config"), &sidecar->config);
        sidecar->host = host_of(reader, row);
        sidecar->host_port = (uint16_t)integer_of(reader, row, "host_port", 1, 65535);
    }
}

static void add_u32(struct text *out, uint32_t value)
{
    uint8_t number[4];

    put_u32(number, value);
    text_add_bytes(out, number, sizeof number);
}

static void read_mounts(struct reader *reader, const json_t *object, const json_t *server,
                        struct launch *ret)
{
    const json_t *list = json_object_get(object, "list");

    if (!object)
        return;
    if (!json_is_array(list) || json_array_size(list) > MOUNTS_MAX) {
        fault(reader, "mounts");
        return;
    }
    ret->mount_uid = (unsigned)integer_of(reader, object, "uid", 0, INT32_MAX);
    ret->mount_gid = (unsigned)integer_of(reader, object, "gid", 0, INT32_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        ret->mounts[ret->n_mounts++] = (struct shared_mount){
            .tag = string_of(reader, row, "tag"),
            .root = string_of(reader, row, "root"),
            .below = string_of(reader, row, "below"),
            .target = string_of(reader, row, "target"),
            .read_only = !json_is_false(json_object_get(row, "read_only")),
        };
    }
    if (!server)
        return;
    ret->fs_binary = string_of(reader, server, "binary");
    ret->fs_of_qemu = json_is_true(json_object_get(server, "of_qemu"));
    ret->fs_fd = (int)integer_of(reader, server, "fd", 3, 64);
}

static void add_mounts(struct text *out, const struct launch *launch)
{
    add_u32(out, (uint32_t)limits_files());
    add_u32(out, (uint32_t)launch->n_mounts);
    for (size_t i = 0; i < launch->n_mounts; i++) {
        const struct shared_mount *mount = &launch->mounts[i];
        add_u32(out, mount->read_only ? MOUNT_READ_ONLY : 0);
        text_add_bytes(out, mount->tag, strlen(mount->tag) + 1);
        text_add_bytes(out, mount->target, strlen(mount->target) + 1);
    }
}

/* Builds the START frame that the guest will be sent (its layout: guest/protocol.h). */
static void build_start(struct reader *reader, const json_t *guest, struct launch *ret)
{
    json_t *command = json_object_get(guest, "command"), *env = json_object_get(guest, "env");
    static const char *const names[] = {"hostname", "address", "gateway", "workdir", "user"};
    CLEANUP_TEXT struct text out = TEXT_INIT;
    uint8_t header[FRAME_HEADER_SIZE];

    text_add_bytes(&out, "\0\0\0\0\0\0\0", FRAME_HEADER_SIZE);
    add_u32(&out, (uint32_t)json_array_size(command));
    add_u32(&out, (uint32_t)json_array_size(env));
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const char *value = string_of(reader, guest, names[i]);
        text_add_bytes(&out, value, strlen(value) + 1);
    }
    for (size_t i = 0; i < json_array_size(command); i++) {
        const char *argument = json_string_value(json_array_get(command, i));
        if (argument)
            text_add_bytes(&out, argument, strlen(argument) + 1);
        else
            fault(reader, "command");
    }
    for (size_t i = 0; i < json_array_size(env); i++) {
        const char *name = json_string_value(json_array_get(json_array_get(env, i), 0));
        const char *value = json_string_value(json_array_get(json_array_get(env, i), 1));
        if (name && value)
            text_addf(&out, "%s=%s", name, value);
        else
            fault(reader, "env");
        text_add_bytes(&out, "", 1);
    }
    static const char fresh[START_FRESH_SIZE]; /* set when it is sent */
    ret->fresh_at = out.length;
    text_add_bytes(&out, fresh, sizeof fresh);
    add_mounts(&out, ret);
    if (out.length > START_PAYLOAD_MAX)
        fault(reader, "guest (command and environment are too large)");
    ret->start_length = out.length;
    ret->start = (uint8_t *)text_take(&out);
    if (!ret->start) {
        fault(reader, "out of memory");
        return;
    }
    frame_header(header, FRAME_START, (uint32_t)(ret->start_length - FRAME_HEADER_SIZE));
    memcpy(ret->start, header, sizeof header);
}

static int hex_digit(char digit)
{
    static const char digits[] = "0123456789abcdef";
    const char *found = digit ? strchr(digits, digit) : NULL;

    return found ? (int)(found - digits) : -1;
}

/* "5a:94:ef:00:00:32" */
static void read_mac(struct reader *reader, const json_t *guest, struct launch *ret)
{
    const char *text = string_of(reader, guest, "mac");

    if (strlen(text) != 3 * sizeof ret->mac - 1) {
        fault(reader, "mac");
        return;
    }
    for (size_t i = 0; i < sizeof ret->mac; i++, text += 3) {
        int high = hex_digit(text[0]), low = hex_digit(text[1]);
        if (high < 0 || low < 0 || (text[2] && text[2] != ':'))
            fault(reader, "mac");
        ret->mac[i] = (uint8_t)((unsigned)high << 4 | (unsigned)low);
    }
}

static void read_template(struct reader *reader, const json_t *object, struct vm_template *ret)
{
    if (!object || json_is_null(object))
        return;
    ret->state = string_of(reader, object, "state");
    ret->qmp_fd = (int)integer_of(reader, object, "qmp_fd", 3, 64);
    if (!json_object_get(object, "argv")) /* one that is made */
        return;
    ret->program.name = "template";
    ret->program.env = json_object_get(object, "env");
    ret->program.argv = read_argv(reader, json_object_get(object, "argv"));
    read_binds(reader, json_object_get(object, "binds"), &ret->program);
    ret->state_fd = (int)integer_of(reader, object, "state_fd", 3, 64);
}

static void read_resources(struct reader *reader, const json_t *object, struct resources *ret)
{
    const struct {
        const char *key;
        int64_t *field;
    } rows[] = {{"vm_mib", &ret->vm_mib},
                {"vm_overhead_mib", &ret->vm_overhead_mib},
                {"gvproxy_mib", &ret->gvproxy_mib},
                {"sidecar_mib", &ret->sidecar_mib},
                {"pids", &ret->pids}};

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        *rows[i].field = integer_of(reader, object, rows[i].key, 1, 1 << 24);
    ret->shim_mib = integer_of(reader, object, "shim_mib", 0, 1 << 24);
}

static void read_bottle(struct reader *reader, const json_t *spec, struct launch *ret)
{
    const json_t *gvproxy = json_object_get(spec, "gvproxy");

    ret->gvproxy = string_of(reader, gvproxy, "binary");
    ret->gvproxy_config = string_of(reader, gvproxy, "config");
    ret->cell = string_of(reader, gvproxy, "cell");
    ret->gvproxy_dynamic = json_is_true(json_object_get(gvproxy, "dynamic"));
    read_forwards(reader, json_object_get(spec, "forwards"), ret);
    read_sidecars(reader, json_object_get(spec, "sidecars"), ret);
    read_rules(reader, json_object_get(spec, "rules"), ret);
    read_mounts(reader, json_object_get(spec, "mounts"),
                json_object_get(json_object_get(spec, "vm"), "fs"), ret);
    build_start(reader, json_object_get(spec, "guest"), ret);
    read_mac(reader, json_object_get(spec, "guest"), ret);
    read_template(reader, json_object_get(json_object_get(spec, "vm"), "template"), &ret->template);
    ret->cold_reason = json_member_string(json_object_get(spec, "vm"), "cold_reason");
    if (json_object_get(spec, "secrets"))
        ret->n_secrets = integer_of(reader, spec, "secrets", 1, SECRETS_MAX);
}

int launch_decode(const char *bytes, size_t length, struct launch *ret, struct error *err)
{
    struct reader reader = {.err = err};
    struct launch launch = {
        .json = json_parse(bytes, length, err), .template.state_file = -1, .save.state_file = -1};
    const json_t *spec = launch.json, *vm = json_object_get(spec, "vm");

    if (!spec)
        return error_wrap(err, "launch spec");
    launch.probe = json_is_true(json_object_get(spec, "probe"));
    launch.slug = string_of(&reader, spec, "slug");
    launch.run_dir = string_of(&reader, spec, "run_dir");
    launch.log_dir = string_of(&reader, spec, "log_dir");
    launch.token = string_of(&reader, spec, "token");
    launch.cgroup = json_member_string(spec, "cgroup");
    launch.bwrap = string_of(&reader, spec, "bwrap");
    launch.uid = (unsigned)integer_of(&reader, spec, "uid", 0, UINT32_MAX - 1);
    launch.gid = (unsigned)integer_of(&reader, spec, "gid", 0, UINT32_MAX - 1);
    launch.daemon_uid = (unsigned)integer_of(&reader, spec, "daemon_uid", 0, UINT32_MAX - 1);
    launch.kvm_gid = json_member_integer(spec, "kvm_gid", -1);
    launch.log_bytes = integer_of(&reader, spec, "log_bytes", 4096, INT64_MAX);
    launch.boot_timeout_ms = integer_of(&reader, spec, "boot_timeout_ms", 1, 3600000);
    launch.sidecar_timeout_ms = integer_of(&reader, spec, "sidecar_timeout_ms", 1, 3600000);
    read_resources(&reader, json_object_get(spec, "resources"), &launch.resources);
    read_program(&reader, vm, &launch.vm);
    launch.resources.disk_mib =
        json_object_get(vm, "disk_mib") ? integer_of(&reader, vm, "disk_mib", 0, 1 << 24) : 0;
    launch.dev_kvm = json_is_true(json_object_get(vm, "dev_kvm"));
    launch.agent_fd = (int)integer_of(&reader, vm, "agent_fd", 3, 64);
    if (json_object_get(vm, "qmp_fd"))
        launch.qmp_fd = (int)integer_of(&reader, vm, "qmp_fd", 3, 64);
    if (!launch.probe)
        read_bottle(&reader, spec, &launch);
    else
        read_template(&reader, json_object_get(spec, "save"), &launch.save);
    if (reader.failed) {
        launch_free(&launch);
        return -1;
    }
    *ret = launch;
    return 0;
}

void launch_free(struct launch *launch)
{
    for (size_t i = 0; i < launch->n_sidecars; i++) {
        free(launch->sidecars[i].program.argv);
        free(launch->sidecars[i].config.check);
    }
    for (size_t i = 0; i < launch->n_staged; i++)
        free(launch->staged[i]);
    rules_free(launch->rules, launch->n_rules);
    free(launch->vm.argv);
    free(launch->template.program.argv);
    launch_forget_start(launch);
    secret_free(&launch->secrets);
    json_decref(launch->json);
    *launch = (struct launch){.template.state_file = -1, .save.state_file = -1};
}

int launch_refresh_start(struct launch *launch, struct error *err)
{
    uint8_t *at = launch->start + launch->fresh_at;

    put_u64(at, (uint64_t)clock_wall_ms());
    memcpy(at + 8, launch->mac, sizeof launch->mac);
    return getrandom(at + 16, START_ENTROPY_SIZE, 0) == START_ENTROPY_SIZE
               ? 0
               : error_errno(err, NULL, "random bytes for the guest");
}

void launch_forget_start(struct launch *launch)
{
    if (launch->start)
        explicit_bzero(launch->start, launch->start_length);
    free(launch->start);
    launch->start = NULL;
    launch->start_length = 0;
}
