#include "backends/tools.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/engines.h"
#include "base/clock.h"
#include "base/text.h"
#include "base/util.h"

/* Searched after the configured path: an ordinary user's PATH lacks the first two, nobody's has the
 * last. */
#define FALLBACK_PATH "/usr/sbin:/sbin:/usr/libexec/podman"

static bool is_program(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 && S_ISREG(status.st_mode) && access(path, X_OK) == 0;
}

/* The file itself: a jail has no /etc/alternatives that a link could lead through. */
static bool resolve(const char *path, char *ret, size_t size)
{
    CLEANUP_FREE char *real = realpath(path, NULL);

    return real && snprintf(ret, size, "%s", real) < (int)size;
}

static bool find_along(const char *list, const char *name, char *ret, size_t size)
{
    char path[PATH_MAX];

    for (const char *at = list; *at;) {
        size_t length = strcspn(at, ":");
        /* A relative or empty part would make the answer depend on where the daemon was started. */
        if (length > 0 && at[0] == '/' &&
            snprintf(path, sizeof path, "%.*s/%s", (int)length, at, name) < (int)sizeof path &&
            is_program(path))
            return resolve(path, ret, size);
        at += length;
        at += *at == ':';
    }
    return false;
}

/* Where programs were found in the last second, for the preflight of bottles that are made one
 * after the other. One that was not found is looked for again, so that an installed tool is there
 * at once; and what is run is looked for each time. */
enum { FOUND_MAX = 16, FOUND_MS = 1000 };
static struct found {
    char *list, *name, *path; /* NULL: the place is free */
    int64_t until_ms;
} lately[FOUND_MAX];
static pthread_mutex_t found_lock = PTHREAD_MUTEX_INITIALIZER;

static void found_forget(struct found *place)
{
    free(place->list);
    free(place->name);
    free(place->path);
    *place = (struct found){0};
}

/* Under the lock: what is known of it, or NULL; what is too old goes. */
static struct found *found_known(const char *list, const char *name)
{
    const int64_t now = clock_monotonic_ms();
    struct found *known = NULL;

    for (size_t i = 0; i < FOUND_MAX; i++) {
        if (lately[i].path && now >= lately[i].until_ms)
            found_forget(&lately[i]);
        else if (lately[i].path && strcmp(lately[i].name, name) == 0 &&
                 strcmp(lately[i].list, list) == 0)
            known = &lately[i];
    }
    return known;
}

static bool found_lately(const char *list, const char *name, char *ret, size_t size)
{
    (void)pthread_mutex_lock(&found_lock);
    const struct found *known = found_known(list, name);
    const bool fits = known && snprintf(ret, size, "%s", known->path) < (int)size;
    (void)pthread_mutex_unlock(&found_lock);
    return fits && access(ret, X_OK) == 0;
}

/* Without memory, or room, it is looked for each time. */
static void found_remember(const char *list, const char *name, const char *path)
{
    struct found one = {strdup(list), strdup(name), strdup(path), clock_monotonic_ms() + FOUND_MS};
    struct found *place = lately;

    (void)pthread_mutex_lock(&found_lock);
    while (place < lately + FOUND_MAX && place->path)
        place++;
    if (place < lately + FOUND_MAX && one.list && one.name && one.path &&
        !found_known(list, name)) {
        *place = one;
        one = (struct found){0};
    }
    (void)pthread_mutex_unlock(&found_lock);
    found_forget(&one);
}

int tool_find(const char *tools_path, const char *name, char *ret, size_t size)
{
    return find_along(tools_path, name, ret, size) || find_along(FALLBACK_PATH, name, ret, size)
               ? 0
               : -1;
}

int tool_is_there(const char *tools_path, const char *name, char *ret, size_t size)
{
    if (found_lately(tools_path, name, ret, size))
        return 0;
    if (tool_find(tools_path, name, ret, size) < 0)
        return -1;
    found_remember(tools_path, name, ret);
    return 0;
}

void preflight_row(struct preflight *preflight, const char *name, bool found, const char *path,
                   const char *detail, const char *hint)
{
    if (preflight->count == TOOLS_MAX)
        return;
    struct tool *tool = &preflight->tools[preflight->count++];
    *tool = (struct tool){.name = name, .found = found, .hint = hint};
    (void)snprintf(tool->path, sizeof tool->path, "%s", path);
    (void)snprintf(tool->detail, sizeof tool->detail, "%s", detail);
    preflight->ok = preflight->ok && found;
}

void preflight_program(struct preflight *preflight, const struct host *host, const char *name,
                       const char *hint)
{
    char path[PATH_MAX] = "";
    bool found = tool_is_there(host->tools_path, name, path, sizeof path) == 0;

    preflight_row(preflight, name, found, found ? path : "",
                  found ? "" : "not found on the tools path or PATH", hint);
}

void preflight_file(struct preflight *preflight, const char *name, const char *directory,
                    const char *file, const char *hint)
{
    char path[PATH_MAX];

    (void)snprintf(path, sizeof path, "%s/%s", directory, file);
    bool found = access(path, R_OK) == 0;
    preflight_row(preflight, name, found, path, found ? "" : "missing or not readable", hint);
}

void preflight_common(struct preflight *preflight, const struct host *host, const struct spec *spec)
{
    static const char built[] = "build bottled whole: run make in its source directory";

    preflight_program(
        preflight, host, "gvproxy",
        "run tools/setup in bottled's source directory, or install it by: CGO_ENABLED=0 "
        "go install github.com/containers/gvisor-tap-vsock/cmd/gvproxy@v0.8.9");
    preflight_program(preflight, host, "bwrap", "install it by: apt-get install bubblewrap");
    preflight_file(preflight, "bottle-shim", host->libexec_dir, "bottle-shim", built);
    preflight_file(preflight, "bottle-cell", host->libexec_dir, "bottle-cell", built);
    preflight_engines(preflight, host, spec);
}

bool program_is_dynamic(const char *path)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    Elf64_Ehdr header;
    Elf64_Phdr segment;

    if (fd < 0 || pread(fd, &header, sizeof header, 0) != sizeof header ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
        return true; /* a script, or something that we do not know: give it the system's files */
    for (size_t i = 0; i < header.e_phnum; i++) {
        off_t at = (off_t)(header.e_phoff + i * sizeof segment);
        if (pread(fd, &segment, sizeof segment, at) != sizeof segment)
            return true;
        if (segment.p_type == PT_INTERP)
            return true;
    }
    return false;
}

int guest_image_path(const struct host *host, const char *image, char *ret, size_t size)
{
    static const char prefix[] = "builtin:";

    if (strncmp(image, prefix, sizeof prefix - 1) != 0)
        return -1;
    return snprintf(ret, size, "%s/images/%s.erofs", host->guest_dir, image + sizeof prefix - 1) <
                   (int)size
               ? 0
               : -1;
}

int plan_image_path(const struct host *host, const struct plan *plan, char *ret, size_t size,
                    struct error *err)
{
    int length = plan->image_file ? snprintf(ret, size, "%s", plan->image_file) : -1;

    if (!plan->image_file && guest_image_path(host, plan->spec.image, ret, size) < 0)
        return error_set(err, "preflight-failed",
                         "the image %s can't be started; create the bottle with \"image\": "
                         "\"builtin:busybox\", or with one that POST /images has imported",
                         plan->spec.image);
    if (length >= (int)size || access(ret, R_OK) < 0)
        return error_errno(err, "preflight-failed", "the image's file %s", ret);
    return 0;
}

void preflight_disk(struct preflight *preflight, const struct host *host, const struct spec *spec)
{
    if (spec && spec->disk_mib > 0)
        preflight_program(preflight, host, "mkfs.ext4", "install it by: apt-get install e2fsprogs");
}

int rendered_argv(const char *name, const char *member, const char *text, size_t length,
                  json_t **ret, struct error *err)
{
    json_error_t fault;
    json_t *file = json_loadb(text, length, JSON_REJECT_DUPLICATES, &fault);
    json_t *argv = json_incref(json_object_get(file, member));

    json_decref(file);
    if (!json_is_array(argv)) {
        json_decref(argv);
        return error_set(err, NULL, "%s holds no %s", name, member);
    }
    *ret = argv;
    return 0;
}

int files_identity(const char *const *paths, char *ret, size_t size)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;
    struct stat status;

    for (; *paths; paths++) {
        if (stat(*paths, &status) < 0)
            return -1;
        text_addf(&out, "%s:%lld:%lld ", *paths, (long long)status.st_size,
                  (long long)status.st_mtime);
    }
    return out.data && snprintf(ret, size, "%s", out.data) < (int)size ? 0 : -1;
}
