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
    MACHINES = KIND(VM) | KIND(KRUN),
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
    {SCMP_SYS(unshare), EVERY},
    {SCMP_SYS(setns), EVERY},
    {SCMP_SYS(mount), EVERY},
    {SCMP_SYS(umount2), EVERY},
    {SCMP_SYS(pivot_root), EVERY},
    {SCMP_SYS(chroot), EVERY},
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
    {SCMP_SYS(link), GVPROXY | MACHINES},
    {SCMP_SYS(linkat), GVPROXY | MACHINES},
    {SCMP_SYS(symlink), GVPROXY | MACHINES},
    {SCMP_SYS(symlinkat), GVPROXY | MACHINES},
    {SCMP_SYS(mkdir), GVPROXY},
    {SCMP_SYS(mkdirat), GVPROXY},
    {SCMP_SYS(mknod), GVPROXY | MACHINES},
    {SCMP_SYS(mknodat), GVPROXY | MACHINES},
    {SCMP_SYS(creat), GVPROXY},
    {SCMP_SYS(truncate), GVPROXY},
    {SCMP_SYS(chmod), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(fchmodat), GVPROXY | KIND(KRUN)},
    {FCHMODAT2, GVPROXY | KIND(KRUN)},
    {SCMP_SYS(chown), GVPROXY | MACHINES},
    {SCMP_SYS(lchown), GVPROXY | MACHINES},
    {SCMP_SYS(fchownat), GVPROXY | MACHINES},
    {SCMP_SYS(setxattr), GVPROXY},
    /* other programs */
    {SCMP_SYS(fork), KIND(GVPROXY) | KIND(KRUN)},
    {SCMP_SYS(vfork), KIND(GVPROXY) | KIND(KRUN)},
    {SCMP_SYS(execveat), GVPROXY | MACHINES},
    {SCMP_SYS(execve), KIND(KRUN)},
    /* identity */
    {SCMP_SYS(setuid), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(setgid), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(setreuid), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(setregid), GVPROXY | KIND(KRUN)},
    {SCMP_SYS(setgroups), GVPROXY | KIND(KRUN)},
    /* a machine that runs makes no connection */
    {SCMP_SYS(socket), KIND(KRUN)},
    {SCMP_SYS(socketpair), KIND(KRUN)},
    {SCMP_SYS(bind), KIND(KRUN)},
    {SCMP_SYS(listen), KIND(KRUN)},
};

/* A filter can't read what these are given; told that there is none, callers take the older call
 * (clone, openat), which it can read. */
static const struct {
    int call;
    unsigned kinds;
} absent[] = {
    {SCMP_SYS(clone3), EVERY},
    {SCMP_SYS(openat2), GVPROXY},
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
    {SCMP_SYS(clone), 0, CLONE_THREAD, 0, KIND(GVPROXY) | KIND(KRUN)},
    /* no new files */
    {SCMP_SYS(open), 1, O_CREAT, O_CREAT, GVPROXY},
    {SCMP_SYS(openat), 2, O_CREAT, O_CREAT, GVPROXY},
    {SCMP_SYS(openat), 2, O_TMPFILE & ~O_DIRECTORY, O_TMPFILE & ~O_DIRECTORY, GVPROXY},
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
    [FILTER_KRUN] = {0},
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
    for (size_t i = 0; result == 0 && i < COUNT_OF(absent); i++)
        if (absent[i].kinds & bit)
            result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), absent[i].call, 0);
    for (size_t i = 0; result == 0 && i < COUNT_OF(masked); i++)
        if (masked[i].kinds & bit)
            result = seccomp_rule_add(
                filter, SCMP_ACT_ERRNO(EPERM), masked[i].call, 1,
                SCMP_CMP(masked[i].argument, SCMP_CMP_MASKED_EQ, masked[i].mask, masked[i].value));
    if (result == 0 && kind != FILTER_KRUN)
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
