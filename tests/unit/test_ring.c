/* The second ring: what the seccomp filters take, and what bottle-cell takes for a way out. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "shim/filter.h"
#include "shim/lonely.h"

/* ── filters ── */

/* What a child under the filter gets for a call: its errno, 0 for none, -1 when it was killed. */
static int under_filter(enum filter_kind kind, long call, long a, long b, long c)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (filter_load(kind, NULL) < 0)
            _exit(255);
        _exit(syscall(call, a, b, c, 0, 0, 0) < 0 ? errno : 0);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(filter, takes_from_every_program)
{
    static const struct {
        long call, a, b, c;
        int answer;
    } rows[] = {
        {SYS_unshare, CLONE_NEWUSER, 0, 0, EPERM},
        {SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, EPERM},
        {SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, EPERM},
        {SYS_clone3, 0, 0, 0, ENOSYS},
        {SYS_setns, -1, 0, 0, EPERM},
        {SYS_mount, 0, 0, 0, EPERM},
        {SYS_ptrace, 0, 0, 0, EPERM},
        {SYS_process_vm_readv, 0, 0, 0, EPERM},
        {SYS_bpf, 0, 0, 0, EPERM},
        {SYS_keyctl, 0, 0, 0, EPERM},
        {SYS_io_uring_setup, 1, 0, 0, EPERM},
        {SYS_userfaultfd, 0, 0, 0, EPERM},
        {SYS_perf_event_open, 0, 0, 0, EPERM},
        {SYS_kexec_load, 0, 0, 0, EPERM},
        {SYS_finit_module, -1, 0, 0, EPERM},
        {SYS_mknodat, AT_FDCWD, (long)"/nonexistent/x", S_IFCHR | 0600, EPERM},
    };

    for (size_t kind = 0; kind < N_FILTERS; kind++)
        for (size_t i = 0; i < COUNT_OF(rows); i++)
            cr_expect_eq(under_filter(kind, rows[i].call, rows[i].a, rows[i].b, rows[i].c),
                         rows[i].answer, "kind %zu, row %zu", kind, i);
}

enum { MACHINES_OF_KRUN = 1U << FILTER_KRUN | 1U << FILTER_KRUN_FS };

Test(filter, leaves_each_its_socket_families)
{
    static const struct {
        int family;
        unsigned kinds;
    } rows[] = {
        {AF_UNIX, ~(MACHINES_OF_KRUN | 1U << FILTER_FS | 1U << FILTER_PROXY)},
        {AF_INET, ~(MACHINES_OF_KRUN | 1U << FILTER_FS | 1U << FILTER_VM | 1U << FILTER_VM_FS)},
        {AF_INET6, 1U << FILTER_PROXY | 1U << FILTER_SIDECAR},
        {AF_NETLINK, 1U << FILTER_CELL | 1U << FILTER_PROXY | 1U << FILTER_SIDECAR},
        {AF_PACKET, 0},
        {AF_ALG, 0},
        {AF_VSOCK, 0},
        {AF_BLUETOOTH, 0},
        {200, 0},
    };

    for (size_t kind = 0; kind < N_FILTERS; kind++)
        for (size_t i = 0; i < COUNT_OF(rows); i++) {
            int got = under_filter(kind, SYS_socket, rows[i].family, SOCK_DGRAM, 0);
            if (rows[i].kinds & 1U << kind)
                cr_expect_eq(got, 0, "kind %zu, family %d: %d", kind, rows[i].family, got);
            else
                cr_expect_eq(got, MACHINES_OF_KRUN & 1U << kind ? EPERM : EAFNOSUPPORT,
                             "kind %zu, family %d: %d", kind, rows[i].family, got);
        }
    /* the kernel looks at 32 bits only, a filter at all */
    cr_expect_eq(under_filter(FILTER_GVPROXY, SYS_socket, AF_NETLINK | 1L << 40, SOCK_RAW, 0),
                 EAFNOSUPPORT);
}

Test(filter, gvproxy_makes_no_file_and_no_process)
{
    cr_expect_eq(under_filter(FILTER_GVPROXY, SYS_fork, 0, 0, 0), EPERM);
    cr_expect_eq(under_filter(FILTER_GVPROXY, SYS_clone, SIGCHLD, 0, 0), EPERM);
    cr_expect_eq(under_filter(FILTER_GVPROXY, SYS_openat, AT_FDCWD, (long)"x", O_CREAT), EPERM);
    cr_expect_eq(under_filter(FILTER_GVPROXY, SYS_openat, AT_FDCWD, (long)".", O_TMPFILE), EPERM);
    cr_expect_eq(under_filter(FILTER_GVPROXY, SYS_openat, AT_FDCWD, (long)".", 0), 0);
    cr_expect_eq(under_filter(FILTER_GVPROXY, SYS_unlink, (long)"x", 0, 0), EPERM);
    cr_expect_eq(under_filter(FILTER_VM, SYS_unlink, (long)"/nonexistent", 0, 0), ENOENT);
}

Test(filter, is_a_whole_program)
{
    for (size_t kind = 0; kind < N_FILTERS; kind++) {
        struct error err = ERROR_INIT;
        struct stat status;
        int fd = filter_open(kind, &err);
        cr_assert_geq(fd, 0, "%s", err.text);
        cr_assert_eq(fstat(fd, &status), 0);
        cr_expect_gt(status.st_size, 64);
        cr_expect_lt(status.st_size, (off_t)8 * BPF_MAXINSNS);
        cr_expect_eq(status.st_size % 8, 0); /* struct sock_filter */
        cr_expect_eq(lseek(fd, 0, SEEK_CUR), 0);
        (void)close(fd);
    }
}

/* ── the cell's network ── */

static bool leads_out(const void *message, char *words, size_t size)
{
    words[0] = '\0';
    return lonely_message_leads_out(message, words, size);
}

Test(lonely, links)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg link;
        struct rtattr attribute;
        char name[8];
    } message = {{sizeof message, RTM_NEWLINK, 0, 0, 0},
                 {AF_UNSPEC, 0, 0, 1, IFF_UP | IFF_LOOPBACK, 0},
                 {RTA_LENGTH(8), IFLA_IFNAME},
                 "eth7"};
    char words[128];

    cr_expect_not(leads_out(&message, words, sizeof words));
    message.link = (struct ifinfomsg){AF_UNSPEC, 0, 0, 2, 0, 0};
    cr_expect_not(leads_out(&message, words, sizeof words), "a link that is down");
    message.link.ifi_flags = IFF_UP;
    cr_expect(leads_out(&message, words, sizeof words));
    cr_expect_str_eq(words, "the network interface eth7 is up");
    message.link.ifi_flags = IFF_UP | IFF_LOOPBACK;
    cr_expect(leads_out(&message, words, sizeof words), "a second one that says it is loopback");
    message.header.nlmsg_type = RTM_NEWADDR;
    cr_expect(leads_out(&message, words, sizeof words), "an unknown kind");
}

Test(lonely, routes)
{
    struct {
        struct nlmsghdr header;
        struct rtmsg route;
        struct rtattr to;
        uint8_t address[4];
        struct rtattr device;
        int index;
    } message = {{sizeof message, RTM_NEWROUTE, 0, 0, 0},
                 {AF_INET, 8, 0, 0, RT_TABLE_LOCAL, 0, 0, RTN_LOCAL, 0},
                 {RTA_LENGTH(4), RTA_DST},
                 {127, 0, 0, 0},
                 {RTA_LENGTH(4), RTA_OIF},
                 1};
    char words[128];

    cr_expect_not(leads_out(&message, words, sizeof words));
    message.index = 2;
    cr_expect(leads_out(&message, words, sizeof words), "over another interface");
    message.index = 1;
    message.route.rtm_dst_len = 0;
    cr_expect(leads_out(&message, words, sizeof words), "everything is local");
    message.route.rtm_type = RTN_UNREACHABLE;
    cr_expect_not(leads_out(&message, words, sizeof words));
    message.route.rtm_type = RTN_LOCAL;
    message.route.rtm_dst_len = 32;
    message.address[0] = 10;
    cr_expect(leads_out(&message, words, sizeof words), "another address of lo's");
    cr_expect_str_eq(words, "a route leads to 10.0.0.0/32 over interface number 1");
}
