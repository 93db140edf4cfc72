#include "shim/control.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "shim/protocol.h"

enum { CLIENTS_MAX = 8 };

struct client {
    struct control *control;
    struct loop_source source; /* fd -1: a free place */
    bool trusted;              /* said hello with the token */
    uint64_t number;
};

struct control {
    struct loop *loop;
    struct loop_source listener;
    struct client clients[CLIENTS_MAX];
    uint64_t last_number;
    const struct launch *launch;
    struct control_owner owner;
};

static void drop(struct client *client)
{
    loop_remove(client->control->loop, &client->source);
    (void)close(client->source.fd);
    client->source.fd = -1;
    client->trusted = false;
}

static void send_text(struct client *client, const char *text)
{
    /* A packet that does not fit into the socket's buffer means a reader that is stuck: it may come
     * again. */
    if (!text || send(client->source.fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        drop(client);
}

static void send_status(struct client *client)
{
    CLEANUP_JSON json_t *status = client->control->owner.status(client->control->owner.context);
    CLEANUP_FREE char *text = json_text(status);

    send_text(client, text);
}

/* Compares in time that depends on the length only. */
static bool token_equal(const char *a, const char *b)
{
    size_t length = strlen(a);
    unsigned char difference = 0;

    if (!b || strlen(b) != length)
        return false;
    for (size_t i = 0; i < length; i++)
        difference |= (unsigned char)(a[i] ^ b[i]);
    return difference == 0;
}

static void answer_result(struct client *client, const char *id)
{
    const struct control_owner *owner = &client->control->owner;
    json_t *packet = owner->exec_result(owner->context, id);

    (void)json_object_set_new(packet, "asked", json_true());
    control_answer(client->control, client->number, packet);
}

static uint32_t bounded(const json_t *request, const char *name, json_int_t most)
{
    json_int_t number = json_member_integer(request, name, 0);

    return number > 0 && number <= most ? (uint32_t)number : 0;
}

static void exec_result(struct client *client, const json_t *request, const char *id, int fd)
{
    (void)request, (void)fd;
    answer_result(client, id);
}

static void exec_tell(struct client *client, const json_t *request, const char *id, int fd)
{
    const struct control_owner *owner = &client->control->owner;
    const struct exec_note note = {.signal = bounded(request, "signal", EXEC_SIGNAL_MAX),
                                   .rows = (uint16_t)bounded(request, "rows", UINT16_MAX),
                                   .columns = (uint16_t)bounded(request, "columns", UINT16_MAX)};

    (void)fd;
    owner->exec_tell(owner->context, id, &note);
    answer_result(client, id);
}

static void stop(struct client *client, const json_t *request, const char *id, int fd)
{
    const struct control_owner *owner = &client->control->owner;

    (void)id, (void)fd;
    owner->stop(owner->context, json_member_integer(request, "grace_ms", 0));
}

static void halt(struct client *client, const json_t *request, const char *id, int fd)
{
    const struct control_owner *owner = &client->control->owner;

    (void)id, (void)fd;
    owner->pause(owner->context, json_member_integer(request, "id", 0),
                 !json_is_false(json_object_get(request, "pause")));
}

static void report(struct client *client, const json_t *request, const char *id, int fd)
{
    const struct control_owner *owner = &client->control->owner;

    (void)id, (void)fd;
    owner->report(owner->context, json_member_integer(request, "id", 0));
}

static void egress(struct client *client, const json_t *request, const char *id, int fd)
{
    const struct control_owner *owner = &client->control->owner;

    (void)id;
    owner->egress(owner->context, client->number, json_member_integer(request, "id", 0), fd);
}

static void secrets(struct client *client, const json_t *request, const char *id, int fd)
{
    const struct control_owner *owner = &client->control->owner;

    (void)id;
    owner->secrets(owner->context, json_member_integer(request, "id", 0),
                   bounded(request, "signal", EXEC_SIGNAL_MAX), fd);
}

static void status(struct client *client, const json_t *request, const char *id, int fd)
{
    (void)request, (void)id, (void)fd;
    send_status(client);
}

static void exec(struct client *client, const json_t *request, const char *id, int fd)
{
    const struct control_owner *owner = &client->control->owner;

    (void)request;
    owner->exec(owner->context, id, fd);
}

static const struct {
    const char *name;
    bool takes_fd, takes_id;
    void (*run)(struct client *client, const json_t *request, const char *id, int fd);
} ops[] = {
    {"stop", false, false, stop},
    {"pause", false, false, halt},
    {"status", false, false, status},
    {"report", false, false, report},
    {"egress", true, false, egress},
    {"secrets", true, false, secrets},
    {"exec", true, true, exec},
    {"exec-result", false, true, exec_result},
    {"exec-tell", false, true, exec_tell},
};

/* `fd`: the descriptor that came with it, or -1; taken over by setting it to -1. */
static void handle(struct client *client, const json_t *request, int *fd)
{
    struct control *control = client->control;
    const char *op = json_member_string(request, "op");
    const char *id = json_member_string(request, "id"); /* of an exec; others have a number */

    if (!client->trusted) {
        client->trusted = op && strcmp(op, "hello") == 0 &&
                          token_equal(control->launch->token, json_member_string(request, "token"));
        if (client->trusted)
            send_status(client);
        else
            drop(client);
        return;
    }
    for (size_t i = 0; op && i < COUNT_OF(ops); i++)
        if (strcmp(ops[i].name, op) == 0 && (*fd >= 0 || !ops[i].takes_fd) &&
            (id || !ops[i].takes_id)) {
            ops[i].run(client, request, id, ops[i].takes_fd ? steal_fd(fd) : -1);
            return;
        }
    drop(client);
}

static void on_packet(struct loop_source *source, uint32_t events)
{
    struct client *client = source->data;
    char bytes[CONTROL_PACKET_MAX];

    (void)events;
    CLEANUP_CLOSE int fd = -1;
    size_t count;
    ssize_t got = receive_descriptors(source->fd, bytes, sizeof bytes, &fd, 1, &count);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    CLEANUP_JSON json_t *request = got > 0 ? json_parse(bytes, (size_t)got, NULL) : NULL;
    if (request)
        handle(client, request, &fd);
    else
        drop(client);
}

static bool peer_allowed(const struct control *control, int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == 0 || peer.uid == control->launch->daemon_uid);
}

static void on_accept(struct loop_source *source, uint32_t events)
{
    struct control *control = source->data;

    (void)events;
    CLEANUP_CLOSE int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0 || !peer_allowed(control, fd))
        return;
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
        struct client *client = &control->clients[i];
        if (client->source.fd >= 0)
            continue;
        *client = (struct client){
            .control = control,
            .number = ++control->last_number,
            .source = {
                .fd = steal_fd(&fd), .events = EPOLLIN, .callback = on_packet, .data = client}};
        if (loop_add(control->loop, &client->source, NULL) < 0)
            drop(client);
        return;
    }
}

struct control *control_new(struct loop *loop, const struct launch *launch,
                            const struct control_owner *owner, struct error *err)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SHIM_SOCKET};
    struct control *control = calloc(1, sizeof *control);

    if (!control) {
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    *control = (struct control){.loop = loop, .launch = launch, .owner = *owner};
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        control->clients[i].source.fd = -1;
    (void)unlink(SHIM_SOCKET);
    control->listener = (struct loop_source){
        .fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
        .events = EPOLLIN,
        .callback = on_accept,
        .data = control};
    if (control->listener.fd < 0 ||
        bind(control->listener.fd, (const struct sockaddr *)&address, sizeof address) < 0 ||
        listen(control->listener.fd, CLIENTS_MAX) < 0) {
        error_errno(err, "launch-failed", "%s", SHIM_SOCKET);
        control_free(control);
        return NULL;
    }
    if (loop_add(loop, &control->listener, err) < 0) {
        control_free(control);
        return NULL;
    }
    return control;
}

void control_broadcast(struct control *control)
{
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        if (control->clients[i].source.fd >= 0 && control->clients[i].trusted)
            send_status(&control->clients[i]);
}

void control_send(struct control *control, json_t *packet)
{
    CLEANUP_FREE char *text = packet ? json_text(packet) : NULL;

    for (size_t i = 0; text && i < CLIENTS_MAX; i++)
        if (control->clients[i].source.fd >= 0 && control->clients[i].trusted)
            send_text(&control->clients[i], text);
    json_decref(packet);
}

void control_answer(struct control *control, uint64_t client, json_t *packet)
{
    CLEANUP_FREE char *text = packet ? json_text(packet) : NULL;

    for (size_t i = 0; text && i < CLIENTS_MAX; i++)
        if (control->clients[i].source.fd >= 0 && control->clients[i].number == client)
            send_text(&control->clients[i], text);
    json_decref(packet);
}

bool control_heard(const struct control *control)
{
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        if (control->clients[i].source.fd >= 0 && control->clients[i].trusted)
            return true;
    return false;
}

bool control_has_room(const struct control *control)
{
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
        struct pollfd socket = {.fd = control->clients[i].source.fd, .events = POLLOUT};
        if (socket.fd >= 0 && control->clients[i].trusted && poll(&socket, 1, 0) != 1)
            return false;
    }
    return control_heard(control);
}

void control_free(struct control *control)
{
    if (!control)
        return;
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        if (control->clients[i].source.fd >= 0)
            drop(&control->clients[i]);
    loop_remove(control->loop, &control->listener);
    if (control->listener.fd >= 0)
        (void)close(control->listener.fd);
    free(control);
}
