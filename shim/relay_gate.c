/* What a guarded relay looks at before it lets a connection's bytes flow.
 *
 *   HEAD    the request's head, whole: refused with 400 when two readers could read it in two ways,
 *           with 403 when no rule allows its target; the engine hears of neither
 *   DIAL    the engine
 *   ANSWER  it has the head, untouched but for one thing: an http:// request is made the last of
 * its connection, and no more of the guest's bytes pass than the request has. So a second one,
 * which nobody looked at, can't follow. HELLO   of a CONNECT that the engine answered with 2xx: a
 * TLS hello must name the tunnel's host. On port 443 nothing but such a hello begins a tunnel; on
 * others anything may, also a server that speaks first. FLOW    spliced; nobody looks.
 *
 * An engine that reads a new config closes its listener for a moment, and what waited there is
 * reset: as long as no byte of an answer came and all of the request is still here, it is dialled
 * again. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/rule_match.h"
#include "base/clock.h"
#include "renderers/private_ranges.h"
#include "shim/relay_internal.h"
#include "shim/tls_hello.h"

enum {
    SILENT_MS = 60000, /* before the first byte: clients connect ahead of need */
    SLOW_MS = 10000,   /* from the first byte of a head or hello to its last */
    ANSWER_MAX = 16 * 1024,
    ENGINE_TRIES = 3,
    WEB_PORT = 443,
};

struct gate {
    char guest[TLS_HELLO_MAX]; /* its head and what came with it; later its hello */
    size_t length, head;
    char second[ANSWER_MAX]; /* an http:// head as it is sent; the engine's answer; our own */
    size_t second_length;
    struct proxy_request request;
    bool known;  /* request is read */
    bool noted;  /* as allowed */
    bool answer; /* the guest got ours, or the engine's refusal */
    unsigned tries;
    char rule[RULE_TEXT_SIZE];
    int64_t told_out, told_in; /* bytes */
};

int gate_new(struct connection *connection)
{
    connection->gate = calloc(1, sizeof *connection->gate);
    if (!connection->gate)
        return -1;
    loop_timer_set(connection->relay->loop, &connection->timer, clock_monotonic_ms() + SILENT_MS);
    return 0;
}

/* ── notes ── */

static void note(struct connection *connection, const struct egress_note *what)
{
    const struct relay_owner *owner = &connection->relay->owner;

    if (owner->note)
        owner->note(owner->context, what);
}

static void note_denied(struct connection *connection, const char *why)
{
    const struct gate *gate = connection->gate;
    const struct egress_note what = {.verdict = RULE_DENIED,
                                     .host = gate->known ? gate->request.host : "-",
                                     .port = gate->request.port,
                                     .rule = gate->rule[0] ? gate->rule : NULL,
                                     .why = why};

    note(connection, &what);
}

static void note_allowed(struct connection *connection, const char *why)
{
    struct gate *gate = connection->gate;
    const struct egress_note what = {.verdict = RULE_ALLOWED,
                                     .host = gate->request.host,
                                     .port = gate->request.port,
                                     .rule = gate->rule,
                                     .why = why};

    gate->noted = true;
    note(connection, &what);
}

void gate_account(struct connection *connection)
{
    struct gate *gate = connection->gate;

    if (!gate || !gate->noted)
        return;
    int64_t out = connection->out.bytes > 0 ? connection->out.bytes : 0;
    int64_t in = connection->in.bytes > 0 ? connection->in.bytes : 0;
    if (out <= gate->told_out && in <= gate->told_in)
        return;
    const struct egress_note what = {.verdict = RULE_ALLOWED,
                                     .host = gate->request.host,
                                     .port = gate->request.port,
                                     .rule = gate->rule,
                                     .again = true,
                                     .bytes_out = (uint64_t)(out - gate->told_out),
                                     .bytes_in = (uint64_t)(in - gate->told_in)};
    gate->told_out = out;
    gate->told_in = in;
    note(connection, &what);
}

void gate_free(struct connection *connection)
{
    gate_account(connection);
    free(connection->gate);
    connection->gate = NULL;
}

/* ── refusals ── */

static int refuse(struct connection *connection, const char *status, const char *words)
{
    struct gate *gate = connection->gate;
    int length = snprintf(gate->second, sizeof gate->second,
                          "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
                          "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                          status, strlen(words), words);

    gate->answer = true;
    return connection_finish(connection, gate->second, (size_t)length);
}

static int refuse_head(struct connection *connection, const char *wrong)
{
    char words[300];

    note_denied(connection, wrong);
    (void)snprintf(words, sizeof words, "bottled: this request was not passed on, since it %s.\n",
                   wrong);
    return refuse(connection, "400 Bad Request", words);
}

static int refuse_target(struct connection *connection)
{
    const struct proxy_request *request = &connection->gate->request;
    char words[1200], rule[REQUEST_HOST_MAX + 8], normal[RULE_HOST_MAX + 1];
    bool web = request->port == 443 || request->port == 80;
    const char *wrong = rule_host_normal(request->host, strlen(request->host), normal);

    if (request->kind == REQUEST_OTHER) {
        note_denied(connection, "neither http:// nor CONNECT");
        (void)snprintf(words, sizeof words,
                       "bottled: this bottle may not reach %s by that kind of URL: its proxy takes "
                       "http:// URLs and CONNECT.\n",
                       request->host);
    } else if (wrong) {
        note_denied(connection, "not a host that a rule can name");
        (void)snprintf(words, sizeof words,
                       "bottled: this bottle may not reach %s:%u: no egress rule can allow it, "
                       "since the host %s.\n",
                       request->host, request->port, wrong);
    } else if (host_is_private(normal)) {
        note_denied(connection, "no rule for an address that is not public");
        (void)snprintf(
            words, sizeof words,
            "bottled: this bottle may not reach %s:%u, which is no public address. To allow "
            "it, add {\"host\": \"%s:%u\", \"private\": true} to egress.allow of the "
            "bottle's plan (PATCH /bottles/{slug}; it may run on meanwhile).\n",
            normal, request->port, normal, request->port);
    } else {
        note_denied(connection, "no rule");
        (void)snprintf(rule, sizeof rule, web ? "%s" : "%s:%u", normal, request->port);
        (void)snprintf(words, sizeof words,
                       "bottled: this bottle may not reach %s:%u: no egress rule allows it. To "
                       "allow it, add \"%s\" to egress.allow of the bottle's plan (PATCH "
                       "/bottles/{slug}; it may run on meanwhile).\n",
                       normal, request->port, rule);
    }
    return refuse(connection, "403 Forbidden", words);
}

/* Ends a tunnel; a TLS client is told by an alert (RFC 8446, 6.2). */
static int cut(struct connection *connection, const char *why, bool tls)
{
    static const char unrecognized_name[] = "\x15\x03\x03\x00\x02\x02\x70";

    note_denied(connection, why);
    connection->in.yields = false;
    if (connection_push(connection) < 0)
        return -1;
    return connection_finish(connection, unrecognized_name, tls ? sizeof unrecognized_name - 1 : 0);
}

/* ── the head ── */

/* 1: more bytes are there; 0: none; -1: the guest has ended or is gone. */
static int read_guest(struct connection *connection, size_t most)
{
    struct gate *gate = connection->gate;
    ssize_t got =
        recv(connection->guest.fd, gate->guest + gate->length, most - gate->length, MSG_DONTWAIT);

    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (got == 0)
        return -1;
    if (gate->length == 0) /* the first byte */
        loop_timer_set(connection->relay->loop, &connection->timer, clock_monotonic_ms() + SLOW_MS);
    gate->length += (size_t)got;
    return 1;
}

/* What the engine is sent: for an http:// request its head, and as much of its body as came along.
 */
static void prepare(struct gate *gate)
{
    size_t more = gate->length - gate->head;

    if (gate->request.kind == REQUEST_CONNECT) {
        gate->second_length = gate->head;
        memcpy(gate->second, gate->guest, gate->head);
        return;
    }
    if (more > gate->request.body)
        more = (size_t)gate->request.body; /* the rest is another request */
    gate->second_length = request_close(gate->guest, gate->head, gate->second);
    memcpy(gate->second + gate->second_length, gate->guest + gate->head, more);
    gate->second_length += more;
    if (gate->request.body != UINT64_MAX)
        gate->request.body -= more;
}

static int on_head(struct connection *connection)
{
    struct gate *gate = connection->gate;
    struct relay *relay = connection->relay;
    int length = head_length(gate->guest, gate->length);

    if (length < 0)
        return refuse_head(connection, "has a byte in its head that is not allowed there, or a "
                                       "line that ends in a line feed alone");
    if (length == 0)
        return gate->length < REQUEST_HEAD_MAX
                   ? 0
                   : refuse_head(connection, "has a head of more than 8 KiB");
    gate->head = (size_t)length;
    const char *wrong = request_read(gate->guest, gate->head, &gate->request);
    if (wrong)
        return refuse_head(connection, wrong);
    gate->known = true;
    const struct egress_rule *rule =
        gate->request.kind == REQUEST_OTHER
            ? NULL
            : rules_match(relay->rules, relay->n_rules, gate->request.host, gate->request.port);
    if (!rule)
        return refuse_target(connection);
    rule_text(rule, gate->rule);
    loop_timer_cancel(relay->loop, &connection->timer);
    prepare(gate);
    return connection_dial(connection);
}

/* ── the engine ── */

int gate_on_unreachable(struct connection *connection)
{
    note_denied(connection, "the proxy's engine does not listen");
    return refuse(connection, "503 Service Unavailable",
                  "bottled: the engine of this bottle's proxy does not listen.\n");
}

int gate_on_dialled(struct connection *connection)
{
    struct gate *gate = connection->gate;
    bool body = gate->request.kind == REQUEST_HTTP && gate->request.body > 0;

    gate->tries++;
    connection->out.first = gate->second;
    connection->out.first_length = gate->second_length;
    connection->out.limit = body ? gate->request.body : 0;
    if (gate->request.kind == REQUEST_HTTP && !gate->noted)
        note_allowed(connection, NULL);
    connection->one_answer = gate->request.kind == REQUEST_HTTP;
    connection->stage = body ? STAGE_FLOW : STAGE_ANSWER;
    return 0;
}

/* No byte of an answer came: the request is still whole. */
static int ask_again(struct connection *connection)
{
    if (connection->gate->tries >= ENGINE_TRIES)
        return gate_on_unreachable(connection);
    connection->out.bytes = 0;
    connection->dial_until_ms = 0;
    return connection_dial(connection);
}

static int on_tunnel(struct connection *connection)
{
    struct gate *gate = connection->gate;

    /* The hello's bytes: those that the guest sent with its head. */
    gate->length -= gate->head;
    memmove(gate->guest, gate->guest + gate->head, gate->length);
    connection->out.bytes = 0;
    connection->in.bytes = -(int64_t)gate->second_length;
    connection->stage = STAGE_HELLO;
    note_allowed(connection, NULL);
    if (gate->length > 0) {
        loop_timer_set(connection->relay->loop, &connection->timer, clock_monotonic_ms() + SLOW_MS);
        return gate_on_guest(connection);
    }
    return 0;
}

/* The engine's answer to a CONNECT that it does not serve goes to the guest, and is the end. */
static int on_refusal(struct connection *connection, int status)
{
    char why[64];

    (void)snprintf(why, sizeof why, "the engine answered %d", status);
    if (status == 403)
        note_denied(connection, why);
    else
        note_allowed(connection, why);
    connection->gate->noted = false; /* its page is no traffic of the host's */
    connection->one_answer = true;
    connection->stage = STAGE_FLOW;
    (void)shutdown(connection->sidecar.fd, SHUT_WR);
    return 0;
}

int gate_on_answer(struct connection *connection)
{
    struct gate *gate = connection->gate;

    if (gate->request.kind == REQUEST_HTTP) {
        char byte;
        ssize_t seen = recv(connection->sidecar.fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
        if (seen < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (seen <= 0)
            return ask_again(connection);
        connection->stage = STAGE_FLOW;
        return 0;
    }
    /* `second` holds the head that was sent until its first byte of an answer is here. */
    char bytes[4096];
    size_t have = gate->answer ? gate->second_length : 0, most = ANSWER_MAX - have;
    ssize_t got = recv(connection->sidecar.fd, bytes, most < sizeof bytes ? most : sizeof bytes,
                       MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0)
        return gate->answer ? -1 : ask_again(connection);
    if (connection->out.first_length > 0) /* it answers what it has not read */
        return -1;
    memcpy(gate->second + have, bytes, (size_t)got);
    gate->second_length = have + (size_t)got;
    gate->answer = true;
    int length = head_length(gate->second, gate->second_length);
    if (length == 0)
        return gate->second_length < ANSWER_MAX ? 0 : -1;
    int status = length > 0 ? answer_status(gate->second, (size_t)length) : -1;
    if (status < 200)
        return -1;
    connection->in.first = gate->second;
    connection->in.first_length = gate->second_length;
    return status < 300 ? on_tunnel(connection) : on_refusal(connection, status);
}

/* ── the hello ── */

static int pass(struct connection *connection)
{
    struct gate *gate = connection->gate;

    loop_timer_cancel(connection->relay->loop, &connection->timer);
    connection->out.first = gate->guest;
    connection->out.first_length = gate->length;
    connection->out.limit = UINT64_MAX;
    connection->stage = STAGE_FLOW;
    return 0;
}

static int on_hello(struct connection *connection, bool ended)
{
    struct gate *gate = connection->gate;
    char name[TLS_NAME_MAX + 1], normal[RULE_HOST_MAX + 1] = "";
    bool web = gate->request.port == WEB_PORT;

    (void)rule_host_normal(gate->request.host, strlen(gate->request.host), normal);
    if (gate->length == 0)
        return ended ? pass(connection) : 0; /* nothing to say is nothing to check */
    switch (tls_hello_read((const uint8_t *)gate->guest, gate->length, name)) {
    case TLS_HELLO_MORE:
        return ended ? cut(connection, "a TLS hello that is not whole", true) : 0;
    case TLS_HELLO_NONE:
        return web ? cut(connection, "no TLS on port 443", false) : pass(connection);
    case TLS_HELLO_NO_NAME:
        return web && !rule_host_is_address(normal)
                   ? cut(connection, "a TLS hello that names no host", true)
                   : pass(connection);
    case TLS_HELLO_NAME:
        return rule_host_equal(name, normal)
                   ? pass(connection)
                   : cut(connection, "a TLS hello for another host", true);
    case TLS_HELLO_BROKEN:
        break;
    }
    return cut(connection, "a TLS hello that is not well-formed", true);
}

int gate_on_guest(struct connection *connection)
{
    bool head = connection->stage == STAGE_HEAD;
    struct gate *gate = connection->gate;
    size_t most = head ? REQUEST_HEAD_MAX : TLS_HELLO_MAX;
    int result = 0;

    if (gate->length < most)
        result = read_guest(connection, most);
    if (head)
        return result < 0 ? -1 : on_head(connection);
    return on_hello(connection, result < 0);
}

int gate_on_late(struct connection *connection)
{
    struct gate *gate = connection->gate;

    if (gate->length == 0)
        return -1;
    if (connection->stage == STAGE_HELLO)
        return cut(connection, "a TLS hello that did not come to its end", true);
    note_denied(connection, "a head that did not come to its end");
    return refuse(connection, "408 Request Timeout",
                  "bottled: this request's head did not come to its end in time.\n");
}

bool gate_allowed(struct connection *connection)
{
    struct gate *gate = connection->gate;
    const struct relay *relay = connection->relay;

    if (!gate || !gate->known || connection->stage == STAGE_LINGER)
        return true;
    const struct egress_rule *rule =
        rules_match(relay->rules, relay->n_rules, gate->request.host, gate->request.port);
    if (rule)
        return true;
    gate_account(connection);
    note_denied(connection, "its rule is gone");
    return false;
}
