/* bottle-cell OUT FILTER PORT… -- PROGRAM ARGUMENT…
 *
 * Runs inside gvproxy's cell, before it: makes sure that nothing leads out of the cell's network,
 * listens on 127.0.0.1:PORT for each port forward, passes the listeners out over the Unix socket
 * OUT (SCM_RIGHTS, in the order of the ports, in one message), and becomes PROGRAM under the
 * seccomp filter (BPF) that the file FILTER holds. What gvproxy then dials can land on these
 * listeners or nowhere. Static, so that the cell needs no library.
 *
 * Built with TEST_OPEN_CELL it does not look, and where the port is a canary's already it listens
 * on another one: only tests have that (shim/jail.h). */
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/number.h"
#include "shim/lonely.h"

enum { LISTENERS_MAX = 8, BACKLOG = 256 };

static int bind_loopback(int fd, uint16_t port)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int result = bind(fd, (const struct sockaddr *)&address, sizeof address);

#ifdef TEST_OPEN_CELL
    if (result < 0 && port)
        return bind_loopback(fd, 0);
#endif
    return result;
}

static int listen_on(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind_loopback(fd, port) < 0 || listen(fd, BACKLOG) < 0)
        return -1;
    return fd;
}

/* -1 with words on stderr where gvproxy must not run. */
static int check_network(void)
{
#ifndef TEST_OPEN_CELL
    struct error err = ERROR_INIT;

    if (lonely_check(&err) < 0) {
        (void)fprintf(stderr, "bottle-cell: this is no cell, gvproxy does not run here: %s\n",
                      err.text);
        return -1;
    }
#endif
    return 0;
}

static int pass_out(int socket_fd, const int *fds, size_t count)
{
    char control[CMSG_SPACE(LISTENERS_MAX * sizeof(int))] = {0}, byte = 'L';
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

    if (count > 0) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    }
    return sendmsg(socket_fd, &message, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

static int enter_filter(int fd)
{
#ifndef TEST_OPEN_CELL
    static struct sock_filter steps[BPF_MAXINSNS];
    ssize_t got = read(fd, steps, sizeof steps);
    const struct sock_fprog program = {.len = (unsigned short)(got / (ssize_t)sizeof steps[0]),
                                       .filter = steps};

    if (got <= 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        return -1;
#endif
    (void)close(fd);
    return 0;
}

int main(int argc, char **argv)
{
    int listeners[LISTENERS_MAX];
    size_t count = 0;
    int64_t out, filter, port;
    int i = 3;

    if (argc < 5 || number_parse(argv[1], 3, 255, &out) < 0 ||
        number_parse(argv[2], 3, 255, &filter) < 0) {
        (void)fprintf(stderr, "usage: bottle-cell OUT FILTER PORT... -- PROGRAM ARGUMENT...\n");
        return 2;
    }
    if (check_network() < 0)
        return 1;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (count == LISTENERS_MAX || number_parse(argv[i], 1, 65535, &port) < 0) {
            (void)fprintf(stderr, "bottle-cell: bad port: %s\n", argv[i]);
            return 2;
        }
        listeners[count] = listen_on((uint16_t)port);
        if (listeners[count++] < 0) {
            perror("bottle-cell: listening");
            return 1;
        }
    }
    if (i + 1 >= argc || pass_out((int)out, listeners, count) < 0) {
        perror("bottle-cell: passing the listeners out");
        return 1;
    }
    (void)close((int)out);
    if (enter_filter((int)filter) < 0) {
        perror("bottle-cell: the filter");
        return 1;
    }
    (void)execv(argv[i + 1], argv + i + 1);
    perror("bottle-cell: exec");
    return 1;
}
