#include "server/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

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

int listen_unix(const char *path, const gid_t *group, ino_t *ret_inode, struct error *err)
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
    if (group && (lchown(path, (uid_t)-1, *group) < 0 || chmod(path, 0660) < 0))
        return error_errno(err, NULL, "socket %s: giving it to group %u", path, *group);
    *ret_inode = status.st_ino;
    return steal_fd(&fd);
}

void listen_unlink(const char *path, ino_t inode)
{
    struct stat status;

    if (lstat(path, &status) == 0 && S_ISSOCK(status.st_mode) && status.st_ino == inode)
        (void)unlink(path);
}

int listen_tcp(const char *text, char ret_address[ADDRESS_SIZE], struct error *err)
{
    union address address;
    socklen_t length = address_parse(text, &address);
    const int on = 1;

    if (length == 0)
        return error_set(err, NULL, "listen %s: no address", text);
    CLEANUP_CLOSE int fd =
        socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        (address.any.sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0) ||
        bind(fd, &address.any, length) < 0 || listen(fd, BACKLOG) < 0 ||
        address_local(fd, &address) < 0)
        return error_errno(err, NULL, "listen %s", text);
    address_format(&address, ret_address);
    return steal_fd(&fd);
}

int listen_inherited(struct error *err)
{
    int count = sd_listen_fds(true);

    return count < 0 ? error_set(err, NULL, "LISTEN_FDS: %s", strerror(-count)) : count;
}

static int describe_unix(int fd, struct inherited *ret, struct error *err)
{
    struct sockaddr_un address = {0};
    socklen_t length = sizeof address;

    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        return error_errno(err, NULL, "descriptor %d", fd);
    (void)snprintf(ret->address, sizeof ret->address, "%s",
                   address.sun_path[0] ? address.sun_path : "(without a path)");
    return 0;
}

static int describe_tcp(int fd, bool beyond, struct inherited *ret, struct error *err)
{
    union address address;

    if (address_local(fd, &address) < 0)
        return error_errno(err, NULL, "descriptor %d", fd);
    address_format(&address, ret->address);
    ret->tcp = true;
    if (beyond || address_is_loopback(&address))
        return 0;
    return error_set(err, NULL,
                     "the passed socket %s is not loopback: set tls_cert and tls_key, or "
                     "insecure_listen where that is meant",
                     ret->address);
}

int listen_inherit(int i, bool beyond, struct inherited *ret, struct error *err)
{
    int fd = SD_LISTEN_FDS_START + i, flags = fcntl(fd, F_GETFL);

    *ret = (struct inherited){.fd = fd};
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return error_errno(err, NULL, "descriptor %d of LISTEN_FDS", fd);
    if (sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) > 0)
        return describe_unix(fd, ret, err);
    if (sd_is_socket_inet(fd, AF_UNSPEC, SOCK_STREAM, 1, 0) > 0)
        return describe_tcp(fd, beyond, ret, err);
    return error_set(err, NULL,
                     "descriptor %d of LISTEN_FDS is no socket that listens for streams; see "
                     "systemd.socket(5)",
                     fd);
}
