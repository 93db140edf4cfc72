#include "shim/limits.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/number.h"
#include "base/util.h"

#define MIB (1024LL * 1024)

enum { FILES_MAX = 1 << 20 };
enum { KEEP = -1, MEMORY = -2, OWN_USER = -3, DISK = -4 }; /* special values of the table */

/* DATA rather than AS: it counts what can be written to, and both Go and QEMU set aside far more
 * address space than they use. NPROC counts by user, so it says something only where the bottle has
 * a user of its own, and then it is for all of the bottle together. NOFILE bounds gvproxy's flows:
 * each holds a socket. gvproxy writes no file. */
static const struct {
    const char *name;
    int resource;
    int64_t by_kind[N_LIMITS_KINDS]; /* gvproxy, VM, the same with directories, who serves one,
                                        proxy, sidecar */
} rows[] = {
    {"core", RLIMIT_CORE, {1, 1, 1, 1, 1, 1}}, /* see secret_no_dumps() */
    {"nofile", RLIMIT_NOFILE, {4096, 1024, FILES_MAX, FILES_MAX, 16384, 16384}},
    {"nproc", RLIMIT_NPROC, {OWN_USER, OWN_USER, OWN_USER, OWN_USER, OWN_USER, OWN_USER}},
    {"fsize", RLIMIT_FSIZE, {0, DISK, KEEP, KEEP, 64 * MIB, 1024 * MIB}},
    {"memlock", RLIMIT_MEMLOCK, {0, 65536, 65536, 65536, 65536, 65536}},
    {"data", RLIMIT_DATA, {MEMORY, MEMORY, MEMORY, MEMORY, MEMORY, MEMORY}},
    {"msgqueue", RLIMIT_MSGQUEUE, {0, 0, 0, 0, 0, 0}},
    {"nice", RLIMIT_NICE, {0, 0, 0, 0, 0, 0}},
    {"rtprio", RLIMIT_RTPRIO, {0, 0, 0, 0, 0, 0}},
};

void limits_raise_files(void)
{
    struct rlimit limit;

    if (geteuid() != 0 || getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max >= FILES_MAX)
        return;
    limit.rlim_max = FILES_MAX;
    (void)setrlimit(RLIMIT_NOFILE, &limit); /* else it stays at fewer */
}

int64_t limits_files(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    return limit.rlim_max >= FILES_MAX ? FILES_MAX : (int64_t)limit.rlim_max;
}

int64_t limits_memory(enum limits_kind kind, const struct launch *launch)
{
    const struct resources *resources = &launch->resources;

    switch (kind) {
    case LIMITS_GVPROXY:
        return resources->gvproxy_mib * MIB;
    case LIMITS_VM:
    case LIMITS_VM_FS:
        return (resources->vm_mib + resources->vm_overhead_mib) * MIB;
    default:
        return resources->sidecar_mib * MIB;
    }
}

/* Guest memory that others share is a file too. */
static int64_t largest_file(const struct launch *launch)
{
    const struct resources *resources = &launch->resources;
    bool shares = launch->n_mounts > 0 && resources->vm_mib > resources->disk_mib;

    return (shares ? resources->vm_mib : resources->disk_mib) * MIB;
}

void limits_add(struct argv *argv, enum limits_kind kind, const struct launch *launch)
{
    struct rlimit own;

    argv_add_list(argv, (const char *const[]){SHIM_SELF, LIMITS_FLAG, NULL});
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        int64_t value = rows[i].by_kind[kind];
        if (value == MEMORY)
            value = limits_memory(kind, launch);
        if (value == DISK)
            value = largest_file(launch);
        if (value == OWN_USER)
            value = launch->uid ? launch->resources.pids : KEEP;
        if (value == KEEP || getrlimit(rows[i].resource, &own) < 0)
            continue;
        if (own.rlim_max != RLIM_INFINITY && own.rlim_max < (rlim_t)value)
            value = (int64_t)own.rlim_max; /* nobody may raise it */
        argv_addf(argv, "%s=%lld", rows[i].name, (long long)value);
    }
    argv_add(argv, "--");
}

int limits_join(const struct launch *launch, struct error *err)
{
    char path[1100];

    if (!launch->cgroup)
        return 0;
    (void)snprintf(path, sizeof path, "%s/cgroup.procs", launch->cgroup);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write_all(fd, "0", 1) < 0)
        return error_errno(err, "launch-failed", "entering the control group %s", launch->cgroup);
    return 0;
}

int limits_own(const struct launch *launch, struct error *err)
{
    rlim_t bytes = (rlim_t)(launch->resources.shim_mib * MIB);
    struct rlimit limit;

    if (bytes == 0)
        return 0;
    if (getrlimit(RLIMIT_DATA, &limit) < 0)
        return error_errno(err, "launch-failed", "the supervisor's memory");
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    return setrlimit(RLIMIT_DATA, &limit) < 0
               ? error_errno(err, "launch-failed", "the supervisor's memory")
               : 0;
}

static int set_one(const char *name, size_t length, const char *text)
{
    int64_t value;

    if (strncmp("umask", name, length) == 0 && length == 5) {
        if (number_parse(text, 0, 0777, &value) < 0)
            return -1;
        (void)umask((mode_t)value);
        return 0;
    }
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (strncmp(rows[i].name, name, length) != 0 || rows[i].name[length] != '\0')
            continue;
        if (number_parse(text, 0, INT64_MAX, &value) < 0)
            return -1;
        const struct rlimit limit = {(rlim_t)value, (rlim_t)value};
        return setrlimit((__rlimit_resource_t)rows[i].resource, &limit);
    }
    return -1;
}

int limits_enter(char **argv)
{
    for (; *argv && strcmp(*argv, "--") != 0; argv++) {
        size_t length = strcspn(*argv, "=");
        if (!(*argv)[length] || set_one(*argv, length, *argv + length + 1) < 0) {
            (void)fprintf(stderr, "bottle-shim: the limit %s could not be set\n", *argv);
            return 1;
        }
    }
    if (!argv[0] || !argv[1]) {
        (void)fprintf(stderr, "bottle-shim: no program behind its limits\n");
        return 2;
    }
    (void)execv(argv[1], argv + 1);
    perror(argv[1]);
    return 1;
}
