/* The qemu backend: QEMU's microvm machine, by KVM where a probe boot succeeded, else by TCG, so
 * that bottled does its main job on any Linux machine. */
#include "backends/qemu.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "backends/mounts.h"
#include "backends/tools.h"

#define QEMU "qemu-system-x86_64"
#define JAIL_KERNEL "/vm/kernel"
#define JAIL_INITRD "/vm/initrd"

enum { MOUNT_FD = 16 /* and those that follow */ };

void qemu_preflight(const struct host *host, const struct spec *spec, struct preflight *ret)
{
    static const char built[] = "build bottled whole: run make in its source directory";
    const char *image = spec ? spec->image : "builtin:busybox";
    char path[PATH_MAX] = "";

    *ret = (struct preflight){.ok = true};
    preflight_program(ret, host, QEMU,
                      "install it by: apt-get install --no-install-recommends qemu-system-x86");
    preflight_common(ret, host, spec);
    preflight_file(ret, "guest kernel", host->guest_dir, QEMU_KERNEL_FILE, built);
    preflight_file(ret, "guest initramfs", host->guest_dir, QEMU_INITRD_FILE, built);
    if (guest_image_path(host, image, path, sizeof path) == 0)
        preflight_file(ret, "guest image", "", path + 1, built);
    preflight_disk(ret, host, spec);
    preflight_mounts(ret, host, spec);
}

/* Where QEMU is found, and where it is seen in its jail. */
static const char *qemu_in_jail(const char *path)
{
    return strncmp(path, "/usr/", 5) == 0 ? path : QEMU_JAIL_ELSEWHERE;
}

int qemu_find(const struct host *host, char *ret, size_t size, struct error *err)
{
    if (tool_find(host->tools_path, QEMU, ret, size) < 0)
        return error_set(err, "preflight-failed",
                         QEMU " was not found; install it by: apt-get install qemu-system-x86");
    return 0;
}

struct qemu_config qemu_configure(const struct host *host, const struct plan *plan,
                                  const char *qemu)
{
    return (struct qemu_config){
        .binary = qemu_in_jail(qemu),
        .kernel = JAIL_KERNEL,
        .initrd = JAIL_INITRD,
        .image = QEMU_JAIL_IMAGE,
        .disk = plan->spec.disk_mib > 0 ? QEMU_JAIL_DISK : NULL,
        .cpus = (unsigned)plan->spec.cpus,
        .memory_mib = (unsigned)plan->spec.memory_mib,
        .guest_mac = plan->mac,
        .kvm = host->kvm_works,
        .tsc_khz = host->tsc_khz,
        .agent_fd = QEMU_AGENT_FD,
        .n_mounts = (unsigned)plan->n_mounts,
        .mount_fd = MOUNT_FD,
        /* The memory of a machine with mounts is shared with those who serve them. */
        .template_ram = plan->n_mounts > 0 ? NULL : QEMU_TEMPLATE_RAM,
        .qmp_fd = QEMU_QMP_FD,
    };
}

bool qemu_is_kvm(const struct plan *plan)
{
    return plan->accelerator && strcmp(plan->accelerator, "kvm") == 0;
}

int qemu_prepare(const struct host *host, struct plan *plan, struct error *err)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;
    char qemu[PATH_MAX] =
        "/usr/bin/" QEMU; /* in a dry run where it is missing, as preflight says */

    (void)tool_find(host->tools_path, QEMU, qemu, sizeof qemu);
    const struct qemu_config config = qemu_configure(host, plan, qemu);
    plan->accelerator = host->kvm_works ? "kvm" : "tcg";
    if (render_qemu(&config, &out, err) < 0)
        return error_wrap(err, "qemu.json");
    char *content = text_take(&out);
    if (!content)
        return error_set(err, NULL, "out of memory");
    return plan_add_file(plan, "qemu.json", content, err);
}

/* argv and binds of the VM; `argv` comes from the rendered file, so that what was shown is what
 * runs. */
json_t *qemu_vm_encode(const struct host *host, const char *qemu, const char *image, json_t *argv,
                       bool kvm)
{
    char kernel[PATH_MAX], initrd[PATH_MAX];
    json_t *binds = json_array();

    (void)snprintf(kernel, sizeof kernel, "%s/" QEMU_KERNEL_FILE, host->guest_dir);
    (void)snprintf(initrd, sizeof initrd, "%s/" QEMU_INITRD_FILE, host->guest_dir);
    json_array_append_new(binds, json_pack("[s, s]", kernel, JAIL_KERNEL));
    json_array_append_new(binds, json_pack("[s, s]", initrd, JAIL_INITRD));
    if (image)
        json_array_append_new(binds, json_pack("[s, s]", image, QEMU_JAIL_IMAGE));
    if (strncmp(qemu, "/usr/", 5) != 0)
        json_array_append_new(binds, json_pack("[s, s]", qemu, QEMU_JAIL_ELSEWHERE));
    return json_pack("{s:s, s:O, s:o, s:b, s:i}", "name", "qemu", "argv", argv, "binds", binds,
                     "dev_kvm", (int)kvm, "agent_fd", (int)QEMU_AGENT_FD);
}

/* Each directory is served by a process of its own. */
static int add_server(const struct host *host, json_t *vm, struct error *err)
{
    json_t *server = mounts_server_encode(host, err);

    if (!server)
        return -1;
    (void)json_object_set_new(server, "fd", json_integer(MOUNT_FD));
    return json_object_set_new(vm, "fs", server) < 0 ? error_set(err, NULL, "out of memory") : 0;
}

int qemu_launch(const struct host *host, const struct plan *plan, json_t **ret_vm,
                struct error *err)
{
    const struct plan_file *file = plan_find_file(plan, "qemu.json");
    char qemu[PATH_MAX], image[PATH_MAX];
    json_t *argv;

    if (!file)
        return error_set(err, NULL, "the plan has no qemu.json");
    if (qemu_find(host, qemu, sizeof qemu, err) < 0 ||
        rendered_argv("qemu.json", "argv", file->content, file->length, &argv, err) < 0)
        return -1;
    if (plan_image_path(host, plan, image, sizeof image, err) < 0) {
        json_decref(argv);
        return -1;
    }
    *ret_vm = qemu_vm_encode(host, qemu, image, argv, qemu_is_kvm(plan));
    json_decref(argv);
    (void)json_object_set_new(*ret_vm, "qmp_fd", json_integer(QEMU_QMP_FD));
    bind_disk(*ret_vm, plan, QEMU_JAIL_DISK);
    if (plan->n_mounts > 0 && add_server(host, *ret_vm, err) < 0) {
        json_decref(*ret_vm);
        return -1;
    }
    return *ret_vm ? 0 : error_set(err, NULL, "out of memory");
}

int qemu_probe_vm(const struct host *host, json_t **ret_vm, struct error *err)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;
    char qemu[PATH_MAX];
    json_t *argv;

    if (qemu_find(host, qemu, sizeof qemu, err) < 0)
        return -1;
    const struct qemu_config config = {
        .binary = qemu_in_jail(qemu),
        .kernel = JAIL_KERNEL,
        .initrd = JAIL_INITRD,
        .cpus = 1,
        .memory_mib = PROBE_MIB,
        .kvm = true,
        .agent_fd = QEMU_AGENT_FD,
        .probe = true,
    };
    if (render_qemu(&config, &out, err) < 0 ||
        rendered_argv("qemu.json", "argv", out.data, out.length, &argv, err) < 0)
        return -1;
    *ret_vm = qemu_vm_encode(host, qemu, NULL, argv, true);
    json_decref(argv);
    return *ret_vm ? 0 : error_set(err, NULL, "out of memory");
}

int qemu_identity(const struct host *host, char *ret, size_t size)
{
    char qemu[PATH_MAX], kernel[PATH_MAX], initrd[PATH_MAX];
    struct error err;

    (void)snprintf(kernel, sizeof kernel, "%s/" QEMU_KERNEL_FILE, host->guest_dir);
    (void)snprintf(initrd, sizeof initrd, "%s/" QEMU_INITRD_FILE, host->guest_dir);
    if (qemu_find(host, qemu, sizeof qemu, &err) < 0)
        return -1;
    return files_identity((const char *const[]){qemu, kernel, initrd, NULL}, ret, size);
}
