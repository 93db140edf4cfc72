#include "shim/filter.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"

/* EPERM rather than a kill: gvproxy answers such an API call with 500 and goes on. Calls that an
 * architecture does not have are left out by libseccomp. chmod and chown are here since the run
 * directory is shared with the VM's jail. */
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

int filter_open(struct error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int result = filter ? 0 : -ENOMEM;

    CLEANUP_CLOSE int fd = memfd_create("seccomp", MFD_CLOEXEC);
    for (size_t i = 0; result == 0 && i < COUNT_OF(denied); i++)
        result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), denied[i], 0);
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
