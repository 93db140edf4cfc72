/* Making a template: a boot by bottle-shim in a VM's jail, which saves the machine at its agent's
 * HELLO.
 *
 *   .making/run     the shim's, of the templates' own user
 *   .making/ram     the machine's memory, written by it while it runs
 *   .making/disk    in the place of a bottle's disk, empty
 *   .making/state   written by QEMU over a descriptor
 *
 * When the machine is dead its memory is copied to a file that nobody of the machine ever had open,
 * without the pages that are zero, and that is the template's. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/templates_internal.h"

enum {
    MIB = 1 << 20,
    PAGE = 4096,
    PIECE = 64 * PAGE,
    DEATH_MS = 10000,
    ROOM = PATH_MAX + 32,
    SPARE_UID = SUBNETS_MAX + 1
};

/* Imports have SUBNETS_MAX, bottles what is below. */
static unsigned own_uid(const struct host *host)
{
    return geteuid() == 0 && host->uid_base ? host->uid_base + SPARE_UID : 0;
}

static int make_file(int folder, const char *name, mode_t mode, int64_t size, unsigned uid,
                     struct error *err)
{
    CLEANUP_CLOSE int fd =
        openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);

    if (fd < 0 || (size && ftruncate(fd, (off_t)size) < 0) || (uid && fchown(fd, uid, uid) < 0) ||
        fchmod(fd, mode) < 0)
        return error_errno(err, NULL, "the template's %s", name);
    return 0;
}

/* The folder as the machine finds it; its descriptor, or -1. */
static int lay_out(const char *path, const struct plan *plan, unsigned uid, struct error *err)
{
    if (directory_remove(path, NULL, err) < 0)
        return -1;
    if (mkdir(path, 0700) < 0)
        return error_errno(err, NULL, "%s", path);
    CLEANUP_CLOSE int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0 || mkdirat(folder, "run", 0700) < 0 ||
        (uid && fchownat(folder, "run", uid, uid, AT_SYMLINK_NOFOLLOW) < 0))
        return error_errno(err, NULL, "%s", path);
    if (make_file(folder, TEMPLATE_RAM_FILE, 0600, plan->spec.memory_mib * MIB, uid, err) < 0 ||
        make_file(folder, TEMPLATE_STATE_FILE, 0600, 0, 0, err) < 0 ||
        (plan->spec.disk_mib > 0 &&
         make_file(folder, "disk", 0600, plan->spec.disk_mib * MIB, uid, err) < 0))
        return -1;
    return steal_fd(&folder);
}

static int boot_and_save(struct templates *templates, const struct plan *plan, const char *path,
                         unsigned uid, struct error *err)
{
    const struct host *host = &templates->app->host;
    json_t *vm = NULL, *save = NULL;
    char run_dir[ROOM], answer[256];

    if (backend_find(plan->backend)->templating->make(host, plan, path, &vm, &save, err) < 0)
        return -1;
    (void)snprintf(run_dir, sizeof run_dir, "%s/run", path);
    CLEANUP_JSON json_t *spec =
        launch_frame(host, vm, plan->spec.memory_mib, "template", run_dir, run_dir, uid, "-", err);
    if (!spec || json_object_set(spec, "save", save) < 0 ||
        json_object_set_new(spec, "probe", json_true()) < 0) {
        json_decref(save);
        return -1;
    }
    json_decref(save);
    int good = shim_try(host, spec, templates->cancel, answer, sizeof answer, err);
    if (good <= 0) /* killed, perhaps while its jail was being made */
        (void)strays_end(run_dir, uid, DEATH_MS);
    if (good == 0)
        return error_set(err, NULL, "%s", answer[0] ? answer : "its shim gave no answer");
    return good < 0 ? -1 : 0;
}

static bool is_zero(const char *bytes, size_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* One piece: pages that are zero stay holes. */
static int copy_piece(int to, const char *bytes, size_t length, off_t at)
{
    size_t end;

    for (size_t from = 0; from < length; from = end) {
        size_t step = length - from < PAGE ? length - from : PAGE;
        end = from + step;
        if (is_zero(bytes + from, step))
            continue;
        while (end < length && !is_zero(bytes + end, length - end < PAGE ? length - end : PAGE))
            end += length - end < PAGE ? length - end : PAGE;
        if (pwrite(to, bytes + from, end - from, at + (off_t)from) != (ssize_t)(end - from))
            return -1;
    }
    return 0;
}

static int copy_sparse(int from, int to, off_t size)
{
    CLEANUP_FREE char *bytes = malloc(PIECE);
    off_t at = 0;

    if (!bytes || ftruncate(to, size) < 0)
        return -1;
    while (at < size) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : -1; /* holes up to the end */
        at = data / PAGE * PAGE;
        ssize_t got = pread(from, bytes, PIECE, at);
        if (got < 0 || (got > 0 && copy_piece(to, bytes, (size_t)got, at) < 0))
            return -1;
        if (got == 0)
            return 0;
        at += got;
    }
    return 0;
}

/* The machine's own file goes; what is there in its place is ours, and nobody may write to it. */
static int settle_ram(int folder, off_t size, struct error *err)
{
    CLEANUP_CLOSE int from = openat(folder, TEMPLATE_RAM_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    CLEANUP_CLOSE int to =
        openat(folder, TEMPLATE_RAM_FILE ".new", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    struct stat status;

    if (from < 0 || to < 0 || fstat(from, &status) < 0)
        return error_errno(err, NULL, "the template's memory");
    if (!S_ISREG(status.st_mode) || status.st_size != size)
        return error_set(err, NULL, "the template's memory has another size");
    if (copy_sparse(from, to, size) < 0 || fchmod(to, 0444) < 0 ||
        renameat(folder, TEMPLATE_RAM_FILE ".new", folder, TEMPLATE_RAM_FILE) < 0)
        return error_errno(err, NULL, "copying the template's memory");
    return 0;
}

static int put_facts(const char *path, const char *facts, struct error *err)
{
    char file[ROOM], run_dir[ROOM];

    (void)snprintf(file, sizeof file, "%s/" TEMPLATE_FACTS_FILE, path);
    (void)snprintf(run_dir, sizeof run_dir, "%s/run", path);
    return directory_remove(run_dir, NULL, err) < 0
               ? -1
               : file_write(file, facts, strlen(facts), 0600, false, err);
}

int template_make(struct templates *templates, const struct plan *plan, const char *key,
                  const char *facts, struct error *err)
{
    unsigned uid = own_uid(&templates->app->host);
    char path[PATH_MAX], final[PATH_MAX];

    (void)snprintf(path, sizeof path, "%s/" TEMPLATE_UNFINISHED, templates->folder);
    (void)snprintf(final, sizeof final, "%s/%s", templates->folder, key);
    CLEANUP_CLOSE int folder = lay_out(path, plan, uid, err);
    if (folder < 0 || boot_and_save(templates, plan, path, uid, err) < 0 ||
        settle_ram(folder, (off_t)plan->spec.memory_mib * MIB, err) < 0)
        goto failed;
    (void)unlinkat(folder, "disk", 0);
    if (fchmodat(folder, TEMPLATE_STATE_FILE, 0400, 0) < 0) {
        (void)error_errno(err, NULL, "the template's state");
        goto failed;
    }
    if (put_facts(path, facts, err) < 0 || directory_remove(final, NULL, err) < 0)
        goto failed;
    if (rename(path, final) == 0)
        return 0;
    (void)error_errno(err, NULL, "%s", final);
failed:
    (void)directory_remove(path, NULL, NULL);
    return -1;
}
