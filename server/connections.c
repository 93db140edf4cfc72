/* The connections of the listeners: each has a front (see front.h) from its first moment to its
 * last; here is who counts them, looks for slow ones, and lets them go gently.
 *
 * libmicrohttpd accepts a few more than a listener may have, so that those that are too many can be
 * told, and closes at once what it has answered. Where a client had not said all by then, closing
 * resets the connection, and the answer may be lost on its way: such a socket lingers. What still
 * comes is read and thrown away, for a little while. */
#include "server/request_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/log.h"

enum { LINGER_MS = 5000, LINGER_BYTES = 16 * 1024, LINGER_READS = 64 };

static struct connection *connection_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info ? info->socket_context : NULL;
}

struct front *connection_front(struct MHD_Connection *connection)
{
    struct connection *known = connection_of(connection);

    return known ? known->front : NULL;
}

const struct unix_peer *connection_peer(struct MHD_Connection *connection)
{
    const struct connection *known = connection_of(connection);

    return known && known->has_peer ? &known->peer : NULL;
}

/* Under the lock. */
static void link_in(struct http *http, struct connection *connection)
{
    connection->next = http->connections;
    if (http->connections)
        http->connections->previous = connection;
    else
        (void)pthread_cond_broadcast(&http->changed); /* the ticker has something to look at */
    http->connections = connection;
}

/* Under the lock. */
static void link_out(struct http *http, struct connection *connection)
{
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        http->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
}

static struct connection *open_connection(struct listener *listener, int fd)
{
    struct http *http = listener->http;
    struct connection *connection = calloc(1, sizeof *connection);

    if (!connection)
        return NULL;
    connection->listener = listener;
    connection->fd = fd;
    connection->has_peer = !listener->tcp && auth_peer(fd, &connection->peer);
    (void)pthread_mutex_lock(&http->lock);
    bool crowded = ++listener->n_connections > http->app->config.max_connections;
    connection->front = front_open(fd, listener->tcp && http->tls, crowded);
    link_in(http, connection);
    (void)pthread_mutex_unlock(&http->lock);
    if (crowded)
        log_event(LEVEL_WARNING, "too many connections", LOG_TEXT("listener", listener->address));
    return connection;
}

/* Under the lock. */
static void linger(struct http *http, int fd)
{
    for (size_t i = 0; i < LINGERING_MAX; i++) {
        struct linger_socket *place = &http->lingering[i];
        if (place->until_ms)
            continue;
        place->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (place->fd < 0)
            return;
        (void)shutdown(place->fd, SHUT_WR);
        place->until_ms = clock_monotonic_ms() + LINGER_MS;
        http->n_lingering++;
        (void)pthread_cond_broadcast(&http->changed);
        return;
    }
}

static void close_connection(struct connection *connection)
{
    struct listener *listener = connection->listener;
    struct http *http = listener->http;

    (void)pthread_mutex_lock(&http->lock);
    listener->n_connections--;
    link_out(http, connection);
    if (front_unread(connection->front) && !http->stopping)
        linger(http, connection->fd);
    front_close(connection->front);
    (void)pthread_mutex_unlock(&http->lock);
    free(connection);
}

void connection_notify(void *context, struct MHD_Connection *connection, void **socket_context,
                       enum MHD_ConnectionNotificationCode code)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *socket_context = info ? open_connection(context, info->connect_fd) : NULL;
    } else if (*socket_context) {
        close_connection(*socket_context);
        *socket_context = NULL;
    }
}

/* Throws away what came; false: it has ended. */
static bool lingers_on(const struct linger_socket *place, int64_t now_ms)
{
    char bytes[LINGER_BYTES];
    ssize_t got = 1;

    for (int i = 0; i < LINGER_READS && got > 0; i++)
        got = recv(place->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    return now_ms < place->until_ms && (got > 0 || (got < 0 && errno == EAGAIN));
}

void connections_linger(struct http *http, bool all_end)
{
    int64_t now = clock_monotonic_ms();

    for (size_t i = 0; i < LINGERING_MAX && http->n_lingering > 0; i++) {
        struct linger_socket *place = &http->lingering[i];
        if (!place->until_ms || (!all_end && lingers_on(place, now)))
            continue;
        (void)close(place->fd);
        place->until_ms = 0;
        http->n_lingering--;
    }
}

void connections_tick(struct http *http)
{
    const struct config *config = &http->app->config;
    const struct front_patience patience = {config->idle_timeout_ms, config->head_timeout_ms,
                                            config->body_timeout_ms};
    int64_t now = clock_monotonic_ms();

    for (struct connection *one = http->connections; one; one = one->next)
        if (one->front)
            front_tick(one->front, &patience, now);
}
