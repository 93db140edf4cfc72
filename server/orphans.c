/* Orphans: found by looking at each place; removed as a bottle's remains are (remains.c), once
 * their name is out of the way.
 *
 * A bottle may be created at any moment and then owns a directory of the very name that was an
 * orphan's. So a directory is first renamed, to a name that no bottle has, while the registry's
 * lock keeps that from happening; what is removed afterwards is the renamed one. Processes are
 * known by pid and start time from when no bottle owned them. */
#include "server/orphans.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "api/plan.h"
#include "api/spec.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/number.h"
#include "base/process.h"
#include "base/util.h"
#include "server/cgroup.h"
#include "server/disk.h"
#include "server/engine_internal.h"
#include "server/etag.h"
#include "server/log.h"
#include "server/remains.h"
#include "server/stage.h"

#define SHIM_PROGRAM "bottle-shim"
/* What a creation of a former version had not put in place. */
#define UNFINISHED ".new-"

enum { ID_LENGTH = 16, ORPHANS_MAX = 1000, PROCS_MAX = 64 * 1024 };

struct orphan {
    struct remains remains;
    char name[NAME_MAX + 1]; /* a slug, or the id of a run directory */
    bool of_run;             /* the latter */
    bool half_made;          /* a stage directory that was never used */
};

struct orphans {
    struct app *app;
    struct orphan *rows[ORPHANS_MAX];
    size_t count;
};

static void orphans_free(struct orphans *orphans)
{
    for (size_t i = 0; i < orphans->count; i++) {
        remains_free(&orphans->rows[i]->remains);
        free(orphans->rows[i]);
    }
    free(orphans);
}

/* --- Names ------------------------------------------------------------------------------------ */

static bool is_id(const char *name)
{
    return strlen(name) == ID_LENGTH && strspn(name, "0123456789abcdef") == ID_LENGTH;
}

static int nothing(void *context)
{
    (void)context;
    return 0;
}

static bool is_owned(const struct app *app, const char *name, bool of_run)
{
    return registry_unless(app->registry, of_run, name, nothing, NULL) == 1;
}

static struct orphan *add(struct orphans *orphans, const char *name, bool of_run)
{
    for (size_t i = 0; i < orphans->count; i++)
        if (orphans->rows[i]->of_run == of_run && strcmp(orphans->rows[i]->name, name) == 0)
            return orphans->rows[i];
    if (orphans->count == ORPHANS_MAX)
        return NULL;
    struct orphan *orphan = must_alloc(sizeof *orphan);
    (void)snprintf(orphan->name, sizeof orphan->name, "%s", name);
    orphan->of_run = of_run;
    orphans->rows[orphans->count++] = orphan;
    return orphan;
}

/* --- Directories ------------------------------------------------------------------------------ */

/* A true directory of the daemon's user or of a bottle's, and whose. -1: it is not. */
static int open_own(int parent, const char *name, const struct host *host, unsigned *ret_uid)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;

    if (fd < 0)
        return -1;
    if (fstat(fd, &status) == 0 &&
        (status.st_uid == geteuid() || (host->uid_base && status.st_uid >= host->uid_base &&
                                        status.st_uid - host->uid_base < SUBNETS_MAX))) {
        *ret_uid = status.st_uid;
        return fd;
    }
    (void)close(fd);
    return -1;
}

/* Calls `take` for each entry of a directory of ours. */
static void each(struct orphans *orphans, const char *path,
                 void (*take)(struct orphans *orphans, int parent, const char *path,
                              const char *name))
{
    DIR *directory = opendir(path);

    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            take(orphans, dirfd(directory), path, entry->d_name);
    if (directory)
        (void)closedir(directory);
}

static char *join(const char *path, const char *name)
{
    char *ret;

    if (asprintf(&ret, "%s/%s", path, name) < 0)
        abort();
    return ret;
}

static bool begins(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static void take_stage(struct orphans *orphans, int parent, const char *path, const char *name)
{
    bool half_made = false, aside = begins(name, RUN_DIR_ASIDE) || begins(name, STAGE_ASIDE);
    const bool unfinished = begins(name, UNFINISHED);
    unsigned uid;

    if (!aside && !unfinished && (!slug_valid(name) || is_owned(orphans->app, name, false)))
        return;
    int fd = open_own(parent, name, &orphans->app->host, &uid);
    if (fd < 0 || !stage_is_ours(fd, &half_made))
        return;
    struct orphan *orphan = add(orphans, name, false);
    if (!orphan)
        return;
    orphan->half_made = half_made && !aside;
    orphan->remains.uid = uid;
    orphan->remains.stage_dir = join(path, name);
}

static void take_run(struct orphans *orphans, int parent, const char *path, const char *name)
{
    const char *id = begins(name, RUN_DIR_ASIDE) ? name + strlen(RUN_DIR_ASIDE) : name;
    unsigned uid;

    if (!is_id(id) || (id == name && is_owned(orphans->app, name, true)))
        return;
    int fd = open_own(parent, name, &orphans->app->host, &uid);
    struct orphan *orphan = fd < 0 ? NULL : add(orphans, name, true);
    if (fd >= 0)
        (void)close(fd);
    if (!orphan)
        return;
    orphan->remains.uid = uid;
    orphan->remains.run_dir = join(path, name);
}

static void take_group(struct orphans *orphans, int parent, const char *path, const char *name)
{
    static const char prefix[] = "bottle-";
    const char *id = name + strlen(prefix);

    (void)parent;
    if (!begins(name, prefix) || !is_id(id) || is_owned(orphans->app, id, true))
        return;
    struct orphan *orphan = add(orphans, id, true);
    if (orphan)
        orphan->remains.cgroup = join(path, name);
}

/* --- Processes -------------------------------------------------------------------------------- */

static void add_process(struct remains *remains, pid_t pid, const char *name)
{
    uint64_t start_time = process_start_time(pid);

    for (size_t i = 0; i < remains->n_processes; i++)
        if (remains->processes[i].pid == pid)
            return;
    if (!start_time || remains->n_processes == COUNT_OF(remains->processes))
        return;
    struct shim_process *process = &remains->processes[remains->n_processes++];
    *process = (struct shim_process){.pid = pid, .start_time = start_time};
    (void)snprintf(process->name, sizeof process->name, "%s", name);
}

/* What a link in /proc says, without the kernel's word for a file that is gone. */
static bool read_link(pid_t pid, const char *name, char ret[PATH_MAX])
{
    static const char deleted[] = " (deleted)";
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    ssize_t length = readlink(path, ret, PATH_MAX - 1);
    if (length < 0)
        return false;
    ret[length] = '\0';
    if ((size_t)length > strlen(deleted) && strcmp(ret + length - strlen(deleted), deleted) == 0)
        ret[length - (ssize_t)strlen(deleted)] = '\0';
    return true;
}

/* Supervisors by their working directory, also of one whose run directory is gone. */
static void take_process(struct orphans *orphans, int parent, const char *path, const char *name)
{
    const char *run_dir = orphans->app->host.run_dir;
    size_t length = strlen(run_dir);
    char link[PATH_MAX];
    int64_t pid;

    (void)parent;
    (void)path;
    if (number_parse(name, 2, INT_MAX, &pid) < 0 || !read_link((pid_t)pid, "cwd", link) ||
        strncmp(link, run_dir, length) != 0 || strncmp(link + length, "/b/", 3) != 0)
        return;
    const char *id = link + length + 3;
    if (!is_id(id) || is_owned(orphans->app, id, true) || !shim_named((pid_t)pid))
        return;
    struct orphan *orphan = add(orphans, id, true);
    if (orphan)
        add_process(&orphan->remains, (pid_t)pid, SHIM_PROGRAM);
}

/* Who listens in a run directory, and who is in a control group. */
static void add_members(struct remains *remains)
{
    struct error err = ERROR_INIT;
    pid_t peer = 0;
    char *next = NULL;
    int64_t pid;

    if (remains->run_dir) {
        CLEANUP_CLOSE int fd = shim_connect(remains->run_dir, &peer, &err);
        if (fd >= 0 && shim_named(peer))
            add_process(remains, peer, SHIM_PROGRAM);
    }
    if (!remains->cgroup)
        return;
    CLEANUP_FREE char *path = join(remains->cgroup, "cgroup.procs");
    CLEANUP_FREE char *pids = file_read(path, PROCS_MAX, NULL, NULL);
    for (char *line = pids ? strtok_r(pids, "\n", &next) : NULL; line;
         line = strtok_r(NULL, "\n", &next))
        if (number_parse(line, 2, INT_MAX, &pid) == 0)
            add_process(remains, (pid_t)pid, "a process of its control group");
}

static int compare(const void *left, const void *right)
{
    const struct orphan *const *a = left, *const *b = right;

    return (*a)->of_run != (*b)->of_run ? (*a)->of_run - (*b)->of_run
                                        : strcmp((*a)->name, (*b)->name);
}

static struct orphans *collect(struct app *app)
{
    struct orphans *orphans = must_alloc(sizeof *orphans);
    const struct host *host = &app->host;
    CLEANUP_FREE char *stages = join(host->state_dir, "bottles");
    CLEANUP_FREE char *runs = join(host->run_dir, "b");

    orphans->app = app;
    each(orphans, stages, take_stage);
    each(orphans, runs, take_run);
    if (host->cgroup_parent[0])
        each(orphans, host->cgroup_parent, take_group);
    each(orphans, "/proc", take_process);
    for (size_t i = 0; i < orphans->count; i++)
        add_members(&orphans->rows[i]->remains);
    qsort((void *)orphans->rows, orphans->count, sizeof *orphans->rows, compare);
    return orphans;
}

/* --- Removing --------------------------------------------------------------------------------- */

struct move {
    const char *from;
    char to[PATH_MAX];
};

static int move_aside(void *context)
{
    const struct move *move = context;

    return renameat2(AT_FDCWD, move->from, AT_FDCWD, move->to, RENAME_NOREPLACE);
}

/* Renames *path so that it is nobody's name any more. 1: a bottle has the name by now. */
static int set_aside(struct app *app, const struct orphan *orphan, char **path, struct error *err)
{
    const char *slash = strrchr(*path, '/');
    struct move move = {.from = *path};

    if (slash[1] == '.')
        return 0;
    (void)snprintf(move.to, sizeof move.to, "%.*s/" RUN_DIR_ASIDE "%s", (int)(slash - *path), *path,
                   slash + 1);
    (void)directory_remove(move.to, NULL, NULL); /* of an attempt before */
    int result = registry_unless(app->registry, orphan->of_run, orphan->name, move_aside, &move);
    if (result > 0)
        return 1;
    if (result < 0)
        return error_errno(err, NULL, "moving %s out of the way", *path);
    free(*path);
    *path = must_alloc(sizeof move.to);
    memcpy(*path, move.to, sizeof move.to);
    return 0;
}

static void fail_items(struct cleanup_plan *plan, const char *words)
{
    for (size_t i = 0; i < plan->count; i++)
        if (!plan->items[i].outcome)
            cleanup_outcome(&plan->items[i], words);
}

/* Fills what is removed with its outcomes. -1: something stays. */
static int remove_one(struct app *app, struct orphan *orphan, struct cleanup_plan *plan)
{
    struct error err = ERROR_INIT;
    char words[sizeof err.text + 16];
    char **const paths[] = {&orphan->remains.run_dir, &orphan->remains.stage_dir};
    int result = is_owned(app, orphan->name, orphan->of_run);

    for (size_t i = 0; i < COUNT_OF(paths) && result == 0; i++)
        if (*paths[i])
            result = set_aside(app, orphan, paths[i], &err);
    if (result > 0) {
        fail_items(plan, "kept: a bottle has it by now");
        return 0;
    }
    if (result == 0)
        result = remains_remove(&orphan->remains, false, plan, NULL, NULL, &err);
    (void)snprintf(words, sizeof words, "failed: %s", err.text);
    if (result < 0)
        fail_items(plan, words);
    return result;
}

static int remove_all(struct orphans *orphans, struct cleanup_plan *ret)
{
    int result = 0;

    for (size_t i = 0; i < orphans->count; i++) {
        struct cleanup_plan plan = {0};
        if (remains_list(&orphans->rows[i]->remains, &plan) < 0 ||
            remove_one(orphans->app, orphans->rows[i], &plan) < 0 || cleanup_append(ret, &plan) < 0)
            result = -1;
        cleanup_free(&plan);
    }
    return result;
}

/* --- Requests --------------------------------------------------------------------------------- */

struct sweep {
    struct job job;
    struct app *app;
    bool remove;
    char *if_match;
    engine_cleanup_done *done;
    void *context;
    struct cleanup_plan plan;
    bool stale;
    int result;
};

static void sweep_work(struct job *job)
{
    struct sweep *sweep = (struct sweep *)job;
    struct orphans *orphans = collect(sweep->app);
    char tag[17];

    for (size_t i = 0; i < orphans->count && sweep->result == 0; i++)
        sweep->result = remains_list(&orphans->rows[i]->remains, &sweep->plan);
    cleanup_tag(&sweep->plan, tag);
    sweep->stale = sweep->if_match && !etag_listed(sweep->if_match, tag, false);
    if (sweep->remove && sweep->result == 0 && !sweep->stale) {
        cleanup_free(&sweep->plan);
        sweep->result = remove_all(orphans, &sweep->plan);
    }
    orphans_free(orphans);
}

static void answer(struct sweep *sweep)
{
    struct problem problem = PROBLEM_INIT;

    if (sweep->stale) {
        problem_set(&problem, "precondition-failed",
                    "what no bottle owns is no longer what is in If-Match: look at the cleanup "
                    "plan again");
    } else if (sweep->result < 0) {
        problem_set(&problem, "cleanup-failed",
                    "not everything could be removed: the outcomes say why; put that right and "
                    "ask again");
        problem_add_member(&problem, "cleanup", cleanup_encode(&sweep->plan));
    }
    sweep->done(sweep->context, problem.type ? NULL : &sweep->plan, problem.type ? &problem : NULL);
    problem_free(&problem);
    cleanup_free(&sweep->plan);
    free(sweep->if_match);
    free(sweep);
}

static void swept(struct engine *engine, struct message *message)
{
    engine->in_flight--;
    answer((struct sweep *)message);
}

static void refuse(struct sweep *sweep)
{
    struct problem problem = PROBLEM_INIT;

    problem_set(&problem, "shutting-down", "bottled is ending; ask again once it is back");
    sweep->done(sweep->context, NULL, &problem);
    problem_free(&problem);
    free(sweep->if_match);
    free(sweep);
}

static void begin(struct engine *engine, struct message *message)
{
    struct sweep *sweep = (struct sweep *)message;

    if (engine->closing) {
        refuse(sweep);
        return;
    }
    sweep->job = (struct job){.message.run = swept, .work = sweep_work};
    engine_work(engine, &sweep->job);
}

void engine_orphans(struct app *app, bool remove, const char *if_match, engine_cleanup_done *done,
                    void *context)
{
    struct sweep *sweep = must_alloc(sizeof *sweep);

    sweep->job.message.run = begin;
    sweep->app = app;
    sweep->remove = remove;
    sweep->done = done;
    sweep->context = context;
    if (if_match && !(sweep->if_match = strdup(if_match)))
        abort();
    if (!engine_post(app->engine, &sweep->job.message))
        refuse(sweep);
}

void orphans_settle(struct app *app)
{
    struct orphans *orphans = collect(app);
    struct cleanup_plan plan = {0};
    size_t left = 0;

    for (size_t i = 0; i < orphans->count; i++) {
        struct orphan *orphan = orphans->rows[i];
        left += !orphan->half_made || remains_list(&orphan->remains, &plan) < 0 ||
                remove_one(app, orphan, &plan) < 0;
    }
    if (left > 0)
        log_event(LEVEL_WARNING, "there is something of no bottle; GET /cleanup-plan shows it",
                  LOG_NUMBER("orphans", (int64_t)left));
    cleanup_free(&plan);
    orphans_free(orphans);
}
