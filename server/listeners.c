/* Which listeners there are: those of the configuration, or those that the service manager opened
 * (see sd_listen_fds(3)) in their place. */
#include <stdio.h>

#include "base/util.h"
#include "server/app.h"
#include "server/auth.h"
#include "server/http.h"
#include "server/listen.h"
#include "server/request_internal.h"

/* Room for one more, or NULL. */
static struct listener *add_listener(struct http *http, bool tcp)
{
    struct listener *listener = &http->listeners[http->n_listeners];

    if (http->n_listeners == COUNT_OF(http->listeners))
        return NULL;
    *listener = (struct listener){.http = http, .tcp = tcp, .fd = -1};
    return listener;
}

static int open_listener(struct http *http, const char *where, bool tcp, struct error *err)
{
    struct listener *listener = add_listener(http, tcp);
    const struct config *config = &http->app->config;
    struct unix_group group;

    if (!listener || unix_group_find(config->socket_group, &group, err) < 0)
        return -1;
    if (tcp) {
        listener->fd = listen_tcp(where, listener->address, err);
    } else {
        (void)snprintf(listener->address, sizeof listener->address, "%s", where);
        listener->fd = listen_unix(where, group.used ? &group.gid : NULL, &listener->inode, err);
    }
    if (listener->fd < 0)
        return -1;
    http->n_listeners++;
    return listener_serve(listener, err);
}

/* Takes the sockets that the service manager opened. Those of a kind stand in the configured ones'
 * place: *ret_kinds says which there were, [true] TCP. */
static int take_inherited(struct http *http, bool ret_kinds[2], struct error *err)
{
    const struct config *config = &http->app->config;
    int count = listen_inherited(err), result = count < 0 ? -1 : 0;

    for (int i = 0; i < count && result == 0; i++) {
        struct inherited socket;
        if (listen_inherit(i, *config->tls_cert || config->insecure_listen, &socket, err) < 0)
            return -1;
        struct listener *listener = add_listener(http, socket.tcp);
        if (!listener)
            return error_set(err, NULL, "more than %zu sockets were passed",
                             COUNT_OF(http->listeners));
        listener->fd = socket.fd;
        (void)snprintf(listener->address, sizeof listener->address, "%s", socket.address);
        ret_kinds[socket.tcp] = true;
        http->n_listeners++;
        result = listener_serve(listener, err);
    }
    return result;
}

int listeners_open(struct http *http, struct error *err)
{
    const struct config *config = &http->app->config;
    bool there[2] = {false, false};
    int result = take_inherited(http, there, err);

    if (result == 0 && !there[false])
        result = open_listener(http, config->socket, false, err);
    for (unsigned i = 0; i < config->n_listen && result == 0 && !there[true]; i++)
        result = open_listener(http, config->listen[i], true, err);
    return result;
}

void http_describe(const struct http *http, struct text *out)
{
    for (size_t i = 0; i < http->n_listeners; i++)
        text_addf(out, "%s%s%s", i ? ", " : "",
                  !http->listeners[i].tcp ? "unix:"
                  : http->tls             ? "https://"
                                          : "http://",
                  http->listeners[i].address);
}
