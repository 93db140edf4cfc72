/* A bottle's own disk: in the machine of each backend, and what the VM's process may write then. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backends/backend.h"
#include "base/file.h"
#include "base/util.h"
#include "renderers/render.h"
#include "server/disk.h"
#include "shim/limits.h"

static const struct qemu_config qemu = {
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

Test(disk, in_qemus_machine_after_the_image)
{
    struct qemu_config config = qemu;
    struct text without = TEXT_INIT, with = TEXT_INIT, refused = TEXT_INIT;

    cr_assert_eq(render_qemu(&config, &without, NULL), 0);
    cr_expect_null(strstr(without.data, "id=disk"));
    config.disk = "/vm/disk";
    cr_assert_eq(render_qemu(&config, &with, NULL), 0);
    const char *image = strstr(with.data, "\"virtio-blk-device,drive=image\"");
    const char *disk = strstr(with.data, "\"virtio-blk-device,drive=disk\"");
    cr_expect(image && disk && image < disk, "the guest knows them by their order");
    cr_expect(strstr(with.data, "\"if=none,id=disk,file=/vm/disk,format=raw,discard=unmap\""));
    config.disk = "/vm/disk,readonly=on";
    cr_expect_eq(render_qemu(&config, &refused, NULL), -1);
    text_free(&without);
    text_free(&with);
    text_free(&refused);
}

Test(disk, in_libkruns_machine)
{
    const struct guest_config guest = {.cpus = 1, .memory_mib = 256};
    struct krun_config config = {.binary = "/vm/bottle-krun",
                                 .library = "/vm/libkrun.so",
                                 .firmware = "/vm/libkrunfw.so.5",
                                 .root = "/vm/root",
                                 .image = "/vm/image",
                                 .guest = &guest,
                                 .agent_fd = 5};
    struct text without = TEXT_INIT, with = TEXT_INIT;

    cr_assert_eq(render_krun(&config, &without, NULL), 0);
    cr_expect_null(strstr(without.data, "--own-disk"));
    config.disk = "/vm/disk";
    cr_assert_eq(render_krun(&config, &with, NULL), 0);
    cr_expect(strstr(with.data, "\"--own-disk\",\n    \"/vm/disk\""));
    text_free(&without);
    text_free(&with);
}

Test(disk, is_bound_writable)
{
    char stage[] = "/s/bottles/x";
    struct plan plan = {.stage_dir = stage};
    json_t *vm = json_pack("{s:[]}", "binds");

    bind_disk(vm, &plan, "/vm/disk");
    cr_expect_eq(json_array_size(json_object_get(vm, "binds")), 0, "none is wanted");
    plan.spec.disk_mib = 64;
    bind_disk(vm, &plan, "/vm/disk");
    const json_t *bind = json_array_get(json_object_get(vm, "binds"), 0);
    cr_expect_str_eq(json_string_value(json_array_get(bind, 0)), "/s/bottles/x/" DISK_FILE);
    cr_expect_str_eq(json_string_value(json_array_get(bind, 1)), "/vm/disk");
    cr_expect(json_is_true(json_array_get(bind, 2)));
    cr_expect_eq(json_integer_value(json_object_get(vm, "disk_mib")), 64);
    json_decref(vm);
}

static bool limited(const struct launch *launch, const char *limit)
{
    struct argv argv = ARGV_INIT;
    bool found = false;

    limits_add(&argv, LIMITS_VM, launch);
    for (size_t i = 0; i < argv.count; i++)
        found = found || strcmp(argv.items[i], limit) == 0;
    argv_free(&argv);
    return found;
}

Test(disk, is_the_only_file_that_grows)
{
    struct launch launch = {.resources = {.vm_mib = 256, .vm_overhead_mib = 64, .pids = 100}};

    cr_expect(limited(&launch, "fsize=0"));
    launch.resources.disk_mib = 64;
    cr_expect(limited(&launch, "fsize=67108864"));
}

/* The superblock's features: https://docs.kernel.org/filesystems/ext4/super.html */
Test(disk, is_made_with_a_journal)
{
    enum { SUPERBLOCK = 1024, MAGIC = 0x38, COMPATIBLE = 0x5c, INCOMPATIBLE = 0x60 };
    enum { HAS_JOURNAL = 0x4, EXTENTS = 0x40 };
    char stage[] = "/tmp/disk-XXXXXX", path[64];
    uint8_t bytes[256];
    struct error err = ERROR_INIT;
    const struct host host = {.tools_path = "/usr/sbin:/sbin:/usr/bin:/bin"};
    struct plan plan = {.stage_dir = mkdtemp(stage), .spec.disk_mib = 16};

    cr_assert_eq(disk_ensure(&host, &plan, 0, &err), 0, "%s", err.text);
    (void)snprintf(path, sizeof path, "%s/" DISK_FILE, stage);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert_eq(pread(fd, bytes, sizeof bytes, SUPERBLOCK), (ssize_t)sizeof bytes);
    (void)close(fd);
    (void)directory_remove(stage, NULL, NULL);
    cr_expect_eq(bytes[MAGIC], 0x53);
    cr_expect(bytes[COMPATIBLE] & HAS_JOURNAL, "what was synced outlives a kill at any moment");
    cr_expect(bytes[INCOMPATIBLE] & EXTENTS);
}
