/* A bottle's own disk: a sparse ext4 file in its stage directory, made once and kept. What the
 * guest did to it is never looked at on the host. */
#include "server/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/process.h"
#include "base/util.h"

#define UNFINISHED "." DISK_FILE ".new"

enum { MKFS_MS = 60000, WORDS_MAX = 4096 };

static int make_file(const char *path, int64_t mib, struct error *err)
{
    (void)unlink(path);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, (off_t)mib << 20) < 0)
        return error_errno(err, "stage-unwritable", "%s", path);
    return 0;
}

static int make_file_system(const struct host *host, const char *path, struct error *err)
{
    char program[PATH_MAX];
    int status = -1;

    if (tool_find(host->tools_path, "mkfs.ext4", program, sizeof program) < 0)
        return error_set(err, "preflight-failed",
                         "mkfs.ext4 was not found; install it by: apt-get install e2fsprogs");
    /* Nothing is set aside for root, and nothing is left to be written on the first mount. */
    const char *const argv[] = {program,
                                "-t", /* the program goes by its name, which is a link's */
                                "ext4",
                                "-q",
                                "-F",
                                "-m",
                                "0",
                                "-E",
                                "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
                                path,
                                NULL};
    CLEANUP_FREE char *words = NULL;
    if (process_run(argv, NULL, MKFS_MS, WORDS_MAX, &words, &status, err) < 0)
        return -1;
    return status == 0
               ? 0
               : error_set(err, "stage-unwritable", "making the bottle's disk: %.300s", words);
}

/* On the disk itself: from the rename on nobody looks whether there is a file system in it. */
static int sync_file(const char *path)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -1 : fsync(fd);
}

int disk_ensure(const struct host *host, const struct plan *plan, unsigned uid, struct error *err)
{
    char path[PATH_MAX], unfinished[PATH_MAX];
    struct stat status;

    if (plan->spec.disk_mib <= 0)
        return 0;
    if (snprintf(path, sizeof path, "%s/" DISK_FILE, plan->stage_dir) >= (int)sizeof path ||
        snprintf(unfinished, sizeof unfinished, "%s/" UNFINISHED, plan->stage_dir) >=
            (int)sizeof unfinished)
        return error_set(err, "stage-unwritable", "%s: the path is too long", plan->stage_dir);
    if (lstat(path, &status) == 0)
        return S_ISREG(status.st_mode) && status.st_nlink == 1
                   ? 0
                   : error_set(err, "stage-unwritable", "%s is no plain file", path);
    if (make_file(unfinished, plan->spec.disk_mib, err) < 0 ||
        make_file_system(host, unfinished, err) < 0)
        return -1;
    if ((uid && lchown(unfinished, uid, uid) < 0) || sync_file(unfinished) < 0 ||
        rename(unfinished, path) < 0)
        return error_errno(err, "stage-unwritable", "%s", path);
    return 0;
}

void disk_check(const struct host *host, const struct spec *spec, struct problem *problem)
{
    if (spec->disk_mib > host->max_disk_mib)
        problem_add_fault(problem, "/resources/disk_mib", "out-of-range",
                          "this daemon gives a bottle at most %lld MiB (max_disk_mib)",
                          (long long)host->max_disk_mib);
}
