#include "backends/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backends/mount_copy.h"
#include "backends/tools.h"
#include "base/number.h"
#include "base/process.h"
#include "base/text.h"
#include "base/util.h"

#define SERVER "virtiofsd"
/* Where Debian 12 and Debian 13 have it: in nobody's PATH. */
#define SERVER_PLACES "/usr/lib/qemu:/usr/libexec"

enum { VERSION_MS = 5000, VERSION_MAX = 4096, USER_MAX = 0x7ffffffe };

static const char kind[] = "mount-refused";

/* --- One source ------------------------------------------------------------------------------- */

int mount_root(const char *roots, const char *source, char ret_root[PATH_MAX],
               const char **ret_below)
{
    size_t longest = 0;

    for (const char *at = roots; at && *at; at += strcspn(at, ":"), at += *at == ':') {
        size_t length = strcspn(at, ":");
        char root[PATH_MAX];
        if (length == 0 || length >= sizeof root)
            continue;
        (void)snprintf(root, sizeof root, "%.*s", (int)length, at);
        if (length <= longest || !path_below(source, root))
            continue;
        longest = length;
        (void)snprintf(ret_root, PATH_MAX, "%s", root);
        while (length > 0 && root[length - 1] == '/')
            length--;
        *ret_below = source + length + (source[length] == '/');
    }
    return longest ? 0 : -1;
}

static const char *why(int number)
{
    switch (number) {
    case EXDEV:
        return "a link on the way leads out of the directory that the operator allowed";
    case ENOENT:
        return "there is no such directory; make it first";
    case ENOTDIR:
        return "it is no directory";
    case ELOOP:
        return "there are too many links on the way, or one of the kernel's own";
    default:
        return strerror(number);
    }
}

int mount_open(const char *root, const char *below, struct error *err)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    CLEANUP_CLOSE int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    long found = -1;

    if (fd < 0)
        return error_set(err, kind, "%s, of mount_roots: %s", root, why(errno));
    /* EAGAIN: something was renamed during the look-up. */
    for (int i = 0; found < 0 && i < 100; i++) {
        found = syscall(SYS_openat2, fd, *below ? below : ".", &how, sizeof how);
        if (found < 0 && errno != EAGAIN && errno != EINTR)
            break;
    }
    if (found < 0)
        return error_set(err, kind, "%s/%s: %s", root, below, why(errno));
    return (int)found;
}

/* --- All of a plan ---------------------------------------------------------------------------- */

/* Neither bottled's own files in it, nor it in those: a guest that writes there is the daemon's
 * master. */
static int check_own(const struct host *host, int fd, struct error *err)
{
    const char *const own[] = {host->state_dir, host->run_dir};
    char link[32], path[PATH_MAX];

    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return error_errno(err, kind, "%s", link);
    path[length] = '\0';
    for (size_t i = 0; i < COUNT_OF(own); i++) {
        CLEANUP_FREE char *real = own[i] ? realpath(own[i], NULL) : NULL;
        if (real && (path_below(path, real) || path_below(real, path)))
            return error_set(err, kind, "bottled keeps its own files in %s", real);
    }
    return 0;
}

static int check_one(const struct host *host, const char *source, struct error *err)
{
    char root[PATH_MAX];
    const char *below;

    if (mount_root(host->mount_roots, source, root, &below) < 0)
        return error_set(err, kind,
                         "it lies in no directory that the operator allowed (mount_roots)");
    CLEANUP_CLOSE int fd = mount_open(root, below, err);
    if (fd < 0 || check_own(host, fd, err) < 0)
        return -1;
    if (!host->uid_base)
        return 0;
    /* As root, try what the shim will do. */
    CLEANUP_CLOSE int copy = mount_copy(fd, source, true, host->uid_base, host->uid_base, err);
    return copy < 0 ? -1 : 0;
}

void mounts_check(const struct host *host, const struct spec *spec, struct problem *problem)
{
    for (size_t i = 0; i < spec->mounts.count; i++) {
        struct error err = ERROR_INIT;
        char pointer[64];
        (void)snprintf(pointer, sizeof pointer, "/mounts/%zu/source", i);
        if (check_one(host, spec_mount(spec, i)->source, &err) < 0)
            problem_add_fault(problem, pointer, "refused", "%.400s", err.text);
    }
}

int mounts_recheck(const struct host *host, const struct spec *spec, struct error *err)
{
    for (size_t i = 0; i < spec->mounts.count; i++)
        if (check_one(host, spec_mount(spec, i)->source, err) < 0)
            return error_wrap(err, "/mounts/%zu/source %.200s", i, spec_mount(spec, i)->source);
    return 0;
}

/* --- For the launch --------------------------------------------------------------------------- */

static int find_server(const struct host *host, char *ret, size_t size)
{
    return tool_find(host->tools_path, SERVER, ret, size) == 0 ||
                   tool_find(SERVER_PLACES, SERVER, ret, size) == 0
               ? 0
               : -1;
}

void preflight_mounts(struct preflight *preflight, const struct host *host, const struct spec *spec)
{
    char path[PATH_MAX] = "";

    if (!spec || spec->mounts.count == 0)
        return;
    bool found = find_server(host, path, sizeof path) == 0;
    preflight_row(preflight, SERVER, found, path,
                  found ? "" : "not found on the tools path or PATH, nor in " SERVER_PLACES,
                  "install it by: apt-get install qemu-system-common (Debian 12) or virtiofsd "
                  "(Debian 13)");
}

/* Debian 12 has QEMU's own (in C), later ones the one in Rust: their options differ. */
json_t *mounts_server_encode(const struct host *host, struct error *err)
{
    static const char *const env[] = {NULL};
    char path[PATH_MAX];
    char *output;
    int status;

    if (find_server(host, path, sizeof path) < 0) {
        error_set(err, "preflight-failed",
                  SERVER " was not found; install qemu-system-common (Debian 12) or virtiofsd");
        return NULL;
    }
    const char *const argv[] = {path, "--version", NULL};
    if (process_run(argv, env, VERSION_MS, VERSION_MAX, &output, &status, err) < 0)
        return NULL;
    bool of_qemu = strstr(output, SERVER " version ") != NULL;
    free(output);
    return json_pack("{s:s, s:b}", "binary", path, "of_qemu", (int)of_qemu);
}

/* Whose the files are in the guest: the image's USER, as a number. */
static int read_user(const struct plan *plan, unsigned *ret_uid, unsigned *ret_gid,
                     struct error *err)
{
    const char *text = plan->user_numbers[0] ? plan->user_numbers : plan->user[0] ? "" : "0:0";
    size_t length = strcspn(text, ":");
    char name[32];
    int64_t uid, gid;

    (void)snprintf(name, sizeof name, "%.*s", (int)(length < 31 ? length : 31), text);
    if (text[length] != ':' || number_parse(name, 0, USER_MAX, &uid) < 0 ||
        number_parse(text + length + 1, 0, USER_MAX, &gid) < 0)
        return error_set(err, kind,
                         "whose the files of a mount would be in the guest is not known: the "
                         "image's USER \"%.100s\" was not found in the image when it was "
                         "imported; import it again, or one whose USER is in its /etc/passwd",
                         plan->user);
    *ret_uid = (unsigned)uid;
    *ret_gid = (unsigned)gid;
    return 0;
}

json_t *mounts_encode(const struct host *host, const struct plan *plan, struct error *err)
{
    unsigned uid = 0, gid = 0;
    json_t *list = json_array();

    if (read_user(plan, &uid, &gid, err) < 0) {
        json_decref(list);
        return NULL;
    }
    for (size_t i = 0; i < plan->n_mounts; i++) {
        const struct plan_mount *mount = &plan->mounts[i];
        char root[PATH_MAX];
        const char *below;
        if (mount_root(host->mount_roots, mount->spec->source, root, &below) < 0) {
            error_set(err, kind, "%s lies in no directory that the operator allowed (mount_roots)",
                      mount->spec->source);
            json_decref(list);
            return NULL;
        }
        (void)json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:b}", "tag", mount->tag,
                                                    "root", root, "below", below, "target",
                                                    mount->spec->target, "read_only",
                                                    (int)mount->spec->read_only));
    }
    return json_pack("{s:o, s:I, s:I}", "list", list, "uid", (json_int_t)uid, "gid",
                     (json_int_t)gid);
}
