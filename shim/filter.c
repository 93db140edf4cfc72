#include "shim/filter.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"

#define FCHMODAT2 452 /* on every architecture; older headers lack it */
#define KIND(name) (1U << FILTER_##name)

enum {
    EVERY = (1U << N_FILTERS) - 1,
    GVPROXY = KIND(GVPROXY) | KIND(CELL),
    KRUNS = KIND(KRUN) | KIND(KRUN_FS),
    MACHINES = KIND(VM) | KIND(VM_FS) | KRUNS,
    FILELESS = KIND(VM) | KIND(KRUN), /* machines that serve no directory */
    SERVERS = KIND(VM_FS) | KIND(KRUN_FS) | KIND(FS),
    FAMILY_LAST = 63, /* above all that Linux has */
    FAMILIES_MAX = 4,
};

/* Calls that an architecture does not have are left out by libseccomp. */
static const struct {
    int call;
    unsigned kinds;
} denied[] = {
    /* other processes */
    {SCMP_SYS(ptrace), EVERY},
    {SCMP_SYS(process_vm_readv), EVERY},
    {SCMP_SYS(process_vm_writev), EVERY},
    {SCMP_SYS(process_madvise), EVERY},
    {SCMP_SYS(pidfd_getfd), EVERY},
    {SCMP_SYS(kcmp), EVERY},
    /* namespaces and mounts (clone: below) */
    {SCMP_SYS(unshare), EVERY & ~SERVERS},
    {SCMP_SYS(setns), EVERY},
    {SCMP_SYS(mount), EVERY},
    {SCMP_SYS(umount2), EVERY},
    {SCMP_SYS(pivot_root), EVERY},
    {SCMP_SYS(chroot), EVERY & ~KIND(FS)},
    {SCMP_SYS(open_tree), EVERY},
    {SCMP_SYS(fsopen), EVERY},
    {SCMP_SYS(fsconfig), EVERY},
    {SCMP_SYS(fsmount), EVERY},
    {SCMP_SYS(fspick), EVERY},
    {SCMP_SYS(move_mount), EVERY},
    {SCMP_SYS(mount_setattr), EVERY},
    {SCMP_SYS(open_by_handle_at), EVERY},
    {SCMP_SYS(quotactl), EVERY},
    {SCMP_SYS(quotactl_fd), EVERY},
    /* large parts of the kernel that none of them uses */
    {SCMP_SYS(bpf), EVERY},
    {SCMP_SYS(perf_event_open), EVERY},
    {SCMP_SYS(userfaultfd), EVERY},
    {SCMP_SYS(io_uring_setup), EVERY},
    {SCMP_SYS(io_uring_enter), EVERY},
    {SCMP_SYS(io_uring_register), EVERY},
    {SCMP_SYS(keyctl), EVERY},
    {SCMP_SYS(add_key), EVERY},
    {SCMP_SYS(request_key), EVERY},
    {SCMP_SYS(fanotify_init), EVERY},
    {SCMP_SYS(lookup_dcookie), EVERY},
    {SCMP_SYS(personality), MACHINES | GVPROXY},
    /* the machine */
    {SCMP_SYS(kexec_load), EVERY},
    {SCMP_SYS(kexec_file_load), EVERY},
    {SCMP_SYS(init_module), EVERY},
    {SCMP_SYS(finit_module), EVERY},
    {SCMP_SYS(delete_module), EVERY},
    {SCMP_SYS(reboot), EVERY},
    {SCMP_SYS(swapon), EVERY},
    {SCMP_SYS(swapoff), EVERY},
    {SCMP_SYS(acct), EVERY},
    {SCMP_SYS(syslog), EVERY},
    {SCMP_SYS(settimeofday), EVERY},
    {SCMP_SYS(clock_settime), EVERY},
    {SCMP_SYS(sethostname), EVERY},
    {SCMP_SYS(setdomainname), EVERY},
    {SCMP_SYS(iopl), EVERY},
    {SCMP_SYS(ioperm), EVERY},
    {SCMP_SYS(vhangup), EVERY},
    /* The run directory. A guest that uses gvproxy's unauthenticated API, or owns its process,
     * can't put anything in the place of a socket that others use, nor fill the directory. */
    {SCMP_SYS(unlink), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(unlinkat), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(rmdir), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(rename), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(renameat), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(renameat2), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(link), GVPROXY | FILELESS},
    {SCMP_SYS(linkat), GVPROXY | FILELESS},
    {SCMP_SYS(symlink), GVPROXY | FILELESS},
    {SCMP_SYS(symlinkat), GVPROXY | FILELESS},
    {SCMP_SYS(mkdir), GVPROXY},
    {SCMP_SYS(mkdirat), GVPROXY},
    {SCMP_SYS(mknod), GVPROXY | FILELESS},
    {SCMP_SYS(mknodat), GVPROXY | FILELESS},
    {SCMP_SYS(creat), GVPROXY},
    {SCMP_SYS(truncate), GVPROXY},
    {SCMP_SYS(chmod), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(fchmodat), GVPROXY | KIND(KRUN)},
    {FCHMODAT2, GVPROXY | KIND(KRUN)},
    {SCMP_SYS(chown), GVPROXY | FILELESS},
    {SCMP_SYS(lchown), GVPROXY | FILELESS},
    {SCMP_SYS(fchownat), GVPROXY | FILELESS},
    {SCMP_SYS(setxattr), GVPROXY},
    /* other programs */
    {SCMP_SYS(fork), KIND(GVPROXY) | KRUNS},
    {SCMP_SYS(vfork), KIND(GVPROXY) | KRUNS},
    {SCMP_SYS(execveat), GVPROXY | MACHINES | KIND(FS)},
    {SCMP_SYS(execve), KRUNS},
    /* identity */
    {SCMP_SYS(setuid), GVPROXY | KRUNS},
    {SCMP_SYS(setgid), GVPROXY | KRUNS},
    {SCMP_SYS(setreuid), GVPROXY | KRUNS},
    {SCMP_SYS(setregid), GVPROXY | KRUNS},
    {SCMP_SYS(setgroups), GVPROXY | KIND(KRUN)},
    /* a machine that runs makes no connection */
    {SCMP_SYS(socket), KRUNS},
    {SCMP_SYS(socketpair), KRUNS},
    {SCMP_SYS(bind), KRUNS},
    {SCMP_SYS(listen), KRUNS},
};

/* Calls that do nothing and say that they did. Who serves a directory would make a file as the
 * guest's user that asked for it, and give it away when told to; here all that it makes is its
 * own, which outside of the jail is the directory's owner. */
static const struct {
    int call;
    unsigned kinds;
} ignored[] = {
    {SCMP_SYS(setresuid), SERVERS}, {SCMP_SYS(setresgid), SERVERS}, {SCMP_SYS(setgroups), SERVERS},
    {SCMP_SYS(chown), SERVERS},     {SCMP_SYS(lchown), SERVERS},    {SCMP_SYS(fchown), SERVERS},
    {SCMP_SYS(fchownat), SERVERS},
};

/* A filter can't read what these are given; told that there is none, callers take the older call
 * (clone, openat), which it can read. */
static const struct {
    int call;
    unsigned kinds;
} absent[] = {
    {SCMP_SYS(clone3), EVERY},
    {SCMP_SYS(openat2), GVPROXY},
    /* A guest's attributes are no business of the host's. */
    {SCMP_SYS(setxattr), SERVERS},
    {SCMP_SYS(lsetxattr), SERVERS},
    {SCMP_SYS(fsetxattr), SERVERS},
    {SCMP_SYS(removexattr), SERVERS},
    {SCMP_SYS(lremovexattr), SERVERS},
    {SCMP_SYS(fremovexattr), SERVERS},
};

/* Calls that are denied by the bits of one argument. */
static const struct {
    int call;
    unsigned argument;
    uint64_t mask, value;
    unsigned kinds;
} masked[] = {
    {SCMP_SYS(clone), 0, CLONE_NEWUSER, CLONE_NEWUSER, EVERY},
    {SCMP_SYS(clone), 0, CLONE_NEWNS, CLONE_NEWNS, EVERY},
    {SCMP_SYS(clone), 0, CLONE_NEWPID, CLONE_NEWPID, EVERY},
    {SCMP_SYS(clone), 0, CLONE_NEWNET, CLONE_NEWNET, EVERY},
    {SCMP_SYS(clone), 0, CLONE_NEWIPC, CLONE_NEWIPC, EVERY},
    {SCMP_SYS(clone), 0, CLONE_NEWUTS, CLONE_NEWUTS, EVERY},
    {SCMP_SYS(clone), 0, CLONE_NEWCGROUP, CLONE_NEWCGROUP, EVERY},
    /* threads only */
    {SCMP_SYS(clone), 0, CLONE_THREAD, 0, KIND(GVPROXY) | KRUNS},
    /* no new files */
    {SCMP_SYS(open), 1, O_CREAT, O_CREAT, GVPROXY},
    {SCMP_SYS(openat), 2, O_CREAT, O_CREAT, GVPROXY},
    {SCMP_SYS(openat), 2, O_TMPFILE & ~O_DIRECTORY, O_TMPFILE & ~O_DIRECTORY, GVPROXY},
    /* no program of a guest's that the host would run as the directory's owner */
    {SCMP_SYS(chmod), 1, S_ISUID, S_ISUID, SERVERS},
    {SCMP_SYS(chmod), 1, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(fchmod), 1, S_ISUID, S_ISUID, SERVERS},
    {SCMP_SYS(fchmod), 1, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(fchmodat), 2, S_ISUID, S_ISUID, SERVERS},
    {SCMP_SYS(fchmodat), 2, S_ISGID, S_ISGID, SERVERS},
    {FCHMODAT2, 2, S_ISUID, S_ISUID, SERVERS},
    {FCHMODAT2, 2, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(creat), 1, S_ISUID, S_ISUID, SERVERS},
    {SCMP_SYS(creat), 1, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(open), 2, S_ISUID, S_ISUID, SERVERS},
    {SCMP_SYS(open), 2, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(openat), 3, S_ISUID, S_ISUID, SERVERS},
    {SCMP_SYS(openat), 3, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(mkdir), 1, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(mkdirat), 2, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(mknod), 1, S_ISUID, S_ISUID, SERVERS},
    {SCMP_SYS(mknod), 1, S_ISGID, S_ISGID, SERVERS},
    {SCMP_SYS(mknodat), 2, S_ISUID, S_ISUID, SERVERS},
    {SCMP_SYS(mknodat), 2, S_ISGID, S_ISGID, SERVERS},
    /* no namespaces, but a working directory for each thread */
    {SCMP_SYS(unshare), 0, CLONE_NEWUSER, CLONE_NEWUSER, SERVERS},
    {SCMP_SYS(unshare), 0, CLONE_NEWNS, CLONE_NEWNS, SERVERS},
    {SCMP_SYS(unshare), 0, CLONE_NEWPID, CLONE_NEWPID, SERVERS},
    {SCMP_SYS(unshare), 0, CLONE_NEWNET, CLONE_NEWNET, SERVERS},
    {SCMP_SYS(unshare), 0, CLONE_NEWIPC, CLONE_NEWIPC, SERVERS},
    {SCMP_SYS(unshare), 0, CLONE_NEWUTS, CLONE_NEWUTS, SERVERS},
    {SCMP_SYS(unshare), 0, CLONE_NEWCGROUP, CLONE_NEWCGROUP, SERVERS},
    /* no devices */
    {SCMP_SYS(mknod), 1, S_IFMT, S_IFCHR, EVERY},
    {SCMP_SYS(mknod), 1, S_IFMT, S_IFBLK, EVERY},
    {SCMP_SYS(mknodat), 2, S_IFMT, S_IFCHR, EVERY},
    {SCMP_SYS(mknodat), 2, S_IFMT, S_IFBLK, EVERY},
};

/* The socket families of each; AF_UNSPEC (0) fills up. */
static const int families[N_FILTERS][FAMILIES_MAX] = {
    [FILTER_CELL] = {AF_INET, AF_UNIX, AF_NETLINK},
    [FILTER_GVPROXY] = {AF_INET, AF_UNIX},
    [FILTER_VM] = {AF_UNIX},
    [FILTER_VM_FS] = {AF_UNIX},
    [FILTER_KRUN] = {0},
    [FILTER_KRUN_FS] = {0},
    [FILTER_FS] = {0},
    /* no Unix sockets: it is in the host's network, and so are the host's abstract ones */
    [FILTER_PROXY] = {AF_INET, AF_INET6, AF_NETLINK},
    [FILTER_SIDECAR] = {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK},
};

static bool family_is_given(enum filter_kind kind, int family)
{
    for (size_t i = 0; i < FAMILIES_MAX; i++)
        if (family != AF_UNSPEC && families[kind][i] == family)
            return true;
    return false;
}

/* One rule for each family that is not given, and one for all numbers above: a filter joins the
 * comparisons of a rule by "and". The number is compared with all 64 bits of the register. */
static int deny_families(scmp_filter_ctx filter, enum filter_kind kind)
{
    int result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                  SCMP_A0(SCMP_CMP_GT, FAMILY_LAST, 0));

    for (int family = 0; result == 0 && family <= FAMILY_LAST; family++)
        if (!family_is_given(kind, family))
            result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                                      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)family, 0));
    return result;
}

static int add_rules(scmp_filter_ctx filter, enum filter_kind kind)
{
    unsigned bit = 1U << kind;
    int result = 0;

    for (size_t i = 0; result == 0 && i < COUNT_OF(denied); i++)
        if (denied[i].kinds & bit)
            result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), denied[i].call, 0);
    for (size_t i = 0; result == 0 && i < COUNT_OF(ignored); i++)
        if (ignored[i].kinds & bit)
            result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(0), ignored[i].call, 0);
    for (size_t i = 0; result == 0 && i < COUNT_OF(absent); i++)
        if (absent[i].kinds & bit)
            result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), absent[i].call, 0);
    for (size_t i = 0; result == 0 && i < COUNT_OF(masked); i++)
        if (masked[i].kinds & bit)
            result = seccomp_rule_add(
                filter, SCMP_ACT_ERRNO(EPERM), masked[i].call, 1,
                SCMP_CMP(masked[i].argument, SCMP_CMP_MASKED_EQ, masked[i].mask, masked[i].value));
    if (result == 0 && !(KRUNS & bit))
        result = deny_families(filter, kind);
    return result;
}

/* The rules of a kind; NULL with errno. */
static scmp_filter_ctx make(enum filter_kind kind)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int result = filter ? add_rules(filter, kind) : -ENOMEM;

    if (result < 0) {
        seccomp_release(filter);
        errno = -result;
        return NULL;
    }
    return filter;
}

int filter_load(enum filter_kind kind, struct error *err)
{
    scmp_filter_ctx filter = make(kind);
    int result = filter ? seccomp_load(filter) : -errno;

    seccomp_release(filter);
    if (result < 0) {
        errno = -result;
        return error_errno(err, NULL, "loading a seccomp filter");
    }
    return 0;
}

int filter_open(enum filter_kind kind, struct error *err)
{
    CLEANUP_CLOSE int fd = memfd_create("seccomp", MFD_CLOEXEC);
    scmp_filter_ctx filter = make(kind);
    int result = filter ? 0 : -errno;

    if (result == 0)
        result = fd < 0 ? -errno : seccomp_export_bpf(filter, fd);
    if (result == 0 && lseek(fd, 0, SEEK_SET) < 0)
        result = -errno;
    seccomp_release(filter);
    if (result < 0) {
        errno = -result;
        return error_errno(err, NULL, "making a seccomp filter");
    }
    return steal_fd(&fd);
}
