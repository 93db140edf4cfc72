#include "server/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/util.h"

enum {
    TABLE_MAX = 1024 * 1024,
    PATH_SIZE = 1024,
    PERIOD_US = 100000,
    REMOVE_MS = 2000,
    REMOVE_STEP_MS = 10,
};

#define RECORD "cgroup"
#define LEAF "daemon"

static const char *const controllers[] = {"memory", "pids", "cpu"};

/* Writes to a file that is there. */
static int put(const char *folder, const char *name, const char *text)
{
    char path[PATH_SIZE];

    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return -1;
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -1 : write_all(fd, text, strlen(text));
}

static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);

    for (const char *at = list; (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == ' ') && strchr(" \n", at[length]))
            return true;
    return false;
}

/* Where cgroup2 is mounted, and this process's group in it ("/" or "/…"). See cgroups(7). */
static int find_own(char *ret_mount, char *ret_group)
{
    CLEANUP_FREE char *mounts = file_read("/proc/self/mountinfo", TABLE_MAX, NULL, NULL);
    CLEANUP_FREE char *groups = file_read("/proc/self/cgroup", TABLE_MAX, NULL, NULL);
    char *next = NULL, *group = groups ? strstr(groups, "0::/") : NULL;

    if (!mounts || !group || (group > groups && group[-1] != '\n'))
        return -1;
    group += strlen("0::");
    group[strcspn(group, "\n")] = '\0';
    for (char *line = strtok_r(mounts, "\n", &next); line; line = strtok_r(NULL, "\n", &next)) {
        if (!strstr(line, " - cgroup2 "))
            continue;
        if (sscanf(line, "%*s %*s %*s %*s %511s", ret_mount) != 1)
            return -1;
        (void)snprintf(ret_group, PATH_SIZE, "%s", group);
        return 0;
    }
    return -1;
}

/* Hands every controller of ours down to the children; the names of those that now are, in
 * host->cgroup_controllers. */
static bool hand_down(struct host *host, const char *folder)
{
    char path[PATH_SIZE], order[32];

    for (size_t i = 0; i < COUNT_OF(controllers); i++) {
        (void)snprintf(order, sizeof order, "+%s", controllers[i]);
        (void)put(folder, "cgroup.subtree_control", order);
    }
    (void)snprintf(path, sizeof path, "%s/cgroup.subtree_control", folder);
    CLEANUP_FREE char *given = file_read(path, TABLE_MAX, NULL, NULL);
    host->cgroup_controllers[0] = '\0';
    for (size_t i = 0; given && i < COUNT_OF(controllers); i++) {
        size_t length = strlen(host->cgroup_controllers);
        if (has_word(given, controllers[i]))
            (void)snprintf(host->cgroup_controllers + length,
                           sizeof host->cgroup_controllers - length, "%s%s", length ? " " : "",
                           controllers[i]);
    }
    return host->cgroup_controllers[0] != '\0';
}

/* The one of an earlier daemon, where its bottles may be. */
static bool take_recorded(struct host *host)
{
    char path[PATH_SIZE];

    (void)snprintf(path, sizeof path, "%s/" RECORD, host->state_dir);
    CLEANUP_FREE char *recorded = file_read(path, PATH_SIZE, NULL, NULL);
    if (!recorded || recorded[0] != '/' || access(recorded, W_OK | X_OK) < 0)
        return false;
    (void)snprintf(host->cgroup_parent, sizeof host->cgroup_parent, "%s", recorded);
    return hand_down(host, recorded);
}

static void record(const struct host *host)
{
    char path[PATH_SIZE];

    (void)snprintf(path, sizeof path, "%s/" RECORD, host->state_dir);
    (void)file_write(path, host->cgroup_parent, strlen(host->cgroup_parent), 0600, true, NULL);
}

/* Below the machine's first group, which may hold processes. */
static bool make_below_root(struct host *host, const char *mount)
{
    char digest[SHA256_HEX_SIZE];

    sha256_hex(host->state_dir, strlen(host->state_dir), digest);
    (void)hand_down(host, mount);
    if (snprintf(host->cgroup_parent, sizeof host->cgroup_parent, "%s/bottled-%.8s", mount,
                 digest) >= (int)sizeof host->cgroup_parent)
        return false;
    if (mkdir(host->cgroup_parent, 0755) < 0 && errno != EEXIST)
        return false;
    if (hand_down(host, host->cgroup_parent))
        return true;
    (void)rmdir(host->cgroup_parent);
    return false;
}

/* Our own group, once we have left it for a child. */
static bool make_below_own(struct host *host, const char *mount, const char *group)
{
    char leaf[PATH_SIZE];

    if (snprintf(host->cgroup_parent, sizeof host->cgroup_parent, "%s%s", mount, group) >=
        (int)sizeof host->cgroup_parent)
        return false;
    if (snprintf(leaf, sizeof leaf, "%s/" LEAF, host->cgroup_parent) >= (int)sizeof leaf ||
        (mkdir(leaf, 0755) < 0 && errno != EEXIST))
        return false;
    if (put(leaf, "cgroup.procs", "0") == 0 && hand_down(host, host->cgroup_parent))
        return true;
    (void)put(host->cgroup_parent, "cgroup.procs", "0");
    (void)rmdir(leaf);
    return false;
}

void cgroup_settle(struct host *host)
{
    char mount[PATH_SIZE] = "", group[PATH_SIZE] = "";
    bool found = true;

    host->cgroup_parent[0] = host->cgroup_controllers[0] = '\0';
    if (!host->cgroups) {
        (void)snprintf(host->cgroup_detail, sizeof host->cgroup_detail,
                       "the configuration says so");
        return;
    }
    if (!take_recorded(host)) {
        host->cgroup_parent[0] = '\0';
        found = find_own(mount, group) == 0;
        if (found && strcmp(group, "/") == 0)
            found = make_below_root(host, mount);
        else if (found)
            found = make_below_own(host, mount, group);
        if (found)
            record(host);
    }
    if (found) {
        (void)snprintf(host->cgroup_detail, sizeof host->cgroup_detail, "in %.512s: %s",
                       host->cgroup_parent, host->cgroup_controllers);
        return;
    }
    host->cgroup_parent[0] = host->cgroup_controllers[0] = '\0';
    (void)snprintf(host->cgroup_detail, sizeof host->cgroup_detail,
                   "no group can be made in %.128s%.128s with a controller of memory, pids or cpu: "
                   "each process has its own limits only; start bottled as a service with "
                   "Delegate=yes, or by: systemd-run --user --scope -p Delegate=yes bottled",
                   mount[0] ? mount : "cgroup2, which is not mounted", group);
}

void cgroup_leave(struct host *host)
{
    char path[PATH_SIZE];

    /* Only a group without children goes; our own one is systemd's to remove. */
    if (!host->cgroup_parent[0] || rmdir(host->cgroup_parent) < 0)
        return;
    (void)snprintf(path, sizeof path, "%s/" RECORD, host->state_dir);
    (void)unlink(path);
}

char *cgroup_path(const struct host *host, const char *run_dir)
{
    const char *slash = run_dir ? strrchr(run_dir, '/') : NULL;
    char *path;

    if (!host->cgroup_parent[0] || !slash)
        return NULL;
    return asprintf(&path, "%s/bottle-%s", host->cgroup_parent, slash + 1) < 0 ? NULL : path;
}

int cgroup_make(const char *path, const struct host *host, const struct plan *plan,
                struct error *err)
{
    int64_t memory_mib =
        plan->spec.memory_mib + host->vm_overhead_mib + host->gvproxy_memory_mib +
        host->shim_memory_mib +
        host->sidecar_memory_mib * (int64_t)(plan->network.n_forwards + plan->n_mounts);
    const struct {
        const char *controller, *file;
        int64_t value;
        const char *rest;
    } rows[] = {
        {"memory", "memory.max", memory_mib * 1024 * 1024, ""},
        {"pids", "pids.max", host->bottle_pids, ""},
        {"cpu", "cpu.weight", host->bottle_cpu_weight, ""},
        /* one processor more than the guest's, for gvproxy and the sidecars */
        {"cpu", "cpu.max", (plan->spec.cpus + 1) * PERIOD_US, " 100000"},
    };
    char text[64];

    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return error_errno(err, "launch-failed", "making the control group %s", path);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!has_word(host->cgroup_controllers, rows[i].controller))
            continue;
        (void)snprintf(text, sizeof text, "%lld%s", (long long)rows[i].value, rows[i].rest);
        if (put(path, rows[i].file, text) < 0)
            return error_errno(err, "launch-failed", "%s/%s", path, rows[i].file);
    }
    return 0;
}

int cgroup_remove(const char *path, bool kill)
{
    int64_t until = clock_monotonic_ms() + REMOVE_MS;

    if (kill)
        (void)put(path, "cgroup.kill", "1");
    while (rmdir(path) < 0 && errno != ENOENT) {
        if (errno != EBUSY || clock_monotonic_ms() > until)
            return -1;
        (void)poll(NULL, 0, REMOVE_STEP_MS); /* what was killed is still leaving */
    }
    return 0;
}
