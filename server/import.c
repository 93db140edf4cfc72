#include "server/import.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "backends/mounts.h"
#include "backends/tools.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "guest/user.h"
#include "server/import_internal.h"

#define IMAGE_UUID "6b6f7474-6c65-4d62-b000-000000000002"
#define FILE_NAME "image.erofs"

enum {
    CLEAN_TRIES = 50,
    CLEAN_WAIT_MS = 20,
    EROFS_SUPER = 1024, /* offset of the superblock, and in it of the magic and number of inodes */
    EROFS_INODES = 16,
    USER_FILE_MAX = 1024 * 1024,
};

static const uint8_t erofs_magic[4] = {0xe2, 0xe1, 0xf5, 0xe0};

/* --- What is there ---------------------------------------------------------------------------- */

void import_preflight(const struct host *host, struct preflight *ret)
{
    static const char built[] = "build bottled whole: run make in its source directory";

    *ret = (struct preflight){.ok = true};
    preflight_program(ret, host, "skopeo", "install it by: apt-get install skopeo");
    preflight_program(ret, host, "umoci", "install it by: apt-get install umoci");
    preflight_program(ret, host, "mkfs.erofs", "install it by: apt-get install erofs-utils");
    preflight_program(ret, host, "bwrap", "install it by: apt-get install bubblewrap");
    preflight_program(ret, host, "setpriv", "install it by: apt-get install util-linux");
    preflight_file(ret, "bottle-shim", host->libexec_dir, "bottle-shim", built);
    preflight_file(ret, "bottle-owner.so", host->libexec_dir, "bottle-owner.so", built);
}

int import_check(const struct config *config, const char *source, struct error *err)
{
    struct image_reference reference;
    char root[PATH_MAX];
    const char *below, *wrong = image_reference_parse(source, &reference);

    if (wrong)
        return error_set(err, "invalid-plan", "%s %s", source, wrong);
    if (reference.kind == IMAGE_BUILTIN || reference.kind == IMAGE_ID)
        return error_set(err, "invalid-plan",
                         "%s is there already: only oci:PATH, dir:PATH and "
                         "docker://NAME can be imported",
                         source);
    if (reference.kind == IMAGE_DIR &&
        mount_root(config->image_roots, reference.path, root, &below) < 0)
        return error_set(err, "image-forbidden",
                         "%s lies in no directory that the operator allowed (image_roots)",
                         reference.path);
    if (reference.kind == IMAGE_DOCKER &&
        !image_registry_allowed(config->image_registries, reference.registry))
        return error_set(err, "image-forbidden",
                         "%s is no registry that the operator allowed (image_registries)",
                         reference.registry);
    return 0;
}

/* --- The work folder -------------------------------------------------------------------------- */

static char *work_path(const struct host *host)
{
    char *path;

    return asprintf(&path, "%s/importing", host->state_dir) < 0 ? NULL : path;
}

char *import_file(const struct host *host)
{
    char *path;

    return asprintf(&path, "%s/importing/" FILE_NAME, host->state_dir) < 0 ? NULL : path;
}

int import_clean(const struct host *host, struct error *err)
{
    CLEANUP_FREE char *path = work_path(host);

    if (!path)
        return error_set(err, NULL, "out of memory");
    /* What was killed may take a moment to be gone. */
    for (int i = 0; i < CLEAN_TRIES; i++) {
        if (directory_remove(path, NULL, err) == 0)
            return 0;
        (void)poll(NULL, 0, CLEAN_WAIT_MS);
    }
    return -1;
}

static int make_work(struct work *work, struct error *err)
{
    const struct host *host = work->import->host;

    work->path = work_path(host);
    if (!work->path)
        return error_set(err, NULL, "out of memory");
    if (import_clean(host, err) < 0)
        return -1;
    /* Beyond those of all bottles. */
    bool own = geteuid() == 0 && host->uid_base && work->reference.kind != IMAGE_DIR;
    work->uid = own ? host->uid_base + SUBNETS_MAX : 0;
    if (mkdir(work->path, 0700) < 0)
        return error_errno(err, "stage-unwritable", "%s", work->path);
    work->fd = open(work->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (work->fd < 0 || mkdirat(work->fd, "tmp", 0700) < 0 ||
        (work->uid && (fchown(work->fd, work->uid, work->uid) < 0 ||
                       fchownat(work->fd, "tmp", work->uid, work->uid, AT_SYMLINK_NOFOLLOW) < 0)))
        return error_errno(err, "stage-unwritable", "%s", work->path);
    return 0;
}

/* --- What the source says --------------------------------------------------------------------- */

static json_t *read_json(const struct work *work, const char *path, struct error *err)
{
    size_t length;
    CLEANUP_FREE char *text = import_read(work, path, IMPORT_JSON_MAX, &length, err);
    json_t *value = text ? json_parse(text, length, err) : NULL;

    if (text && !value && err) {
        err->kind = "image-refused";
        (void)error_wrap(err, "%s", path);
    }
    return value;
}

/* The blob of a descriptor: {"digest": "sha256:…"}. */
static json_t *read_blob(const struct work *work, const json_t *descriptor, struct error *err)
{
    const char *digest = json_member_string(descriptor, "digest");
    char path[128];

    if (!digest || strncmp(digest, "sha256:", 7) != 0 || strlen(digest) != 71 ||
        digest[7 + strspn(digest + 7, "0123456789abcdef")] != '\0') {
        error_set(err, "image-refused", "its manifest names a digest that is no sha256");
        return NULL;
    }
    (void)snprintf(path, sizeof path, "oci/blobs/sha256/%s", digest + 7);
    return read_json(work, path, err);
}

static int check_platform(const json_t *config, struct error *err)
{
    const char *os = json_member_string(config, "os");
    const char *machine = json_member_string(config, "architecture");

    if (os && machine && strcmp(os, "linux") == 0 && strcmp(machine, "amd64") == 0)
        return 0;
    return error_set(err, "image-refused", "it is for %.32s/%.32s, and bottles run linux/amd64",
                     os ? os : "?", machine ? machine : "?");
}

static int read_config(const struct work *work, struct image *ret, struct error *err)
{
    CLEANUP_JSON json_t *index = read_json(work, "oci/index.json", err);
    const json_t *entry = json_array_get(json_object_get(index, "manifests"), 0);
    CLEANUP_JSON json_t *manifest = index ? read_blob(work, entry, err) : NULL;
    CLEANUP_JSON json_t *config =
        manifest ? read_blob(work, json_object_get(manifest, "config"), err) : NULL;

    if (!config || check_platform(config, err) < 0)
        return -1;
    if (!ret->manifest[0])
        (void)snprintf(ret->manifest, sizeof ret->manifest, "%s",
                       json_member_string(entry, "digest"));
    return image_config_decode(json_object_get(config, "config"), &ret->config, err);
}

/* --- The steps -------------------------------------------------------------------------------- */

/* What it is given, what it unpacks meanwhile, and what it makes. */
static int skopeo_copy(const struct work *work, const char *from, struct error *err)
{
    const char *const argv[] = {"skopeo", "copy",          "--quiet", "--insecure-policy",
                                from,     "oci:oci:image", NULL};

    return import_jailed(work,
                         &(struct jailed){.step = "copying",
                                          .argv = argv,
                                          .network = work->reference.kind == IMAGE_DOCKER,
                                          .counted = ".",
                                          .times = 3},
                         NULL, err);
}

static int copy_from_host(const struct work *work, struct error *err)
{
    static const char *const forms[] = {"docker-archive:in.tar", "oci-archive:in.tar"};
    const char *tag = work->reference.tag;
    char from[IMAGE_SOURCE_SIZE + 32];
    struct error first = ERROR_INIT, second = ERROR_INIT;
    bool archive;

    if (import_copy_input(work, &archive, err) < 0)
        return -1;
    if (!archive) {
        (void)snprintf(from, sizeof from, "oci:in%s%s", tag[0] ? ":" : "", tag);
        return skopeo_copy(work, from, err);
    }
    /* Docker's own first: its newer ones are OCI archives as well. */
    (void)snprintf(from, sizeof from, "%s%s%s", forms[0], tag[0] ? ":" : "", tag);
    if (skopeo_copy(work, from, &first) == 0)
        return 0;
    (void)snprintf(from, sizeof from, "%s%s%s", forms[1], tag[0] ? ":" : "", tag);
    if (first.kind && strcmp(first.kind, "image-refused") != 0) {
        *err = first;
        return -1;
    }
    if (skopeo_copy(work, from, &second) == 0)
        return 0;
    return error_set(err, second.kind,
                     "neither as Docker's archive (%.250s) nor as an OCI one (%.250s)", first.text,
                     second.text);
}

static int unpack(const struct work *work, struct error *err)
{
    static const char *const argv[] = {"umoci",   "raw",       "unpack", "--rootless",
                                       "--image", "oci:image", "rootfs", NULL};

    return import_jailed(
        work, &(struct jailed){.step = "unpacking", .argv = argv, .counted = "rootfs", .times = 1},
        NULL, err);
}

static int pack(const struct work *work, const char *input, const char *tree, struct error *err)
{
    const char *argv[] = {"mkfs.erofs", "--quiet", "-x-1", "-U", IMAGE_UUID,
                          FILE_NAME,    tree,      NULL,   NULL};
    bool own_tree = !input;
    char began[32];
    const char *env[] = {"LD_PRELOAD", "/owner.so", own_tree ? "BOTTLE_IMPORT_BEGAN" : NULL, began,
                         NULL};

    (void)snprintf(began, sizeof began, "%lld", (long long)work->began_ms / 1000);
    if (!own_tree && geteuid() != 0) { /* all that we may read is ours, or as good as that */
        argv[5] = "--all-root";
        argv[6] = FILE_NAME;
        argv[7] = tree;
    }
    return import_jailed(work,
                         &(struct jailed){.step = "packing",
                                          .argv = argv,
                                          .reads_all = true,
                                          .as_ourselves = !own_tree,
                                          .input = input,
                                          .env = env},
                         NULL, err);
}

/* The root is bound, and what follows it is looked up in the jail, where a link leads nowhere else.
 */
static int pack_directory(const struct work *work, struct error *err)
{
    char root[PATH_MAX], tree[PATH_MAX + 8];
    const char *below;

    if (mount_root(work->import->config->image_roots, work->reference.path, root, &below) < 0)
        return error_set(err, "image-forbidden", "%s is not allowed", work->reference.path);
    (void)snprintf(tree, sizeof tree, JAIL_INPUT "%s%s", below[0] ? "/" : "", below);
    return pack(work, root, tree, err);
}

/* Digest and size of the file, and that it is what it has to be. */
static int measure(const struct work *work, struct image *ret, struct error *err)
{
    CLEANUP_CLOSE int fd = import_open(work, FILE_NAME, err);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0)
        return -1;
    if (status.st_size < 4096)
        return error_set(err, "image-refused", "mkfs.erofs made no image of it");
    uint8_t *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return error_errno(err, NULL, "reading the image");
    sha256_hex(bytes, (size_t)status.st_size, ret->digest);
    bool good = memcmp(bytes + EROFS_SUPER, erofs_magic, sizeof erofs_magic) == 0;
    ret->files = 0;
    for (int i = 7; i >= 0; i--)
        ret->files = ret->files << 8 | bytes[EROFS_SUPER + EROFS_INODES + i];
    (void)munmap(bytes, (size_t)status.st_size);
    ret->bytes = status.st_size;
    if (!good)
        return error_set(err, "image-refused", "mkfs.erofs made no image of it");
    if (ret->files > work->import->config->image_max_files)
        return error_set(err, "image-refused",
                         "it has more files than an image may have here (image_max_files is %lld)",
                         (long long)work->import->config->image_max_files);
    /* From here on it is the daemon's. */
    if ((work->uid && fchown(fd, 0, 0) < 0) || fchmod(fd, 0644) < 0 || fsync(fd) < 0)
        return error_errno(err, "stage-unwritable", "finishing the image");
    return 0;
}

/* Who USER is, for the mounts of bottles; a link in the way is not followed, and then it is not
 * known. */
static int look_up_user(const struct work *work, struct image_config *config, struct error *err)
{
    CLEANUP_FREE char *passwd = import_read(work, "rootfs/etc/passwd", USER_FILE_MAX, NULL, NULL);
    CLEANUP_FREE char *group = import_read(work, "rootfs/etc/group", USER_FILE_MAX, NULL, NULL);
    struct user user;

    free(config->user_numbers); /* what the image says of it itself */
    config->user_numbers = NULL;
    int result = user_resolve_in(passwd, group, config->user, &user, NULL) < 0
                     ? asprintf(&config->user_numbers, "%s", "")
                     : asprintf(&config->user_numbers, "%u:%u", user.uid, user.gid);
    return result < 0 ? error_set(err, NULL, "out of memory") : 0;
}

static int run_steps(const struct work *work, struct image *ret, struct error *err)
{
    if (work->reference.kind == IMAGE_DIR) {
        if (image_config_decode(NULL, &ret->config, err) < 0 || pack_directory(work, err) < 0)
            return -1;
        return measure(work, ret, err);
    }
    int result = work->reference.kind == IMAGE_DOCKER ? skopeo_copy(work, work->import->source, err)
                                                      : copy_from_host(work, err);
    if (result < 0 || read_config(work, ret, err) < 0 || unpack(work, err) < 0 ||
        look_up_user(work, &ret->config, err) < 0 || pack(work, NULL, "rootfs", err) < 0)
        return -1;
    return measure(work, ret, err);
}

int import_run(const struct import *import, struct image *ret, struct error *err)
{
    struct work work = {.import = import, .fd = -1, .began_ms = clock_wall_ms()};
    int result = import_check(import->config, import->source, err);

    work.until_ms = clock_monotonic_ms() + import->config->image_timeout_ms;
    (void)snprintf(ret->source, sizeof ret->source, "%s", import->source);
    (void)image_reference_parse(import->source, &work.reference);
    if (result == 0)
        result = make_work(&work, err);
    if (result == 0)
        result = run_steps(&work, ret, err);
    if (work.fd >= 0)
        (void)close(work.fd);
    free(work.path);
    return result;
}
