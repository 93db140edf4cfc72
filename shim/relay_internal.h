/* What relay.c (moving bytes) and relay_gate.c (looking at the first ones) share. */
#pragma once

#include <netinet/in.h>

#include "shim/relay.h"
#include "shim/relay_request.h"

/* One way of a connection. Its pipe is filled only when empty and emptied before it is filled
 * again, so that EAGAIN from a splice always speaks of the socket. */
struct direction {
    int from, to;
    int pipe[2];
    size_t held;       /* bytes in the pipe */
    const char *first; /* sent before anything is read; borrowed */
    size_t first_length;
    uint64_t limit; /* how much more may be read; 0: nothing, not even the end */
    bool ended;     /* `from` is at its end */
    bool yields;    /* `to` is not told yet: it may close by itself */
    bool shut;      /* `to` was told */
    int64_t bytes;  /* sent on */
};

enum stage {
    STAGE_HEAD,   /* guarded: the head of the guest's request is read */
    STAGE_DIAL,   /* the sidecar is being connected to, or soon again */
    STAGE_ANSWER, /* guarded: it was sent the head and has not answered */
    STAGE_HELLO,  /* guarded: the tunnel is there, and the guest's first bytes are looked at */
    STAGE_FLOW,
    STAGE_LINGER, /* the guest gets the last bytes; what it still sends is thrown away */
};

struct gate;

struct connection {
    struct relay *relay;
    struct loop_source guest, sidecar; /* fd -1: none yet */
    struct direction out, in;          /* guest → sidecar, sidecar → guest */
    enum stage stage;
    struct loop_timer timer;
    int64_t dial_until_ms;
    bool one_answer;   /* once the sidecar has ended, nothing more of the guest's matters */
    struct gate *gate; /* NULL: not guarded */
    struct connection *next, *previous;
};

struct relay {
    struct loop *loop;
    struct loop_source listener;
    struct loop_timer resume, account;
    struct sockaddr_in sidecar; /* where it listens */
    unsigned count, max;
    struct connection *connections;
    bool guarded;
    struct relay_owner owner;
    struct egress_rule *rules;
    size_t n_rules;
};

/* Each of these gives -1 when the connection is broken and must be freed by the caller. */
int connection_dial(struct connection *connection);
/* Gives the guest what is there for it. */
int connection_push(struct connection *connection);
/* Sends `bytes` (borrowed, kept by the caller's gate) to the guest and ends. */
int connection_finish(struct connection *connection, const char *bytes, size_t length);
void connection_free(struct connection *connection);
void connection_update(struct connection *connection);

int gate_new(struct connection *connection);
/* Notes what is not yet noted. */
void gate_free(struct connection *connection);
int gate_on_guest(struct connection *connection);
/* The sidecar is connected. */
int gate_on_dialled(struct connection *connection);
/* It can't be. */
int gate_on_unreachable(struct connection *connection);
int gate_on_answer(struct connection *connection);
int gate_on_late(struct connection *connection);
/* Whether the rules allow what the connection is for; true when that is not known yet. */
bool gate_allowed(struct connection *connection);
/* Notes the bytes that went since the last time. */
void gate_account(struct connection *connection);
