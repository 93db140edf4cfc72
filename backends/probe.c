/* What bottled must find out about the machine before its first bottle: the TSC's frequency, and
 * whether KVM works.
 *
 * /dev/kvm can exist, accept KVM_CREATE_VM and still hang at the guest's kernel, so that opening it
 * proves nothing. The proof is a boot of the real kernel and init, by bottle-shim in the VM's own
 * jail and as a bottle's own user, under a deadline, by the first VMM that is there. The verdict is
 * kept per boot of the host, VMM, kernel and init. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backends/backend.h"
#include "backends/qemu.h"
#include "backends/smolmachines.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/number.h"
#include "base/process.h"
#include "base/text.h"
#include "base/util.h"

#define VERDICT_FILE "kvm-probe.json"
#define TSC_FILE "tsc-khz"
/* Measured: hashing and packing 5 to 8 times, starting programs 50 times as long. */
#define TCG_INSTEAD                                                                                \
    "; qemu runs its bottles by TCG instead: 5 to 10 times slower, at starting programs up to 50"
#define TRY_AGAIN                                                                                  \
    "; to have it tried again, remove " VERDICT_FILE " in state_dir and restart bottled"

enum {
    TSC_SAMPLE_MS = 20,
    SHIM_SPEC = 3,
    SHIM_READY = 4,
    SLACK_MS = 3000,
    VERDICT_MAX = 65536,
    IDENTITY_MAX = 5 * PATH_MAX,
    TSC_TOLERANCE = 200
}; /* one part in */

#if defined(__x86_64__)
#include <x86intrin.h>
static unsigned measure_tsc_khz(void)
{
    struct timespec from, to;

    (void)clock_gettime(CLOCK_MONOTONIC_RAW, &from);
    uint64_t first = __rdtsc();
    (void)poll(NULL, 0, TSC_SAMPLE_MS);
    uint64_t last = __rdtsc();
    (void)clock_gettime(CLOCK_MONOTONIC_RAW, &to);
    int64_t ns = (int64_t)(to.tv_sec - from.tv_sec) * 1000000000 + (to.tv_nsec - from.tv_nsec);
    return ns > 0 ? (unsigned)((last - first) * 1000000 / (uint64_t)ns) : 0;
}
#else
static unsigned measure_tsc_khz(void)
{
    return 0;
}
#endif

/* A launch file carries the frequency, and must not change with every start of bottled because two
 * measurements differ in the last digits: the first one is kept for as long as it is true. */
static unsigned settle_tsc_khz(const struct host *host)
{
    char path[PATH_MAX], digits[16];
    int64_t kept = 0;
    unsigned measured = measure_tsc_khz();

    (void)snprintf(path, sizeof path, "%s/" TSC_FILE, host->state_dir);
    CLEANUP_FREE char *text = file_read(path, sizeof digits, NULL, NULL);
    if (text && number_parse(text, 1, UINT32_MAX, &kept) == 0 &&
        llabs(kept - (int64_t)measured) <= kept / TSC_TOLERANCE)
        return (unsigned)kept;
    (void)snprintf(digits, sizeof digits, "%u", measured);
    (void)file_write(path, digits, strlen(digits), 0600, false, NULL);
    return measured;
}

static void verdict(struct host *host, bool works, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void verdict(struct host *host, bool works, const char *format, ...)
{
    va_list args;

    host->kvm_works = works;
    va_start(args, format);
    (void)vsnprintf(host->kvm_detail, sizeof host->kvm_detail, format, args);
    va_end(args);
}

/* Whether a bottle's user could open the device at all; the verdict says which mode or group is
 * missing. */
static bool may_open(struct host *host)
{
    struct stat device;

    if (stat("/dev/kvm", &device) < 0) {
        verdict(host, false, "/dev/kvm is absent: no KVM on this machine");
        return false;
    }
    bool allowed = host->uid_base
                       ? (device.st_mode & 0060) == 0060 || (device.st_mode & 0006) == 0006
                       : access("/dev/kvm", R_OK | W_OK) == 0;
    if (!allowed)
        verdict(host, false,
                "/dev/kvm has mode %04o and group %u: %s; it should have mode 0660 and group kvm",
                (unsigned)device.st_mode & 07777, (unsigned)device.st_gid,
                host->uid_base ? "the bottles' users can't open it"
                               : "your user can't open it (join that group)");
    return allowed;
}

/* The VMMs that can try a guest, in the order in which one is taken: the first that is there. */
static const struct prober {
    const char *name;
    int (*identity)(const struct host *host, char *ret, size_t size);
    int (*vm)(const struct host *host, json_t **ret_vm, struct error *err);
} probers[] = {
    {"QEMU", qemu_identity, qemu_probe_vm},
    {"libkrun", smolmachines_identity, smolmachines_probe_vm},
};

/* "<boot id> <deadline> <files>": what a kept verdict holds for. The deadline is part of it, as a
 * guest may come up within a longer one. NULL: no VMM is there, or not its guest's files. */
static const struct prober *identity(const struct host *host, char *ret, size_t size)
{
    CLEANUP_FREE char *boot = file_read("/proc/sys/kernel/random/boot_id", 64, NULL, NULL);
    const struct prober *prober = probers;
    char files[IDENTITY_MAX];

    while (prober < probers + COUNT_OF(probers) && prober->identity(host, files, sizeof files) < 0)
        prober++;
    if (!boot || prober == probers + COUNT_OF(probers))
        return NULL;
    boot[strcspn(boot, "\n")] = '\0';
    return snprintf(ret, size, "%s %lld %s", boot, (long long)host->kvm_probe_ms, files) < (int)size
               ? prober
               : NULL;
}

static bool read_verdict(struct host *host, const char *path, const char *key)
{
    size_t length;
    CLEANUP_FREE char *text = file_read(path, VERDICT_MAX, &length, NULL);
    CLEANUP_JSON json_t *kept = text ? json_parse(text, length, NULL) : NULL;
    const char *kept_key = json_member_string(kept, "key");

    if (!kept_key || strcmp(kept_key, key) != 0 || !json_member_string(kept, "detail"))
        return false;
    verdict(host, json_is_true(json_object_get(kept, "works")), "%s",
            json_member_string(kept, "detail"));
    return true;
}

static void keep_verdict(const struct host *host, const char *path, const char *key)
{
    CLEANUP_JSON json_t *kept = json_pack("{s:s, s:b, s:s}", "key", key, "works",
                                          (int)host->kvm_works, "detail", host->kvm_detail);
    CLEANUP_FREE char *text = json_text(kept);

    /* Not kept is no fault: the next start just probes again. */
    if (text)
        (void)file_write(path, text, strlen(text), 0600, false, NULL);
}

static int spec_memfd(const json_t *spec, struct error *err)
{
    CLEANUP_FREE char *text = json_text(spec);
    CLEANUP_CLOSE int fd = memfd_create("launch", MFD_CLOEXEC);

    if (!text || fd < 0 || write_all(fd, text, strlen(text)) < 0)
        return error_errno(err, NULL, "writing the probe's launch spec");
    return steal_fd(&fd);
}

/* Reads the shim's one line under a deadline: true when it is "ok". */
static bool read_answer(int fd, int cancel, int64_t until_ms, char *ret, size_t size)
{
    size_t length = 0;

    for (;;) {
        int64_t left = until_ms - clock_monotonic_ms();
        struct pollfd ready[] = {{.fd = fd, .events = POLLIN}, {.fd = cancel, .events = POLLIN}};
        if (left <= 0 || poll(ready, COUNT_OF(ready), (int)left) <= 0 || ready[1].revents)
            break;
        ssize_t got = read(fd, ret + length, size - 1 - length);
        if (got <= 0)
            break;
        length += (size_t)got;
    }
    ret[length] = '\0';
    ret[strcspn(ret, "\n")] = '\0';
    return strcmp(ret, "ok") == 0;
}

int shim_try(const struct host *host, const json_t *spec, int cancel, char *ret_answer, size_t size,
             struct error *err)
{
    char shim[PATH_MAX];
    int64_t until = clock_monotonic_ms() + host->boot_timeout_ms + SLACK_MS;
    int pipe_fds[2];
    pid_t pid;

    (void)snprintf(shim, sizeof shim, "%s/bottle-shim", host->libexec_dir);
    CLEANUP_CLOSE int spec_fd = spec_memfd(spec, err);
    if (spec_fd < 0 || pipe2(pipe_fds, O_CLOEXEC) < 0)
        return -1;
    CLEANUP_CLOSE int read_end = pipe_fds[0];
    CLEANUP_CLOSE int write_end = pipe_fds[1];
    CLEANUP_CLOSE int pidfd = -1;
    const char *const argv[] = {shim, "--launch", NULL};
    const struct spawn_fd fds[] = {{spec_fd, SHIM_SPEC}, {write_end, SHIM_READY}};
    const struct spawn spawn = {
        .argv = argv, .in = -1, .out = -1, .error = -1, .fds = fds, .n_fds = COUNT_OF(fds)};
    if (process_spawn(&spawn, &pid, &pidfd, err) < 0)
        return -1;
    (void)close(steal_fd(&write_end));
    bool good = read_answer(read_end, cancel, until, ret_answer, size);
    (void)pidfd_kill(pidfd, SIGKILL);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    int status;
    (void)poll(&ended, 1, SLACK_MS);
    (void)pidfd_reap(pidfd, &status);
    return good;
}

static int boot(struct host *host, const struct prober *prober, const json_t *spec,
                struct error *err)
{
    char answer[sizeof host->kvm_detail - sizeof TCG_INSTEAD - sizeof TRY_AGAIN - 60];
    int64_t began = clock_monotonic_ms();
    struct host probing = *host;

    probing.boot_timeout_ms = host->kvm_probe_ms;
    int good = shim_try(&probing, spec, -1, answer, sizeof answer, err);
    if (good < 0)
        return -1;
    if (good)
        verdict(host, true, "KVM works: a guest of %s booted in %lld ms", prober->name,
                (long long)(clock_monotonic_ms() - began));
    else
        verdict(host, false, "/dev/kvm is there but no guest of %s boots: %s" TRY_AGAIN,
                prober->name, answer[0] ? answer : "the probe gave no answer");
    return 0;
}

/* Boots the probe in a directory of its own, made for the first of the bottles' users and removed
 * after. */
static int probe_in(struct host *host, const struct prober *prober, const char *directory,
                    struct error *err)
{
    struct host probing = *host;
    json_t *vm;

    if (host->uid_base && chown(directory, host->uid_base, host->uid_base) < 0)
        return error_errno(err, NULL, "%s", directory);
    if (prober->vm(host, &vm, err) < 0)
        return -1;
    probing.boot_timeout_ms = host->kvm_probe_ms;
    CLEANUP_JSON json_t *spec = launch_frame(&probing, vm, PROBE_MIB, "probe", directory, directory,
                                             host->uid_base, "-", err);
    if (!spec || json_object_set_new(spec, "probe", json_true()) < 0)
        return -1;
    return boot(host, prober, spec, err);
}

/* Settles the verdict by the one that was kept, or by a boot. */
static int settle_kvm(struct host *host, struct error *err)
{
    char path[PATH_MAX], directory[PATH_MAX], key[IDENTITY_MAX + 128];
    const struct prober *prober;
    struct error fault = ERROR_INIT;

    (void)snprintf(path, sizeof path, "%s/" VERDICT_FILE, host->state_dir);
    (void)snprintf(directory, sizeof directory, "%s/probe-XXXXXX", host->run_dir);
    if (!may_open(host))
        return 0;
    if (!(prober = identity(host, key, sizeof key))) {
        verdict(host, false, "neither QEMU nor smolvm's libkrun is there to try a guest by");
        return 0;
    }
    if (read_verdict(host, path, key))
        return 0;
    if (!mkdtemp(directory))
        return error_errno(err, NULL, "%s", directory);
    if (probe_in(host, prober, directory, &fault) < 0)
        verdict(host, false, "the KVM probe could not run: %.120s", fault.text);
    else
        keep_verdict(host, path, key);
    (void)directory_remove(directory, NULL, NULL);
    return 0;
}

int host_probe(struct host *host, struct error *err)
{
    host->tsc_khz = settle_tsc_khz(host);
    if (strcmp(host->accelerator, "tcg") == 0) {
        verdict(host, false, "the configuration asks for TCG");
        return 0;
    }
    if (settle_kvm(host, err) < 0)
        return -1;
    if (!host->kvm_works) {
        size_t length = strlen(host->kvm_detail);
        (void)snprintf(host->kvm_detail + length, sizeof host->kvm_detail - length, "%s",
                       TCG_INSTEAD);
    }
    if (strcmp(host->accelerator, "kvm") == 0 && !host->kvm_works)
        return error_set(err, "preflight-failed", "accelerator is set to kvm, but: %s",
                         host->kvm_detail);
    return 0;
}
