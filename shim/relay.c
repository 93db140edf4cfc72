#include "shim/relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 64 * 1024 };

/* One way of a connection. Its pipe is filled only when empty and emptied before it is filled
 * again, so that EAGAIN from a splice always speaks of the socket. */
struct direction {
    int from, to;
    int pipe[2];
    size_t held; /* bytes in the pipe */
    bool ended;  /* `from` is at its end */
    bool shut;   /* and `to` was told */
};

struct connection {
    struct relay *relay;
    struct loop_source guest, sidecar;
    struct direction out, in; /* guest → sidecar, sidecar → guest */
    bool connected;
    struct connection *next, *previous;
};

struct relay {
    struct loop *loop;
    struct loop_source listener;
    uint16_t host_port;
    unsigned count, max;
    struct connection *connections;
};

static void pause_listening(struct relay *relay)
{
    loop_remove(relay->loop, &relay->listener);
}

static void resume_listening(struct relay *relay)
{
    if (!relay->listener.active)
        (void)loop_add(relay->loop, &relay->listener, NULL);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

static void connection_free(struct connection *connection)
{
    struct relay *relay = connection->relay;

    loop_remove(relay->loop, &connection->guest);
    loop_remove(relay->loop, &connection->sidecar);
    close_fd(&connection->guest.fd);
    close_fd(&connection->sidecar.fd);
    for (int i = 0; i < 2; i++) {
        close_fd(&connection->out.pipe[i]);
        close_fd(&connection->in.pipe[i]);
    }
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        relay->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    relay->count--;
    free(connection);
    resume_listening(relay);
}

/* Moves what can be moved now. -1 when the connection is broken. */
static int pump(struct direction *way)
{
    for (;;) {
        if (way->held == 0 && !way->ended) {
            ssize_t got = splice(way->from, NULL, way->pipe[1], NULL, CHUNK,
                                 SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (got < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -1;
            way->ended = got == 0;
            way->held = (size_t)got;
        }
        while (way->held > 0) {
            ssize_t put = splice(way->pipe[0], NULL, way->to, NULL, way->held,
                                 SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (put < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -1;
            way->held -= (size_t)put;
        }
        if (way->ended) {
            if (!way->shut)
                (void)shutdown(way->to, SHUT_WR);
            way->shut = true;
            return 0;
        }
    }
}

static uint32_t wanted(const struct direction *reads, const struct direction *writes)
{
    return (reads->held == 0 && !reads->ended ? (uint32_t)EPOLLIN : 0) |
           (writes->held > 0 ? (uint32_t)EPOLLOUT : 0);
}

static void update(struct connection *connection)
{
    struct loop *loop = connection->relay->loop;

    (void)loop_modify(loop, &connection->guest, wanted(&connection->out, &connection->in));
    (void)loop_modify(loop, &connection->sidecar, wanted(&connection->in, &connection->out));
}

static void on_event(struct loop_source *source, uint32_t events)
{
    struct connection *connection = source->data;

    if (!connection->connected) {
        int fault = 0;
        socklen_t size = sizeof fault;
        if (source != &connection->sidecar) { /* the guest left before we were through */
            connection_free(connection);
            return;
        }
        if (getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &fault, &size) < 0 || fault) {
            connection_free(connection);
            return;
        }
        connection->connected = true;
    }
    if ((events & EPOLLERR) || pump(&connection->out) < 0 || pump(&connection->in) < 0 ||
        (connection->out.shut && connection->in.shut)) {
        connection_free(connection);
        return;
    }
    update(connection);
    /* A hang-up is reported whether wanted or not; once nothing more can come of this end, look
     * away. */
    if ((events & EPOLLHUP) && source->events == 0)
        loop_remove(connection->relay->loop, source);
}

static int dial(uint16_t port)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) < 0 &&
        errno != EINPROGRESS) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static void set_nodelay(int fd)
{
    int one = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void connection_new(struct relay *relay, int guest)
{
    struct connection *connection = calloc(1, sizeof *connection);

    if (!connection) {
        (void)close(guest);
        return;
    }
    *connection = (struct connection){
        .relay = relay,
        .guest = {.fd = guest, .callback = on_event, .data = connection},
        .sidecar = {.fd = dial(relay->host_port),
                    .events = EPOLLOUT,
                    .callback = on_event,
                    .data = connection},
        .out = {.pipe = {-1, -1}},
        .in = {.pipe = {-1, -1}},
        .next = relay->connections,
    };
    if (connection->next)
        connection->next->previous = connection;
    relay->connections = connection;
    relay->count++;
    connection->out.from = connection->in.to = guest;
    connection->out.to = connection->in.from = connection->sidecar.fd;
    if (connection->sidecar.fd < 0 || pipe2(connection->out.pipe, O_CLOEXEC | O_NONBLOCK) < 0 ||
        pipe2(connection->in.pipe, O_CLOEXEC | O_NONBLOCK) < 0 ||
        loop_add(relay->loop, &connection->guest, NULL) < 0 ||
        loop_add(relay->loop, &connection->sidecar, NULL) < 0) {
        connection_free(connection);
        return;
    }
    set_nodelay(guest);
    set_nodelay(connection->sidecar.fd);
    if (relay->count >= relay->max)
        pause_listening(relay);
}

static void on_accept(struct loop_source *source, uint32_t events)
{
    struct relay *relay = source->data;

    (void)events;
    int guest = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (guest >= 0)
        connection_new(relay, guest);
    else if ((errno == EMFILE || errno == ENFILE) && relay->count > 0)
        pause_listening(relay); /* until one of ours closes */
}

struct relay *relay_new(struct loop *loop, int listener, const struct port_forward *forward,
                        unsigned connections_max, struct error *err)
{
    struct relay *relay = calloc(1, sizeof *relay);

    if (!relay) {
        (void)close(listener);
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    (void)fcntl(listener, F_SETFL, O_NONBLOCK);
    *relay = (struct relay){
        .loop = loop,
        .listener = {.fd = listener, .events = EPOLLIN, .callback = on_accept, .data = relay},
        .host_port = forward->host_port,
        .max = connections_max,
    };
    if (loop_add(loop, &relay->listener, err) < 0) {
        relay_free(relay);
        return NULL;
    }
    return relay;
}

void relay_free(struct relay *relay)
{
    if (!relay)
        return;
    while (relay->connections)
        connection_free(relay->connections);
    loop_remove(relay->loop, &relay->listener);
    (void)close(relay->listener.fd);
    free(relay);
}

int relay_set_rules(struct relay *relay, const struct egress_rule *rules, size_t n_rules)
{
    (void)relay;
    (void)rules;
    (void)n_rules;
    return 0;
}
