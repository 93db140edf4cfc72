#include "server/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/number.h"
#include "base/util.h"

enum { BACKLOG = 511 };

/* Makes way for our socket: 0 when nothing is at `path` any more. */
static int clear_way(const char *path, const struct sockaddr_un *address, struct error *err)
{
    struct stat status;

    if (lstat(path, &status) < 0)
        return errno == ENOENT ? 0 : error_errno(err, NULL, "socket %s", path);
    if (!S_ISSOCK(status.st_mode))
        return error_set(
            err, NULL,
            "socket %s: something else is there already; remove it or choose another path", path);
    CLEANUP_CLOSE int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return error_errno(err, NULL, "socket");
    if (connect(probe, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN)
        return error_set(err, NULL, "socket %s: another daemon answers there", path);
    if (errno != ECONNREFUSED)
        return error_errno(err, NULL, "socket %s", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return error_errno(err, NULL, "removing the stale socket %s", path);
    return 0;
}

int listen_unix(const char *path, ino_t *ret_inode, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;

    if (strlen(path) >= sizeof address.sun_path)
        return error_set(err, "socket-path-too-long", "socket %s: too long", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (clear_way(path, &address, err) < 0)
        return -1;
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* bind() gives the file the mode that the socket's inode has: there is no moment with another
     * one. */
    if (fd < 0 || fchmod(fd, 0600) < 0)
        return error_errno(err, NULL, "socket");
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 ||
        listen(fd, BACKLOG) < 0 || lstat(path, &status) < 0)
        return error_errno(err, NULL, "socket %s", path);
    *ret_inode = status.st_ino;
    return steal_fd(&fd);
}

void listen_unlink(const char *path, ino_t inode)
{
    struct stat status;

    if (lstat(path, &status) == 0 && S_ISSOCK(status.st_mode) && status.st_ino == inode)
        (void)unlink(path);
}

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The configuration has checked the form; what it let through is parsed here without being trusted
 * again. */
static socklen_t parse(const char *text, union address *ret)
{
    const char *colon = strrchr(text, ':');
    char host[64];
    int64_t port;

    *ret = (union address){0};
    if (!colon || (size_t)(colon - text) >= sizeof host ||
        number_parse(colon + 1, 0, 65535, &port) < 0)
        return 0;
    (void)snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    if (strcmp(host, "[::1]") == 0) {
        ret->v6 = (struct sockaddr_in6){.sin6_family = AF_INET6,
                                        .sin6_port = htons((uint16_t)port),
                                        .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        return sizeof ret->v6;
    }
    ret->v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &ret->v4.sin_addr) != 1 ||
        ntohl(ret->v4.sin_addr.s_addr) >> 24 != 127)
        return 0;
    return sizeof ret->v4;
}

int listen_tcp(const char *address, char *ret_address, size_t size, struct error *err)
{
    union address socket_address;
    socklen_t length = parse(address, &socket_address);
    const int on = 1;

    if (length == 0)
        return error_set(err, NULL, "listen %s: no loopback address", address);
    CLEANUP_CLOSE int fd =
        socket(socket_address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, &socket_address.any, length) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, &socket_address.any, &length) < 0)
        return error_errno(err, NULL, "listen %s", address);
    uint16_t port = ntohs(socket_address.any.sa_family == AF_INET6 ? socket_address.v6.sin6_port
                                                                   : socket_address.v4.sin_port);
    (void)snprintf(ret_address, size, "%.*s:%u", (int)(strrchr(address, ':') - address), address,
                   port);
    return steal_fd(&fd);
}
