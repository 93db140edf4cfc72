/* bottled's own recv(): libmicrohttpd's calls land here, since a program's symbols come before
 * those of its libraries. It is linked into bottled only. See front.h. */
#include <sys/socket.h>

#include "server/front.h"

struct source {
    int fd, flags;
};

static ssize_t read_socket(void *context, char *out, size_t room)
{
    const struct source *source = context;

    return recvfrom(source->fd, out, room, source->flags, NULL, NULL);
}

__attribute__((visibility("default"))) ssize_t bottled_recv(int fd, void *out, size_t room,
                                                            int flags) __asm__("recv");

ssize_t bottled_recv(int fd, void *out, size_t room, int flags)
{
    struct source source = {fd, flags};
    bool found;
    ssize_t got = front_read(fd, read_socket, &source, out, room, &found);

    return found ? got : recvfrom(fd, out, room, flags, NULL, NULL);
}
