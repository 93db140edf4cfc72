/* bottled's own recv() and gnutls_record_recv(): libmicrohttpd's calls land here, since a program's
 * symbols come before those of its libraries. It is linked into bottled only. See front.h. */
#include <errno.h>
#include <gnutls/gnutls.h>
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
    ssize_t got = front_read(fd, false, read_socket, &source, out, room, &found);

    return found ? got : recvfrom(fd, out, room, flags, NULL, NULL);
}

/* --- TLS ------------------------------------------------------------------------------------ */

struct record_source {
    gnutls_session_t session;
    ssize_t fault; /* the library's word for what went wrong last */
};

/* The same call but for a number that nobody wants, under a name that is not ours. */
static ssize_t read_record(void *context, char *out, size_t room)
{
    struct record_source *source = context;
    unsigned char sequence[8];
    ssize_t got = gnutls_record_recv_seq(source->session, out, room, sequence);

    if (got >= 0)
        return got;
    source->fault = got;
    errno = got == GNUTLS_E_AGAIN || got == GNUTLS_E_INTERRUPTED ? EAGAIN : ECONNRESET;
    return -1;
}

ssize_t bottled_record_recv(gnutls_session_t session, void *out,
                            size_t room) __asm__("gnutls_record_recv");

__attribute__((visibility("default"))) ssize_t bottled_record_recv(gnutls_session_t session,
                                                                   void *out, size_t room)
{
    struct record_source source = {session, GNUTLS_E_AGAIN};
    bool found;
    ssize_t got = front_read(gnutls_transport_get_int(session), true, read_record, &source, out,
                             room, &found);

    if (!found)
        got = read_record(&source, out, room);
    return got >= 0 ? got : source.fault;
}
