/* What root of a guest tries against a directory of the host that is mounted read-only.
 *
 *   mount-attacker DIRECTORY TAG OTHER
 *
 * DIRECTORY holds `file` and `folder`; OTHER is a writable mount that holds `mine`. Each attempt is
 * answered by a line, "ROUND NAME<TAB>OK" where it succeeded, or "…<TAB>NO" and why it did not. The
 * rounds: as it is mounted, remounted as writable, bound elsewhere, mounted once more, and mounted
 * anew after it was unmounted. Static: a guest's image may hold nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *round_name;
static int here, other;

static void say(const char *name, bool done)
{
    if (done)
        (void)printf("%s %s\tOK\n", round_name, name);
    else
        (void)printf("%s %s\tNO %s\n", round_name, name, strerror(errno));
}

static void try_open(const char *name, const char *path, int flags)
{
    int fd = openat(here, path, flags | O_CLOEXEC, 0666);

    say(name, fd >= 0);
    if (fd >= 0)
        (void)close(fd);
}

static void try_open_file(void)
{
    int fd = openat(here, "file", O_RDONLY | O_CLOEXEC), mine = openat(other, "mine", O_RDONLY);
    char path[64];
    off_t offset = 0;
    int flags = FS_IMMUTABLE_FL;
    struct fsxattr attributes = {.fsx_xflags = FS_XFLAG_NODUMP};

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    say("write", write(fd, "x", 1) == 1);
    say("ftruncate", ftruncate(fd, 0) == 0);
    say("fallocate", fallocate(fd, 0, 0, 4096) == 0);
    say("punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4) == 0);
    say("fchmod", fchmod(fd, 0777) == 0);
    say("fchown", fchown(fd, 7, 7) == 0);
    say("futimens", futimens(fd, NULL) == 0);
    say("fsetxattr", fsetxattr(fd, "user.x", "y", 1, 0) == 0);
    say("setflags", ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0);
    say("fssetxattr", ioctl(fd, FS_IOC_FSSETXATTR, &attributes) == 0);
    say("copy-range", copy_file_range(mine, NULL, fd, &offset, 4, 0) > 0);
    say("sendfile", sendfile(fd, mine, &offset, 4) > 0);
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    say("map", map != MAP_FAILED);
    map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    say("map-later", map == MAP_FAILED || mprotect(map, 4096, PROT_READ | PROT_WRITE) == 0);
    int again = open(path, O_WRONLY | O_CLOEXEC);
    say("reopen", again >= 0);
    say("link-open", linkat(AT_FDCWD, path, here, "linked-open", AT_SYMLINK_FOLLOW) == 0);
    (void)close(again);
    (void)close(mine);
    (void)close(fd);
}

static void try_names(void)
{
    say("creat", openat(here, "new", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) >= 0);
    say("mkdir", mkdirat(here, "new-folder", 0777) == 0);
    say("fifo", mknodat(here, "new-fifo", S_IFIFO | 0666, 0) == 0);
    say("device", mknodat(here, "new-device", S_IFBLK | 0666, 0x800) == 0);
    say("symlink", symlinkat("/etc", here, "new-link") == 0);
    say("link", linkat(here, "file", here, "linked", 0) == 0);
    say("link-in", linkat(other, "mine", here, "linked-in", 0) == 0);
    say("link-out", linkat(here, "file", other, "linked-out", 0) == 0);
    say("rename", renameat(here, "file", here, "renamed") == 0);
    say("rename-in", renameat(other, "mine", here, "renamed-in") == 0);
    say("rename-over", renameat2(here, "file", here, "folder", RENAME_EXCHANGE) == 0);
    say("unlink", unlinkat(here, "file", 0) == 0);
    say("rmdir", unlinkat(here, "folder", AT_REMOVEDIR) == 0);
    say("chmod", fchmodat(here, "file", 0777, 0) == 0);
    say("chown", fchownat(here, "file", 7, 7, 0) == 0);
    say("utimes", utimensat(here, "file", NULL, 0) == 0);
    try_open("write-only", "file", O_WRONLY);
    try_open("truncate", "file", O_WRONLY | O_TRUNC);
    try_open("read-truncate", "file", O_RDONLY | O_TRUNC);
    try_open("append", "file", O_RDWR | O_APPEND);
    try_open("direct", "file", O_RDWR | O_DIRECT);
    try_open("tmpfile", ".", O_RDWR | O_TMPFILE);
}

static void round_at(const char *name, const char *path)
{
    round_name = name;
    here = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (here < 0) {
        say("open", false);
        return;
    }
    try_names();
    try_open_file();
    say("truncate-path", fchdir(here) == 0 && truncate("file", 0) == 0);
    say("leave", chdir("/") < 0); /* or it could not be unmounted */
    (void)close(here);
}

int main(int argc, char **argv)
{
    static const char *const spare[] = {"/tmp/bound", "/tmp/again"};

    if (argc != 4 || (other = open(argv[3], O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
        (void)fprintf(stderr, "usage: mount-attacker DIRECTORY TAG OTHER\n");
        return 2;
    }
    (void)mkdir("/tmp", 0777);
    for (size_t i = 0; i < sizeof spare / sizeof *spare; i++)
        (void)mkdir(spare[i], 0777);
    round_at("mounted", argv[1]);
    (void)mount(NULL, argv[1], NULL, MS_REMOUNT, NULL);
    round_at("remounted", argv[1]);
    (void)mount(argv[1], spare[0], NULL, MS_BIND, NULL);
    (void)mount(NULL, spare[0], NULL, MS_REMOUNT | MS_BIND, NULL);
    round_at("bound", spare[0]);
    if (mount(argv[2], spare[1], "virtiofs", 0, NULL) == 0)
        round_at("again", spare[1]);
    (void)umount2(spare[1], 0);
    (void)umount2(spare[0], 0);
    (void)umount2(argv[1], 0);
    if (mount(argv[2], argv[1], "virtiofs", 0, NULL) == 0)
        round_at("anew", argv[1]);
    else
        (void)printf("anew mount\tNO %s\n", strerror(errno));
    return fflush(stdout) == 0 ? 0 : 1;
}
