#include "guest/boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/number.h"
#include "base/util.h"
#include "guest/console.h"

enum {
    TERM_GRACE_MS = 2000,
    KILL_GRACE_MS = 500, /* for the kernel to end what was killed */
    CMDLINE_MAX = 4096,
};

/* On QEMU's microvm the command line says reboot=t, on libkrun's machine reboot=k: a reset ends the
 * VM there, and a power off only stops its processors. Looked up at the start: later the command
 * may have taken /proc away. */
static bool ends_by_reset;

/* The kernel's errors still reach the console, its notices do not. */
static void quiet_kernel(void)
{
    CLEANUP_CLOSE int fd = open("/proc/sys/kernel/printk", O_WRONLY | O_CLOEXEC);

    if (fd >= 0 && write(fd, "4", 1) != 1)
        return; /* the console is only less readable */
}

int boot_mount(struct error *err)
{
    static const struct {
        const char *type, *where;
        unsigned long flags;
    } mounts[] = {
        {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC},
        {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC},
        {"devtmpfs", "/dev", MS_NOSUID},
    };

    for (size_t i = 0; i < COUNT_OF(mounts); i++) {
        (void)mkdir(mounts[i].where, 0755);
        if (mount(mounts[i].type, mounts[i].where, mounts[i].type, mounts[i].flags, NULL) < 0 &&
            errno != EBUSY)
            return error_errno(err, NULL, "mounting %s", mounts[i].where);
    }
    quiet_kernel();
    ends_by_reset = boot_option("reboot=t") || boot_option("reboot=k");
    return 0;
}

bool boot_option(const char *word)
{
    char line[CMDLINE_MAX];
    char *save = NULL;
    CLEANUP_CLOSE int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, line, sizeof line - 1);

    if (length < 0)
        return false;
    line[length] = '\0';
    for (char *at = strtok_r(line, " \n", &save); at; at = strtok_r(NULL, " \n", &save))
        if (strcmp(at, word) == 0)
            return true;
    return false;
}

static void load_module(const char *name)
{
    char path[128];
    int length = snprintf(path, sizeof path, "/modules/%s", name);

    if (length < 0 || (size_t)length >= sizeof path) {
        console_say("a module's name is too long");
        return;
    }
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        console_say("the kernel module %s: %s", name, strerror(errno));
    (void)unlink(path); /* the boot root lives in memory */
}

void boot_modules(void)
{
    FILE *order = fopen("/modules/order", "re");
    char name[96];

    if (!order)
        return; /* a kernel that has all it needs built in */
    while (fgets(name, sizeof name, order)) {
        name[strcspn(name, "\n")] = '\0';
        if (name[0])
            load_module(name);
    }
    (void)fclose(order);
    (void)unlink("/modules/order");
}

/* Reaps until no child is left (and so no process: the orphans of the dead are ours) or time is up.
 */
static bool all_gone(int64_t wait_ms)
{
    int64_t until = clock_monotonic_ms() + wait_ms;

    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 && errno == ECHILD)
            return true;
        if (pid > 0)
            continue;
        if (clock_monotonic_ms() >= until)
            return false;
        (void)poll(NULL, 0, 5);
    }
}

/* SIGTERM to all but one group, whose members are taking their leave already: a second one would
 * end what they run for it. */
static void tell_others(pid_t group)
{
    DIR *processes = group ? opendir("/proc") : NULL;
    int64_t pid;

    if (!processes) { /* also when the command took /proc away */
        (void)kill(-1, SIGTERM);
        return;
    }
    for (struct dirent *entry; (entry = readdir(processes));)
        if (number_parse(entry->d_name, 2, INT32_MAX, &pid) == 0 && getpgid((pid_t)pid) != group)
            (void)kill((pid_t)pid, SIGTERM);
    (void)closedir(processes);
}

void end_processes(const struct leave *leave)
{
    int64_t grace_ms = leave->until_ms - clock_monotonic_ms();

    if (all_gone(0))
        return;
    tell_others(leave->group);
    (void)kill(-1, SIGCONT); /* a stopped process can not take its leave */
    if (all_gone(grace_ms > TERM_GRACE_MS ? grace_ms : TERM_GRACE_MS))
        return;
    (void)kill(-1, SIGKILL);
    (void)all_gone(KILL_GRACE_MS);
}

void power_off(void)
{
    console_drain();
    sync();
    (void)mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    (void)reboot(ends_by_reset ? RB_AUTOBOOT : RB_POWER_OFF);
    (void)reboot(ends_by_reset ? RB_POWER_OFF : RB_AUTOBOOT);
    for (;;)
        (void)poll(NULL, 0, -1);
}
