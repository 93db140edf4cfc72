#include "guest/root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "guest/protocol.h"

enum {
    ETC_FILE_MAX = 512,
};

/* A machine restored from a template has looked at another disk in this one's place. */
static void forget_disk(void)
{
    CLEANUP_CLOSE int fd = open(ROOT_DISK, O_RDONLY | O_CLOEXEC);

    if (fd >= 0)
        (void)ioctl(fd, BLKFLSBUF, 0);
}

static int writable = -1;
static bool writable_is_disk;

int root_writable(bool *ret_disk)
{
    *ret_disk = writable_is_disk;
    return writable;
}

/* What was written is on the disk seconds later, whether or not anybody asks for it: the machine
 * may end as by a power cut. */
static void write_back_soon(void)
{
    static const char *const settings[][2] = {
        {"/proc/sys/vm/dirty_expire_centisecs", "200"},
        {"/proc/sys/vm/dirty_writeback_centisecs", "100"},
    };

    for (size_t i = 0; i < COUNT_OF(settings); i++) {
        CLEANUP_CLOSE int fd = open(settings[i][0], O_WRONLY | O_CLOEXEC);
        if (fd >= 0 && write(fd, settings[i][1], 3) != 3)
            return; /* the kernel's own times hold then */
    }
}

/* On the bottle's disk, where it has one; else in memory. */
static int mount_writable(struct error *err)
{
    writable_is_disk = access(ROOT_DISK, F_OK) == 0;
    if (writable_is_disk) {
        forget_disk();
        write_back_soon();
        /* One that was made without a journal has none to commit. */
        return mount(ROOT_DISK, "/mnt/memory", "ext4", MS_NOATIME, "commit=2") < 0 &&
                       mount(ROOT_DISK, "/mnt/memory", "ext4", MS_NOATIME, NULL) < 0
                   ? error_errno(err, NULL, "mounting the bottle's disk")
                   : 0;
    }
    return mount("tmpfs", "/mnt/memory", "tmpfs", 0, "mode=0755,size=50%") < 0
               ? error_errno(err, NULL, "mounting memory for the writable layer")
               : 0;
}

static int layer_root(struct error *err)
{
    static const char *const directories[] = {"/mnt", "/mnt/lower", "/mnt/memory", "/mnt/root"};

    for (size_t i = 0; i < COUNT_OF(directories); i++)
        if (mkdir(directories[i], 0755) < 0 && errno != EEXIST)
            return error_errno(err, NULL, "making %s", directories[i]);
    if (mount("/dev/vda", "/mnt/lower", "erofs", MS_RDONLY, NULL) < 0)
        return error_errno(err, NULL, "mounting the bottle's image");
    if (mount_writable(err) < 0)
        return -1;
    writable = open("/mnt/memory", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if ((mkdir("/mnt/memory/upper", 0755) < 0 && errno != EEXIST) ||
        (mkdir("/mnt/memory/work", 0755) < 0 && errno != EEXIST))
        return error_errno(err, NULL, "making the writable layer");
    if (mount("overlay", "/mnt/root", "overlay", 0,
              "lowerdir=/mnt/lower,upperdir=/mnt/memory/upper,workdir=/mnt/memory/work") < 0)
        return error_errno(err, NULL, "laying the writable layer over the image");
    return 0;
}

/* The boot root can not be unmounted; the new one is moved over it. */
static int switch_root(struct error *err)
{
    static const char *const old[] = {"/dev", "/sys", "/proc"};

    for (size_t i = 0; i < COUNT_OF(old); i++)
        (void)umount2(old[i], MNT_DETACH); /* mounted anew in the new root */
    if (chdir("/mnt/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
        chdir("/") < 0)
        return error_errno(err, NULL, "changing to the bottle's root");
    return 0;
}

struct root_mount {
    const char *type, *where, *options;
    unsigned long flags;
    bool wanted; /* without it a command can not be expected to run */
};

static const struct root_mount root_mounts[] = {
    {"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true},
    {"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true},
    {"devtmpfs", "/dev", NULL, MS_NOSUID, true},
    {"devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC, false},
    {"tmpfs", "/dev/shm", "mode=1777,size=50%", MS_NOSUID | MS_NODEV, false},
    {"tmpfs", "/run", "mode=0755,size=25%", MS_NOSUID | MS_NODEV, false},
    {"cgroup2", "/sys/fs/cgroup", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, false},
};

static int mount_all(struct error *err)
{
    for (size_t i = 0; i < COUNT_OF(root_mounts); i++) {
        const struct root_mount *row = &root_mounts[i];
        (void)mkdir(row->where, 0755);
        if (mount(row->type, row->where, row->type, row->flags, row->options) < 0 && row->wanted)
            return error_errno(err, NULL, "mounting %s in the bottle's root", row->where);
    }
    return 0;
}

/* What devtmpfs leaves to user space. */
static void link_devices(void)
{
    static const char *const links[][2] = {
        {"/proc/self/fd", "/dev/fd"},
        {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"},
        {"/proc/self/fd/2", "/dev/stderr"},
    };

    for (size_t i = 0; i < COUNT_OF(links); i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            return; /* /dev was mounted, so there is no such fault; and a command may do without */
}

int root_enter(struct error *err)
{
    if (layer_root(err) < 0 || switch_root(err) < 0 || mount_all(err) < 0)
        return -1;
    link_devices();
    if (mkdir("/tmp", 01777) == 0 && chmod("/tmp", 01777) < 0)
        return error_errno(err, NULL, "making /tmp");
    return 0;
}

static int put_file(int etc, const char *name, const char *text, size_t length, struct error *err)
{
    /* The image may have a link or a directory there; a new file takes its place. */
    if (unlinkat(etc, name, 0) < 0 && errno == EISDIR)
        (void)unlinkat(etc, name, AT_REMOVEDIR);
    CLEANUP_CLOSE int fd =
        openat(etc, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, length) != (ssize_t)length)
        return error_errno(err, NULL, "writing /etc/%s", name);
    return 0;
}

int root_files(const char *hostname, const char *address, const char *gateway, struct error *err)
{
    char text[3][ETC_FILE_MAX];
    static const char *const names[3] = {"hostname", "hosts", "resolv.conf"};
    const int lengths[3] = {
        snprintf(text[0], ETC_FILE_MAX, "%s\n", hostname),
        snprintf(text[1], ETC_FILE_MAX, "127.0.0.1 localhost\n%.*s %s\n",
                 (int)strcspn(address, "/"), address, hostname),
        snprintf(text[2], ETC_FILE_MAX, "nameserver %s\noptions timeout:2 attempts:2\n", gateway),
    };

    (void)mkdir("/etc", 0755);
    CLEANUP_CLOSE int etc = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (etc < 0)
        return error_errno(err, NULL, "opening /etc");
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (lengths[i] < 0 || lengths[i] >= ETC_FILE_MAX)
            return error_set(err, NULL, "the text of /etc/%s is too long", names[i]);
        if (put_file(etc, names[i], text[i], (size_t)lengths[i], err) < 0)
            return -1;
    }
    return 0;
}

int root_make_directory(const char *path)
{
    char part[PATH_MAX];
    size_t length = strlen(path);

    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        char kept = part[i];
        part[i] = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return -1;
        part[i] = kept;
    }
    return 0;
}

int root_mount_shared(const struct start_message *start, struct error *err)
{
    for (size_t i = 0; i < start->n_mounts; i++) {
        const struct start_mount *row = &start->mounts[i];
        unsigned long flags = MS_NOSUID | MS_NODEV;
        if (row->flags & MOUNT_READ_ONLY)
            flags |= MS_RDONLY;
        if (root_make_directory(row->target) < 0)
            return error_errno(err, NULL, "making %.300s for a mount", row->target);
        if (mount(row->tag, row->target, "virtiofs", flags, NULL) < 0)
            return error_errno(err, NULL, "mounting the host's directory at %.300s", row->target);
    }
    return 0;
}
