#include "shim/relay_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/rule_match.h"
#include "base/clock.h"

enum {
    CHUNK = 64 * 1024,
    ROUNDS_MAX = 16, /* of a direction in one event, so that one connection is not all */
    RESUME_MS = 100, /* after a lack of descriptors that no end of ours will mend */
    DIAL_MS = 3000,  /* an engine that reads a new config is away for some of it */
    DIAL_AGAIN_MS = 10,
    YIELD_MS = 250, /* how long the guest may close first */
    LINGER_MS = 2000,
    ACCOUNT_MS = 60000,
};

static void pause_listening(struct relay *relay)
{
    loop_remove(relay->loop, &relay->listener);
}

static void resume_listening(struct relay *relay)
{
    if (!relay->listener.active && relay->count < relay->max)
        (void)loop_add(relay->loop, &relay->listener, NULL);
}

static void on_resume(struct loop_timer *timer)
{
    resume_listening(timer->data);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

static void hang_up(struct connection *connection)
{
    loop_remove(connection->relay->loop, &connection->sidecar);
    close_fd(&connection->sidecar.fd);
}

static void set_timer(struct connection *connection, int64_t in_ms)
{
    loop_timer_set(connection->relay->loop, &connection->timer, clock_monotonic_ms() + in_ms);
}

void connection_free(struct connection *connection)
{
    struct relay *relay = connection->relay;

    gate_free(connection);
    loop_timer_cancel(relay->loop, &connection->timer);
    hang_up(connection);
    loop_remove(relay->loop, &connection->guest);
    close_fd(&connection->guest.fd);
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

/* ── moving bytes ── */

/* 1: go on; 0: the socket has no room or nothing to give; -1: the connection is broken. */
static int moved(ssize_t result)
{
    if (result >= 0)
        return 1;
    return errno == EAGAIN || errno == EINTR ? 0 : -1;
}

static int send_first(struct direction *way)
{
    while (way->first_length > 0) {
        ssize_t put = send(way->to, way->first, way->first_length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0)
            return moved(put);
        way->first += put;
        way->first_length -= (size_t)put;
        way->bytes += put;
    }
    return 1;
}

static int fill(struct direction *way)
{
    size_t most = way->limit < CHUNK ? (size_t)way->limit : CHUNK;
    ssize_t got =
        splice(way->from, NULL, way->pipe[1], NULL, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

    if (got < 0)
        return moved(got);
    way->ended = got == 0;
    way->held = (size_t)got;
    if (way->limit != UINT64_MAX)
        way->limit -= (uint64_t)got;
    return 1;
}

static int drain(struct direction *way)
{
    while (way->held > 0) {
        ssize_t put =
            splice(way->pipe[0], NULL, way->to, NULL, way->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (put < 0)
            return moved(put);
        way->held -= (size_t)put;
        way->bytes += put;
    }
    return 1;
}

/* Moves what can be moved now, within bounds: what is left brings another event. -1 when the
 * connection is broken. */
static int pump(struct direction *way)
{
    int result = send_first(way);

    for (int round = 0; result > 0 && round < ROUNDS_MAX; round++) {
        if (way->held == 0 && !way->ended) {
            if (way->limit == 0)
                return 0;
            result = fill(way);
        }
        if (result > 0)
            result = drain(way);
        if (result > 0 && way->ended) {
            if (!way->shut && !way->yields)
                (void)shutdown(way->to, SHUT_WR);
            way->shut = !way->yields;
            return 0;
        }
    }
    return result < 0 ? -1 : 0;
}

static bool has_more(const struct direction *way)
{
    return way->held > 0 || way->first_length > 0;
}

static bool wants_more(const struct direction *way)
{
    return !has_more(way) && !way->ended && way->limit > 0;
}

static void watch(struct loop *loop, struct loop_source *source, bool reads, bool writes)
{
    uint32_t events = (reads ? (uint32_t)EPOLLIN : 0) | (writes ? (uint32_t)EPOLLOUT : 0);

    if (source->fd < 0)
        return;
    if (source->active) {
        (void)loop_modify(loop, source, events);
    } else if (events) { /* it had hung up, and there was nothing more to do with it */
        source->events = events;
        (void)loop_add(loop, source, NULL);
    }
}

void connection_update(struct connection *connection)
{
    struct loop *loop = connection->relay->loop;
    enum stage stage = connection->stage;
    bool looks = stage == STAGE_HEAD || stage == STAGE_HELLO || stage == STAGE_LINGER;

    watch(loop, &connection->guest, looks || (stage == STAGE_FLOW && wants_more(&connection->out)),
          has_more(&connection->in));
    if (stage == STAGE_LINGER)
        return;
    watch(loop, &connection->sidecar,
          stage == STAGE_ANSWER || (stage != STAGE_DIAL && wants_more(&connection->in)),
          stage == STAGE_DIAL || has_more(&connection->out));
}

/* ── the sidecar ── */

static int connect_to(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 &&
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

static int open_pipes(struct connection *connection)
{
    if (connection->out.pipe[0] >= 0)
        return 0;
    return pipe2(connection->out.pipe, O_CLOEXEC | O_NONBLOCK) < 0 ||
                   pipe2(connection->in.pipe, O_CLOEXEC | O_NONBLOCK) < 0
               ? -1
               : 0;
}

/* Nobody listens: an engine that reads a new config will again in a moment. */
static int dial_failed(struct connection *connection)
{
    int64_t now = clock_monotonic_ms();

    hang_up(connection);
    if (!connection->gate)
        return -1;
    if (now >= connection->dial_until_ms)
        return gate_on_unreachable(connection);
    set_timer(connection, DIAL_AGAIN_MS);
    return 0;
}

int connection_dial(struct connection *connection)
{
    if (connection->dial_until_ms == 0)
        connection->dial_until_ms = clock_monotonic_ms() + DIAL_MS;
    connection->stage = STAGE_DIAL;
    hang_up(connection);
    if (open_pipes(connection) < 0)
        return -1;
    connection->sidecar.fd = connect_to(&connection->relay->sidecar);
    connection->out.to = connection->in.from = connection->sidecar.fd;
    if (connection->sidecar.fd < 0)
        return dial_failed(connection);
    connection->sidecar.events = EPOLLOUT;
    set_nodelay(connection->sidecar.fd);
    return loop_add(connection->relay->loop, &connection->sidecar, NULL);
}

static int on_dialled(struct connection *connection)
{
    int fault = 0;
    socklen_t size = sizeof fault;

    if (getsockopt(connection->sidecar.fd, SOL_SOCKET, SO_ERROR, &fault, &size) < 0 || fault)
        return dial_failed(connection);
    connection->stage = STAGE_FLOW;
    return connection->gate ? gate_on_dialled(connection) : 0;
}

/* ── a connection ── */

int connection_push(struct connection *connection)
{
    return pump(&connection->in);
}

int connection_finish(struct connection *connection, const char *bytes, size_t length)
{
    hang_up(connection);
    connection->stage = STAGE_LINGER;
    connection->in.first = bytes;
    connection->in.first_length = length;
    connection->in.held = 0;
    connection->in.ended = true;
    set_timer(connection, connection->in.yields ? YIELD_MS : LINGER_MS);
    return pump(&connection->in);
}

/* Throws away what the guest sends: closing with bytes unread would be a reset, which can overtake
 * our last words. */
static int linger(struct connection *connection)
{
    char bytes[4096];
    ssize_t got = recv(connection->guest.fd, bytes, sizeof bytes, MSG_DONTWAIT);

    if (got == 0)
        return -1;
    return moved(got) < 0 ? -1 : pump(&connection->in);
}

static int flow(struct connection *connection)
{
    struct direction *out = &connection->out, *in = &connection->in;

    if (pump(out) < 0) {
        if (!connection->one_answer)
            return -1;
        out->held = out->first_length = 0; /* it answered before it had read all */
        out->limit = 0;
    }
    in->yields = in->yields && !out->ended;
    if (pump(in) < 0 || (out->shut && in->shut))
        return -1;
    if (!in->ended || has_more(in))
        return 0;
    if (connection->one_answer)
        return connection_finish(connection, NULL, 0);
    if (in->yields && !connection->timer.active)
        set_timer(connection, YIELD_MS);
    return 0;
}

/* The guest did not close first: now it is told. */
static int on_yielded(struct connection *connection)
{
    connection->in.yields = false;
    if (connection->stage == STAGE_FLOW)
        return flow(connection);
    set_timer(connection, LINGER_MS);
    return pump(&connection->in);
}

/* -1: it is over. */
static int step(struct connection *connection, const struct loop_source *source, uint32_t events)
{
    bool guest = source == &connection->guest;

    switch (connection->stage) {
    case STAGE_DIAL:
        return guest ? -1 : on_dialled(connection); /* the guest left before we were through */
    case STAGE_HEAD:
        return events & EPOLLERR ? -1 : gate_on_guest(connection);
    case STAGE_ANSWER:
        if (guest || pump(&connection->out) < 0)
            return guest ? -1 : gate_on_answer(connection);
        return events & (EPOLLIN | EPOLLHUP | EPOLLERR) ? gate_on_answer(connection) : 0;
    case STAGE_HELLO:
        connection->in.yields = false; /* the guest has said nothing yet, and may wait for us */
        if ((events & EPOLLERR) || pump(&connection->in) < 0)
            return -1;
        connection->in.yields = !connection->in.ended;
        return guest ? gate_on_guest(connection) : 0;
    case STAGE_FLOW:
        return events & EPOLLERR ? -1 : flow(connection);
    case STAGE_LINGER:
        return events & (EPOLLERR | EPOLLHUP) ? -1 : linger(connection);
    }
    return -1;
}

static void on_event(struct loop_source *source, uint32_t events)
{
    struct connection *connection = source->data;

    if (step(connection, source, events) < 0) {
        connection_free(connection);
        return;
    }
    connection_update(connection);
    /* A hang-up is reported whether wanted or not; once nothing more can come of this end, look
     * away. */
    if ((events & EPOLLHUP) && source->events == 0)
        loop_remove(connection->relay->loop, source);
}

static void on_timer(struct loop_timer *timer)
{
    struct connection *connection = timer->data;
    int result = -1;

    if (connection->stage == STAGE_DIAL)
        result = connection_dial(connection);
    else if (connection->stage == STAGE_FLOW ||
             (connection->stage == STAGE_LINGER && connection->in.yields))
        result = on_yielded(connection);
    else if (connection->stage != STAGE_LINGER && connection->gate)
        result = gate_on_late(connection);
    if (result < 0)
        connection_free(connection);
    else
        connection_update(connection);
}

static int connection_begin(struct connection *connection)
{
    set_nodelay(connection->guest.fd);
    if (loop_add(connection->relay->loop, &connection->guest, NULL) < 0)
        return -1;
    return connection->relay->guarded ? gate_new(connection) : connection_dial(connection);
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
        .sidecar = {.fd = -1, .callback = on_event, .data = connection},
        .out = {.from = guest, .to = -1, .pipe = {-1, -1}, .limit = UINT64_MAX},
        .in = {.from = -1, .to = guest, .pipe = {-1, -1}, .limit = UINT64_MAX, .yields = true},
        .stage = STAGE_HEAD,
        .timer = {.callback = on_timer, .data = connection},
        .next = relay->connections,
    };
    if (connection->next)
        connection->next->previous = connection;
    relay->connections = connection;
    relay->count++;
    if (relay->count >= relay->max)
        pause_listening(relay);
    if (connection_begin(connection) < 0)
        connection_free(connection);
    else
        connection_update(connection);
}

/* ── the relay ── */

static void on_accept(struct loop_source *source, uint32_t events)
{
    struct relay *relay = source->data;

    (void)events;
    int guest = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (guest >= 0) {
        connection_new(relay, guest);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        /* Until one of ours closes, or somebody else's did. */
        pause_listening(relay);
        loop_timer_set(relay->loop, &relay->resume, clock_monotonic_ms() + RESUME_MS);
    }
}

static void on_account(struct loop_timer *timer)
{
    struct relay *relay = timer->data;

    for (struct connection *at = relay->connections; at; at = at->next)
        gate_account(at);
    loop_timer_set(relay->loop, timer, clock_monotonic_ms() + ACCOUNT_MS);
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
        .resume = {.callback = on_resume, .data = relay},
        .account = {.callback = on_account, .data = relay},
        .sidecar = {.sin_family = AF_INET, .sin_port = htons(forward->host_port)},
        .max = connections_max,
    };
    if (inet_pton(AF_INET, forward->host, &relay->sidecar.sin_addr) != 1) {
        relay_free(relay);
        error_set(err, NULL, "the sidecar's address %s is none", forward->host);
        return NULL;
    }
    if (loop_add(loop, &relay->listener, err) < 0) {
        relay_free(relay);
        return NULL;
    }
    return relay;
}

void relay_guard(struct relay *relay, const struct relay_owner *owner)
{
    relay->guarded = true;
    relay->owner = *owner;
    loop_timer_set(relay->loop, &relay->account, clock_monotonic_ms() + ACCOUNT_MS);
}

int relay_set_rules(struct relay *relay, const struct egress_rule *rules, size_t n_rules)
{
    struct egress_rule *copy;

    if (rules_copy(rules, n_rules, &copy) < 0)
        return -1;
    rules_free(relay->rules, relay->n_rules);
    relay->rules = copy;
    relay->n_rules = n_rules;
    for (struct connection *at = relay->connections, *next; at; at = next) {
        next = at->next;
        if (!gate_allowed(at))
            connection_free(at);
    }
    return 0;
}

void relay_free(struct relay *relay)
{
    if (!relay)
        return;
    while (relay->connections)
        connection_free(relay->connections);
    loop_timer_cancel(relay->loop, &relay->resume);
    loop_timer_cancel(relay->loop, &relay->account);
    loop_remove(relay->loop, &relay->listener);
    (void)close(relay->listener.fd);
    rules_free(relay->rules, relay->n_rules);
    free(relay);
}
