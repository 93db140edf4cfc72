/* Templates of QEMU's machines: what one depends on, how one is made, how a bottle starts from it.
 *
 * The vector that makes one is a bottle's own, but for the card's address (the guest sets its own
 * when it starts) and the memory, which is a file. A bottle of the template has the same devices in
 * the same order, or QEMU refuses the state. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/qemu.h"
#include "backends/tools.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"

#define FORMAT "1"
#define NOBODYS_MAC "5a:94:ef:ff:ff:fe" /* above all that bottles get */
#define PRIVATE_FILE "bottle-private.so"
#define JAIL_PRIVATE "/vm/" PRIVATE_FILE

enum { STATE_MIB = 16 }; /* the largest state that may be saved; measured: 70 KB */

/* What makes the template's vector, and the program. */
static int make_argv(const struct host *host, const struct plan *plan, char *ret_qemu, size_t size,
                     json_t **ret, struct error *err)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;

    if (qemu_find(host, ret_qemu, size, err) < 0)
        return -1;
    struct qemu_config config = qemu_configure(host, plan, ret_qemu);
    config.guest_mac = NOBODYS_MAC;
    config.kvm = qemu_is_kvm(plan);
    config.template_make = true;
    return render_qemu(&config, &out, err) < 0
               ? -1
               : rendered_argv("qemu.json", "argv", out.data, out.length, ret, err);
}

int template_file_line(const char *path, struct text *ret)
{
    struct stat status;

    if (stat(path, &status) < 0)
        return -1;
    text_addf(ret, "file %s %lld %lld.%09ld %llu\n", path, (long long)status.st_size,
              (long long)status.st_mtim.tv_sec, status.st_mtim.tv_nsec,
              (unsigned long long)status.st_ino);
    return 0;
}

static int lines(const struct host *host, const struct plan *plan, struct text *ret,
                 struct error *err)
{
    char qemu[PATH_MAX], image[PATH_MAX], kernel[PATH_MAX], initrd[PATH_MAX], private[PATH_MAX];
    const char *const files[] = {qemu, image, kernel, initrd, private};
    CLEANUP_FREE char *boot = file_read("/proc/sys/kernel/random/boot_id", 64, NULL, err);
    CLEANUP_JSON json_t *argv = NULL;

    if (!boot || make_argv(host, plan, qemu, sizeof qemu, &argv, err) < 0 ||
        plan_image_path(host, plan, image, sizeof image, err) < 0)
        return -1;
    (void)snprintf(kernel, sizeof kernel, "%s/" QEMU_KERNEL_FILE, host->guest_dir);
    (void)snprintf(initrd, sizeof initrd, "%s/" QEMU_INITRD_FILE, host->guest_dir);
    (void)snprintf(private, sizeof private, "%s/" PRIVATE_FILE, host->libexec_dir);
    /* The saved clocks and the processor are those of this boot of the host. */
    boot[strcspn(boot, "\n")] = '\0';
    text_addf(ret, "format " FORMAT "\nboot %s\n", boot);
    for (size_t i = 0; i < COUNT_OF(files); i++)
        if (template_file_line(files[i], ret) < 0)
            return error_errno(err, "preflight-failed", "%s", files[i]);
    CLEANUP_FREE char *text = json_text(argv);
    text_addf(ret, "disk %lld\nargv %s\n", (long long)plan->spec.disk_mib, text ? text : "");
    return text && !ret->failed ? 0 : error_set(err, NULL, "out of memory");
}

static void add_bind(json_t *binds, const char *directory, const char *name, const char *jail,
                     bool writable)
{
    char path[PATH_MAX];

    (void)snprintf(path, sizeof path, "%s%s%s", directory, name[0] ? "/" : "", name);
    json_array_append_new(binds, json_pack("[s, s, b]", path, jail, (int)writable));
}

static int use(const struct host *host, const struct plan *plan, const char *directory,
               json_t **ret, struct error *err)
{
    const struct plan_file *file = plan_find_file(plan, "qemu.json");
    char qemu[PATH_MAX], image[PATH_MAX], state[PATH_MAX];
    json_t *argv;

    if (!file)
        return error_set(err, NULL, "the plan has no qemu.json");
    if (qemu_find(host, qemu, sizeof qemu, err) < 0 ||
        plan_image_path(host, plan, image, sizeof image, err) < 0 ||
        rendered_argv("qemu.json", "restore", file->content, file->length, &argv, err) < 0)
        return -1;
    json_t *binds = json_array();
    add_bind(binds, image, "", QEMU_JAIL_IMAGE, false);
    if (strncmp(qemu, "/usr/", 5) != 0)
        add_bind(binds, qemu, "", QEMU_JAIL_ELSEWHERE, false);
    if (plan->spec.disk_mib > 0)
        add_bind(binds, plan->stage_dir, DISK_FILE, QEMU_JAIL_DISK, true);
    add_bind(binds, directory, "ram", QEMU_TEMPLATE_RAM, false);
    add_bind(binds, host->libexec_dir, PRIVATE_FILE, JAIL_PRIVATE, false);
    (void)snprintf(state, sizeof state, "%s/state", directory);
    *ret = json_pack("{s:o, s:o, s:{s:s}, s:i, s:s, s:i}", "argv", argv, "binds", binds, "env",
                     "LD_PRELOAD", JAIL_PRIVATE, "qmp_fd", QEMU_QMP_FD, "state", state, "state_fd",
                     QEMU_STATE_FD);
    return *ret ? 0 : error_set(err, NULL, "out of memory");
}

static int make(const struct host *host, const struct plan *plan, const char *directory,
                json_t **ret_vm, json_t **ret_save, struct error *err)
{
    char qemu[PATH_MAX], image[PATH_MAX], state[PATH_MAX];
    CLEANUP_JSON json_t *argv = NULL;
    int64_t disk_mib = plan->spec.disk_mib;

    if (make_argv(host, plan, qemu, sizeof qemu, &argv, err) < 0 ||
        plan_image_path(host, plan, image, sizeof image, err) < 0)
        return -1;
    (void)snprintf(state, sizeof state, "%s/state", directory);
    json_t *vm = qemu_vm_encode(host, qemu, image, argv, qemu_is_kvm(plan));
    json_t *binds = json_object_get(vm, "binds");
    json_t *save = json_pack("{s:s, s:i}", "state", state, "qmp_fd", QEMU_QMP_FD);
    add_bind(binds, directory, "ram", QEMU_TEMPLATE_RAM, true);
    if (disk_mib > 0) /* an empty one; the guest does not touch it before START */
        add_bind(binds, directory, "disk", QEMU_JAIL_DISK, true);
    (void)json_object_set_new(vm, "disk_mib",
                              json_integer(disk_mib > STATE_MIB ? disk_mib : STATE_MIB));
    if (vm && save) {
        *ret_vm = vm;
        *ret_save = save;
        return 0;
    }
    json_decref(vm);
    json_decref(save);
    return error_set(err, NULL, "out of memory");
}

const struct templating qemu_templating = {lines, use, make};
