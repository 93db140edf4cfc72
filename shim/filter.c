#include "shim/filter.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"

/* EPERM rather than a kill: gvproxy answers such an API call with 500 and goes on. Calls that an
 * architecture does not have are left out by libseccomp. */
static const int denied[] = {
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    SCMP_SYS(rmdir),
    SCMP_SYS(rename),
    SCMP_SYS(renameat),
    SCMP_SYS(renameat2),
    SCMP_SYS(link),
    SCMP_SYS(linkat),
    SCMP_SYS(symlink),
    SCMP_SYS(symlinkat),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(bpf),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(io_uring_setup),
};

/* Beyond those: libkrun has all its sockets and files when it enters, and starts only threads. */
static const int denied_to_vm[] = {
    SCMP_SYS(execve),       SCMP_SYS(execveat),        SCMP_SYS(fork),        SCMP_SYS(vfork),
    SCMP_SYS(socket),       SCMP_SYS(socketpair),      SCMP_SYS(bind),        SCMP_SYS(listen),
    SCMP_SYS(mknod),        SCMP_SYS(mknodat),         SCMP_SYS(chmod),       SCMP_SYS(fchmodat),
    SCMP_SYS(chown),        SCMP_SYS(fchownat),        SCMP_SYS(chroot),      SCMP_SYS(pivot_root),
    SCMP_SYS(setuid),       SCMP_SYS(setgid),          SCMP_SYS(setreuid),    SCMP_SYS(setregid),
    SCMP_SYS(setgroups),    SCMP_SYS(perf_event_open), SCMP_SYS(userfaultfd), SCMP_SYS(init_module),
    SCMP_SYS(finit_module), SCMP_SYS(kexec_load),
};

static int deny(scmp_filter_ctx filter, const int *calls, size_t count)
{
    int result = 0;

    for (size_t i = 0; result == 0 && i < count; i++)
        result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), calls[i], 0);
    return result;
}

int filter_vm_load(struct error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int result = filter ? deny(filter, denied, COUNT_OF(denied)) : -ENOMEM;

    if (result == 0)
        result = deny(filter, denied_to_vm, COUNT_OF(denied_to_vm));
    /* A filter can't read clone3's arguments; told that there is none, the C library takes clone.
     */
    if (result == 0)
        result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (result == 0)
        result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    if (result == 0)
        result = seccomp_load(filter);
    seccomp_release(filter);
    if (result < 0) {
        errno = -result;
        return error_errno(err, NULL, "loading the machine's seccomp filter");
    }
    return 0;
}

int filter_open(struct error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int result = filter ? 0 : -ENOMEM;

    CLEANUP_CLOSE int fd = memfd_create("seccomp", MFD_CLOEXEC);
    if (result == 0)
        result = deny(filter, denied, COUNT_OF(denied));
    if (result == 0)
        result = fd < 0 ? -errno : seccomp_export_bpf(filter, fd);
    if (result == 0 && lseek(fd, 0, SEEK_SET) < 0)
        result = -errno;
    seccomp_release(filter);
    if (result < 0) {
        errno = -result;
        return error_errno(err, NULL, "making the cell's seccomp filter");
    }
    return steal_fd(&fd);
}
