#include "server/remains.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "base/util.h"
#include "server/cgroup.h"
#include "server/engine_internal.h"

enum {
    DEPTH_MAX = 4,    /* of the directories that are listed; removing goes to the bottom */
    ITEMS_MAX = 500,  /* files beyond are removed with their directory all the same */
    DEATH_MS = 10000, /* how long a killed process may take to be gone */
};

void remains_free(struct remains *remains)
{
    free(remains->run_dir);
    free(remains->stage_dir);
    free(remains->kept_dir);
    free(remains->cgroup);
    *remains = (struct remains){0};
}

/* --- Listing ---------------------------------------------------------------------------------- */

typedef int list_entry(struct cleanup_plan *plan, const char *path, const struct stat *status);

/* Every entry below `path` in order of names, so that the plan's tag is stable. */
static int walk(struct cleanup_plan *plan, const char *path, unsigned depth, list_entry *list)
{
    struct dirent **names;
    int result = 0;

    if (!path)
        return 0;
    int count = scandir(path, &names, NULL, alphasort);
    if (count < 0)
        return errno == ENOMEM ? -1 : 0;
    for (int i = 0; i < count; i++) {
        const char *name = names[i]->d_name;
        CLEANUP_FREE char *inner = NULL;
        struct stat status;
        if (result == 0 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
            plan->count < ITEMS_MAX) {
            if (asprintf(&inner, "%s/%s", path, name) < 0)
                result = -1;
            else if (lstat(inner, &status) == 0)
                result = list(plan, inner, &status);
            if (result == 0 && inner && S_ISDIR(status.st_mode) && depth < DEPTH_MAX)
                result = walk(plan, inner, depth + 1, list);
        }
        free(names[i]);
    }
    free((void *)names);
    return result;
}

static int list_socket(struct cleanup_plan *plan, const char *path, const struct stat *status)
{
    if (!S_ISSOCK(status->st_mode))
        return 0;
    return cleanup_add(plan, CLEANUP_SOCKET, path, "the parts of the bottle talk over it", "remove",
                       0);
}

static int list_file(struct cleanup_plan *plan, const char *path, const struct stat *status)
{
    const char *name = strrchr(path, '/');
    const char *reason = strstr(path, "/logs/")                     ? "a log of the bottle"
                         : name && strcmp(name, "/" DISK_FILE) == 0 ? "the bottle's disk"
                                                                    : "rendered from the plan";

    if (!S_ISREG(status->st_mode))
        return 0;
    return cleanup_add(plan, CLEANUP_FILE, path, reason, "remove", status->st_size);
}

static int list_directory(struct cleanup_plan *plan, const char *path, const char *reason)
{
    struct stat status;

    if (!path || lstat(path, &status) < 0)
        return 0;
    return cleanup_add(plan, CLEANUP_DIRECTORY, path, reason, "remove", 0);
}

static int list_cgroup(struct cleanup_plan *plan, const char *path)
{
    struct stat status;

    if (!path || lstat(path, &status) < 0)
        return 0;
    return cleanup_add(plan, CLEANUP_CGROUP, path, "limits what the bottle's programs use",
                       "remove", 0);
}

static int list_processes(const struct remains *remains, struct cleanup_plan *plan)
{
    char name[64];

    for (size_t i = 0; i < remains->n_processes; i++) {
        const struct shim_process *process = &remains->processes[i];
        CLEANUP_CLOSE int pidfd = process_open(process->pid, process->start_time);
        if (pidfd < 0)
            continue;
        (void)snprintf(name, sizeof name, "%s (pid %d)", process->name, (int)process->pid);
        if (cleanup_add(plan, CLEANUP_PROCESS, name, "runs the bottle", "kill", 0) < 0)
            return -1;
    }
    return 0;
}

static int list_ports(const struct remains *remains, struct cleanup_plan *plan)
{
    char name[32], address[16];

    loopback_format(remains->allocation.loopback, address);
    for (size_t i = 0; i < FORWARDS_MAX; i++) {
        if (!remains->allocation.host_ports[i])
            continue;
        (void)snprintf(name, sizeof name, "%s:%u", address, remains->allocation.host_ports[i]);
        if (cleanup_add(plan, CLEANUP_PORT, name, "reserved for a sidecar of the bottle", "release",
                        0) < 0)
            return -1;
    }
    return 0;
}

int remains_list(const struct remains *remains, struct cleanup_plan *ret)
{
    char record[SLUG_MAX + 16];

    (void)snprintf(ret->slug, sizeof ret->slug, "%s", remains->slug);
    (void)snprintf(record, sizeof record, "bottles/%s", remains->slug);
    if (list_processes(remains, ret) < 0 || walk(ret, remains->run_dir, 0, list_socket) < 0 ||
        list_ports(remains, ret) < 0 || list_cgroup(ret, remains->cgroup) < 0 ||
        list_directory(ret, remains->run_dir, "holds the sockets of a running bottle") < 0 ||
        walk(ret, remains->stage_dir, 0, list_file) < 0 ||
        list_directory(ret, remains->stage_dir, "holds the bottle's files and logs") < 0)
        return -1;
    return !remains->slug[0] ? 0
                             : cleanup_add(ret, CLEANUP_RECORD, record,
                                           "the bottle's row in the state database", "delete", 0);
}

/* --- Removing --------------------------------------------------------------------------------- */

/* Waits for a pidfd to say that its process is gone. */
static int await_death(int pidfd, int64_t until_ms)
{
    for (;;) {
        int64_t left = until_ms - clock_monotonic_ms();
        struct pollfd ended = {.fd = pidfd, .events = POLLIN};
        int result = left <= 0 ? 0 : poll(&ended, 1, (int)left);
        if (result < 0 && errno == EINTR)
            continue;
        return result > 0 ? 0 : -1;
    }
}

int processes_end(const struct shim_process *processes, size_t count, int64_t patience_ms)
{
    int64_t until = clock_monotonic_ms() + patience_ms;
    int result = 0;

    for (size_t i = 0; i < count; i++) {
        CLEANUP_CLOSE int pidfd = process_open(processes[i].pid, processes[i].start_time);
        if (pidfd < 0) {
            result = errno == ESRCH ? result : -1;
            continue;
        }
        (void)pidfd_kill(pidfd, SIGKILL);
        if (await_death(pidfd, until) < 0)
            result = -1;
    }
    return result;
}

/* True: there were some without an outcome. */
static bool set_process_outcomes(struct cleanup_plan *plan, const char *outcome)
{
    bool changed = false;

    for (size_t i = 0; i < plan->count; i++) {
        if (plan->items[i].kind != CLEANUP_PROCESS || plan->items[i].outcome)
            continue;
        cleanup_outcome(&plan->items[i], outcome);
        changed = true;
    }
    return changed;
}

/* Moves logs/ to a place that is nobody's but ours. */
static int move_logs(const struct remains *remains, struct error *err)
{
    CLEANUP_FREE char *logs = NULL, *parent = strdup(remains->kept_dir);

    if (!parent || asprintf(&logs, "%s/logs", remains->stage_dir) < 0)
        return error_set(err, NULL, "out of memory");
    *strrchr(parent, '/') = '\0';
    if (directory_make(parent, 0700, err) < 0)
        return -1;
    if (rename(logs, remains->kept_dir) < 0 && errno != ENOENT)
        return error_errno(err, NULL, "moving %s to %s", logs, remains->kept_dir);
    return 0;
}

static bool is_log(const struct remains *remains, const struct cleanup_item *item)
{
    if (!remains->stage_dir)
        return false;
    size_t length = strlen(remains->stage_dir);
    return item->kind == CLEANUP_FILE && strncmp(item->name, remains->stage_dir, length) == 0 &&
           strncmp(item->name + length, "/logs/", 6) == 0;
}

static bool is_path(const struct cleanup_item *item)
{
    return item->kind == CLEANUP_SOCKET || item->kind == CLEANUP_FILE ||
           item->kind == CLEANUP_DIRECTORY || item->kind == CLEANUP_CGROUP;
}

/* Whether it is still there decides, not what a call returned. True: something has its outcome now.
 */
static bool set_gone(const struct remains *remains, bool kept, struct cleanup_plan *plan)
{
    char words[1024];
    struct stat status;
    bool changed = false;

    for (size_t i = 0; i < plan->count; i++) {
        struct cleanup_item *item = &plan->items[i];
        if (item->outcome || !is_path(item) || lstat(item->name, &status) == 0)
            continue;
        (void)snprintf(words, sizeof words, "removed");
        if (kept && is_log(remains, item))
            (void)snprintf(words, sizeof words, "kept: moved to %s/%s", remains->kept_dir,
                           strrchr(item->name, '/') + 1);
        cleanup_outcome(item, words);
        changed = true;
    }
    return changed;
}

/* -1: something stays. */
static int set_stays(const char *why, struct cleanup_plan *plan)
{
    char words[1024];
    int result = 0;

    (void)snprintf(words, sizeof words, "failed: %s", why);
    for (size_t i = 0; i < plan->count; i++) {
        if (plan->items[i].outcome || !is_path(&plan->items[i]))
            continue;
        cleanup_outcome(&plan->items[i], words);
        result = -1;
    }
    return result;
}

/* --- Steps: each says what went wrong in *err ------------------------------------------------- */

static int remove_group(const struct remains *remains, bool keep_logs, struct error *err)
{
    (void)keep_logs;
    /* What no bottle has was ended by pid: in the meantime the group may have become one's. */
    if (remains->cgroup && cgroup_remove(remains->cgroup, remains->slug[0] != '\0') < 0)
        return error_errno(err, NULL, "%s", remains->cgroup);
    return 0;
}

/* A true directory of ours or of the bottle's user, and nothing else. Missing is fine. */
static int remove_own(const char *path, unsigned uid, struct error *err)
{
    struct stat status;

    if (!path || (lstat(path, &status) < 0 && errno == ENOENT))
        return 0;
    if (!S_ISDIR(status.st_mode) || (status.st_uid != geteuid() && status.st_uid != uid))
        return error_set(err, NULL,
                         "%s is not the bottle's directory any more, something else was put in its "
                         "place: take that away, then delete again",
                         path);
    return directory_remove(path, NULL, err);
}

static int remove_run_dir(const struct remains *remains, bool keep_logs, struct error *err)
{
    (void)keep_logs;
    return remove_own(remains->run_dir, remains->uid, err);
}

static int keep_the_logs(const struct remains *remains, bool keep_logs, struct error *err)
{
    return keep_logs ? move_logs(remains, err) : 0;
}

static int remove_stage_dir(const struct remains *remains, bool keep_logs, struct error *err)
{
    (void)keep_logs;
    return remove_own(remains->stage_dir, remains->uid, err);
}

int remains_remove(const struct remains *remains, bool keep_logs, struct cleanup_plan *plan,
                   remains_note *note, void *context, struct error *err)
{
    static int (*const steps[])(const struct remains *, bool, struct error *) = {
        remove_group, remove_run_dir, keep_the_logs, remove_stage_dir};
    struct error why = ERROR_INIT;
    int result = 0;

    /* Where no bottle has it, a bottle's own user is proof enough, or the supervisor that is there.
     */
    bool strays = remains->run_dir &&
                  (remains->slug[0] || remains->n_processes > 0 || remains->uid != geteuid());
    if (processes_end(remains->processes, remains->n_processes, DEATH_MS) < 0 ||
        (strays && strays_end(remains->run_dir, remains->uid, DEATH_MS) < 0)) {
        set_process_outcomes(plan, "failed: it is still alive after SIGKILL");
        return error_set(err, "cleanup-failed",
                         "a process of %s is still alive after SIGKILL: nothing of it was removed",
                         remains->slug[0] ? remains->slug : "no bottle");
    }
    bool changed = set_process_outcomes(plan, "killed");
    for (size_t i = 0; i < COUNT_OF(steps) && result == 0; i++) {
        if (changed && note && note(context, plan, err) < 0)
            return -1;
        result = steps[i](remains, keep_logs, &why);
        changed = set_gone(remains, keep_logs, plan);
    }
    if (set_stays(why.text, plan) == 0 && result == 0)
        return 0;
    return error_set(err, "cleanup-failed", "%s could not be removed whole: %s",
                     remains->slug[0] ? remains->slug : "it", why.text);
}
