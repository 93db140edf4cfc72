/* The smolmachines backend: smolvm's VM engine, libkrun, with one card on gvproxy's unixgram
 * socket.
 *
 * The smolvm command takes no external card, but the library beside it does; so the VM process is
 * bottle-krun on that library. The library is found beside the real file of smolvm (or, as vendors'
 * archives lay it out, in lib/ below or beside that), or where the configuration says; its kernel
 * comes with it, as libkrunfw. */
#include "backends/smolmachines.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backends/krun_api.h"
#include "backends/tools.h"
#include "base/util.h"

#define SMOLVM "smolvm"
#define RUNNER "bottle-krun"
#define FIRMWARE "libkrunfw.so.5"
#define ROOT_DIR "root"
#define JAIL_RUNNER "/vm/" RUNNER
#define JAIL_LIBRARY "/vm/libkrun.so"
#define JAIL_FIRMWARE "/vm/" FIRMWARE
#define JAIL_ROOT "/vm/root"
#define JAIL_IMAGE "/vm/image"
#define JAIL_DISK "/vm/disk"

enum { AGENT_FD = 5, PROBE_MIB = 128 };

/* What is the same for every machine. */
static const struct krun_config in_jail = {
    .binary = JAIL_RUNNER,
    .library = JAIL_LIBRARY,
    .firmware = JAIL_FIRMWARE,
    .root = JAIL_ROOT,
    .image = JAIL_IMAGE,
    .agent_fd = AGENT_FD,
};

static const char install_smolvm[] = "install smolvm by its vendor's installer, or run tools/setup "
                                     "in bottled's source directory (it "
                                     "takes the smolmachines wheel from PyPI)";

struct libraries {
    char smolvm[PATH_MAX];   /* "" when not found */
    char library[PATH_MAX];  /* the same */
    char firmware[PATH_MAX]; /* where it should be; "" when the library was not found */
};

/* "/a/b/c" → "/a/b" */
static void parent(char *path)
{
    char *slash = strrchr(path, '/');

    if (slash)
        *slash = '\0';
}

static bool try_library(struct libraries *libraries, const char *path)
{
    CLEANUP_FREE char *real = realpath(path, NULL);

    if (!real || access(real, R_OK) < 0 ||
        snprintf(libraries->library, sizeof libraries->library, "%s", real) >=
            (int)sizeof libraries->library) {
        libraries->library[0] = '\0';
        return false;
    }
    char directory[PATH_MAX];
    (void)snprintf(directory, sizeof directory, "%s", libraries->library);
    parent(directory);
    if (snprintf(libraries->firmware, sizeof libraries->firmware, "%s/" FIRMWARE, directory) >=
        (int)sizeof libraries->firmware)
        libraries->firmware[0] = '\0';
    return true;
}

static void find_libraries(const struct host *host, struct libraries *ret)
{
    static const char *const places[] = {"libkrun.so.2",        "libkrun.so",
                                         "lib/libkrun.so.2",    "lib/libkrun.so",
                                         "../lib/libkrun.so.2", "../lib/libkrun.so"};
    char directory[PATH_MAX], path[PATH_MAX + 32];

    *ret = (struct libraries){0};
    if (tool_find(host->tools_path, SMOLVM, ret->smolvm, sizeof ret->smolvm) < 0)
        ret->smolvm[0] = '\0';
    if (host->libkrun && host->libkrun[0]) {
        (void)try_library(ret, host->libkrun);
        return;
    }
    if (!ret->smolvm[0])
        return;
    (void)snprintf(directory, sizeof directory, "%s", ret->smolvm);
    parent(directory);
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", directory, places[i]);
        if (try_library(ret, path))
            return;
    }
}

static void preflight_library(struct preflight *preflight, const struct host *host,
                              const struct libraries *libraries)
{
    static const char hint[] =
        "install a released smolvm whole (its libkrun lies beside the program), or set libkrun in "
        "bottled's configuration to the library's path";
    struct error err = ERROR_INIT;
    char detail[256] = "", soname[64] = "";
    bool found = libraries->library[0] != '\0';

    if (!found && host->libkrun && host->libkrun[0])
        (void)snprintf(detail, sizeof detail, "%.180s is not there or can't be read",
                       host->libkrun);
    else if (!found)
        (void)snprintf(detail, sizeof detail, "%s",
                       libraries->smolvm[0] ? "not found beside smolvm"
                                            : "not looked for: smolvm was not found");
    else if (krun_check_file(libraries->library, soname, sizeof soname, &err) < 0) {
        (void)snprintf(detail, sizeof detail, "%.255s", err.text);
        found = false;
    }
    preflight_row(preflight, "libkrun", found, libraries->library, detail, hint);
    if (found && preflight->count > 0) /* what a library gives for a version is its name */
        (void)snprintf(preflight->tools[preflight->count - 1].version,
                       sizeof preflight->tools[0].version, "%.47s", soname);
}

void smolmachines_preflight(const struct host *host, const struct spec *spec, struct preflight *ret)
{
    static const char built[] = "build bottled whole: run make in its source directory";
    const char *image = spec ? spec->image : BUILTIN_IMAGE;
    struct libraries libraries;
    char path[PATH_MAX];

    *ret = (struct preflight){.ok = true};
    find_libraries(host, &libraries);
    preflight_program(ret, host, SMOLVM, install_smolvm);
    preflight_library(ret, host, &libraries);
    bool firmware = libraries.firmware[0] && access(libraries.firmware, R_OK) == 0;
    preflight_row(ret, "libkrunfw", firmware, firmware ? libraries.firmware : "",
                  firmware ? "" : FIRMWARE " is not beside libkrun", install_smolvm);
    preflight_row(ret, "KVM", host->kvm_works, "/dev/kvm",
                  host->kvm_detail[0] ? host->kvm_detail : "was not tried yet",
                  "smolvm's engine runs on KVM only; bottles of \"backend\": \"qemu\" need none");
    preflight_common(ret, host, spec);
    preflight_file(ret, RUNNER, host->libexec_dir, RUNNER, built);
    (void)snprintf(path, sizeof path, ROOT_DIR "/init.krun");
    preflight_file(ret, "guest root", host->guest_dir, path, built);
    /* Another image goes into the file all the same; starting the bottle then says why it can't. */
    if (guest_image_path(host, image, path, sizeof path) == 0)
        preflight_file(ret, "guest image", "", path + 1, built);
    preflight_disk(ret, host, spec);
}

static int add_rendered(struct plan *plan, const char *name, struct text *out, struct error *err)
{
    char *content = text_take(out);

    if (!content)
        return error_set(err, NULL, "out of memory");
    return plan_add_file(plan, name, content, err);
}

int smolmachines_prepare(const struct host *host, struct plan *plan, struct error *err)
{
    CLEANUP_TEXT struct text smolfile = TEXT_INIT;
    CLEANUP_TEXT struct text machine = TEXT_INIT;
    struct krun_config config = in_jail;

    config.guest = &plan->guest;
    config.network = &plan->network;
    config.disk = plan->spec.disk_mib > 0 ? JAIL_DISK : NULL;
    bool read_only[MOUNTS_MAX];
    for (size_t i = 0; i < plan->n_mounts; i++)
        read_only[i] = plan->mounts[i].spec->read_only;
    config.mounts_read_only = read_only;
    config.n_mounts = (unsigned)plan->n_mounts;
    plan->accelerator = "kvm"; /* libkrun has no other */
    if (render_smolfile(&plan->guest, &plan->network, host->dialect, &smolfile, err) < 0)
        return error_wrap(err, "smolfile.toml");
    if (render_krun(&config, &machine, err) < 0)
        return -1;
    return add_rendered(plan, "smolfile.toml", &smolfile, err) < 0
               ? -1
               : add_rendered(plan, "krun.json", &machine, err);
}

/* argv and binds of the VM; `argv` comes from the rendered file, so that what was shown is what
 * runs. */
static json_t *vm_encode(const struct host *host, const struct libraries *libraries,
                         const char *image, json_t *argv)
{
    char runner[PATH_MAX], root[PATH_MAX];

    (void)snprintf(runner, sizeof runner, "%s/" RUNNER, host->libexec_dir);
    (void)snprintf(root, sizeof root, "%s/" ROOT_DIR, host->guest_dir);
    return json_pack("{s:s, s:O, s:[[s, s], [s, s], [s, s], [s, s], [s, s]], s:b, s:i}", "name",
                     "krun", "argv", argv, "binds", runner, JAIL_RUNNER, libraries->library,
                     JAIL_LIBRARY, libraries->firmware, JAIL_FIRMWARE, root, JAIL_ROOT, image,
                     JAIL_IMAGE, "dev_kvm", 1, "agent_fd", (int)AGENT_FD);
}

int smolmachines_launch(const struct host *host, const struct plan *plan, json_t **ret_vm,
                        struct error *err)
{
    const struct plan_file *file = plan_find_file(plan, "krun.json");
    struct libraries libraries;
    char soname[64], image[PATH_MAX];
    json_t *argv;

    if (!file)
        return error_set(err, NULL, "the plan has no krun.json");
    find_libraries(host, &libraries);
    if (!libraries.library[0])
        return error_set(err, "preflight-failed", "smolvm's libkrun was not found; %s",
                         install_smolvm);
    if (krun_check_file(libraries.library, soname, sizeof soname, err) < 0)
        return -1;
    if (!host->kvm_works)
        return error_set(err, "preflight-failed", "smolvm's engine runs on KVM only: %s",
                         host->kvm_detail);
    if (plan_image_path(host, plan, image, sizeof image, err) < 0 ||
        rendered_argv("krun.json", "argv", file->content, file->length, &argv, err) < 0)
        return -1;
    *ret_vm = vm_encode(host, &libraries, image, argv);
    json_decref(argv);
    bind_disk(*ret_vm, plan, JAIL_DISK);
    return *ret_vm ? 0 : error_set(err, NULL, "out of memory");
}

int smolmachines_probe_vm(const struct host *host, json_t **ret_vm, struct error *err)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;
    const struct guest_config guest = {.cpus = 1, .memory_mib = PROBE_MIB};
    struct krun_config config = in_jail;
    struct libraries libraries;
    char image[PATH_MAX];
    json_t *argv;

    find_libraries(host, &libraries);
    config.guest = &guest;
    if (guest_image_path(host, BUILTIN_IMAGE, image, sizeof image) < 0 ||
        render_krun(&config, &out, err) < 0 ||
        rendered_argv("krun.json", "argv", out.data, out.length, &argv, err) < 0)
        return -1;
    *ret_vm = vm_encode(host, &libraries, image, argv);
    json_decref(argv);
    return *ret_vm ? 0 : error_set(err, NULL, "out of memory");
}

int smolmachines_identity(const struct host *host, char *ret, size_t size)
{
    char runner[PATH_MAX], init[PATH_MAX], soname[64];
    struct libraries libraries;

    find_libraries(host, &libraries);
    if (!libraries.library[0] ||
        krun_check_file(libraries.library, soname, sizeof soname, NULL) < 0)
        return -1;
    (void)snprintf(runner, sizeof runner, "%s/" RUNNER, host->libexec_dir);
    (void)snprintf(init, sizeof init, "%s/" ROOT_DIR "/init.krun", host->guest_dir);
    return files_identity(
        (const char *const[]){libraries.library, libraries.firmware, runner, init, NULL}, ret,
        size);
}
