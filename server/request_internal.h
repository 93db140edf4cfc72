/* What the files of the HTTP side know of a request, and handlers do not.
 *
 * Life of a request: http.c makes it when libmicrohttpd has read the request line, intake.c looks
 * at the headers and either finds a route or keeps the problem to answer with, http.c collects the
 * body and calls the handler, request.c makes the response, and http_deliver() hands it over. Two
 * hold a reference: the connection until it is done, and whoever still owes the answer. Between the
 * two stands http->lock: the answer may come from any thread, before or after the handler returned,
 * and even after the client has gone (then it is dropped). */
#pragma once

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/text.h"
#include "server/access.h"
#include "server/address.h"
#include "server/config.h"
#include "server/front.h"
#include "server/idempotency.h"
#include "server/made.h"
#include "server/request.h"
#include "server/routes.h"

enum {
    REQUEST_ID_SIZE = MADE_ID_SIZE,
    HEADER_POOL = 32 * 1024, /* per connection: a head of HEAD_BYTES_MAX, and the answer's */
    RESPONSE_HEADERS_MAX = 16,
    FAREWELL_STATUS = 503,
    LINGERING_MAX = 64,
};

struct listener {
    struct http *http;
    struct MHD_Daemon *daemon;
    bool tcp;
    int fd;                /* until libmicrohttpd closes it */
    ino_t inode;           /* of the Unix socket's file; 0: it is not ours */
    char address[128];     /* path, or "127.0.0.1:8080" */
    int64_t n_connections; /* under the lock */
};

/* libmicrohttpd's connection, as connections.c knows it. */
struct connection {
    struct front *front; /* NULL: no memory */
    struct listener *listener;
    int fd;
    bool has_peer;
    struct unix_peer peer;              /* over a Unix socket */
    struct connection *next, *previous; /* in http->connections */
};

/* A socket that was closed before its client had said all. */
struct linger_socket {
    int fd;
    int64_t until_ms; /* 0: the place is free */
};

/* A stream that had nothing to say: its connection is suspended until the ticker resumes it. */
struct parked {
    struct MHD_Connection *connection;
    int fd;          /* something there ends the wait sooner; -1: none */
    uint32_t events; /* of epoll, to wait for at `fd` */
    int64_t due_ms;
    bool rests; /* http_ring() ends the wait */
    struct parked *next;
};

struct http {
    struct app *app;
    struct access *access;
    struct tls *tls;              /* NULL: TCP without it */
    struct shared_bytes *openapi; /* NULL: was not there at the start */
    unsigned run_number; /* random; tells the request ids of one run from those of others */
    struct listener listeners[LISTEN_MAX + 1];
    size_t n_listeners;
    pthread_t ticker;
    bool ticker_runs;
    pthread_t waker;
    bool waker_runs;
    int waker_epoll, waker_end; /* -1: none */
    atomic_bool stopping;       /* no new work; set under the lock */
    struct counter active;      /* requests whose connection is not done with them */
    pthread_mutex_t lock;       /* guards all below, and what struct request says */
    pthread_cond_t changed;
    bool farewell; /* nothing is suspended any more */
    struct request *suspended;
    struct parked *parked;
    struct connection *connections;
    struct linger_socket lingering[LINGERING_MAX];
    unsigned n_lingering;
    int64_t ticker_due_ms; /* when the ticker will look again */
    atomic_uint rings;     /* changed under the lock */
};

struct header {
    const char *name, *value; /* owned by the request, in one block with the struct */
    size_t name_length;
    struct header *next;
};

/* The first of that name (RFC 9110, 5.1: in any case); NULL: none. */
const struct header *header_find(const struct header *list, const char *name);
/* Copies both, before `next`; NULL: no memory. */
struct header *header_new(const char *name, size_t name_length, const char *value,
                          size_t value_length, struct header *next);

struct request {
    struct http *http;
    const struct listener *listener;
    struct MHD_Connection *connection; /* NULL once the connection is done; guarded */
    struct front *front; /* the connection's, as long as that has the request; NULL: no memory */
    struct uri uri;
    const char *uri_fault; /* static; NULL when uri holds */
    unsigned number;       /* on its connection; see front_saw() */
    char method[24];
    bool changes; /* the method is one of those that change something */
    char id[REQUEST_ID_SIZE];
    char from[ADDRESS_SIZE];  /* the address, over TCP; else "" */
    struct identity identity; /* who sent it; VIA_NOBODY until that is known */
    struct route_match match;
    struct header *headers;  /* all but Authorization and Cookie */
    struct key_claim *claim; /* of its Idempotency-Key; NULL: none, or it is answered */
    bool begun, dispatched;
    bool taking;    /* the handler was called, and the body is still to come: see BODY_STREAM */
    bool options;   /* OPTIONS of a known path: answered here */
    bool preflight; /* a browser asks whether a page of a configured origin may call */
    bool expects_continue;
    bool misframed;    /* nobody knows what comes behind its head */
    uint64_t declared; /* Content-Length */
    bool has_body;
    struct problem early; /* what was wrong before a handler was asked */
    struct text body;
    struct worker worker; /* all NULL: none */
    struct parked parked;
    uint64_t received;
    int64_t started_us;
    struct header *reply_headers;
    size_t n_reply_headers;
    bool direct; /* answered inside its own call: no other thread has known it */
    atomic_uint references;
    /* Guarded by http->lock from here on, unless `direct`. */
    bool answered, suspended, abandoned;
    unsigned status;
    struct MHD_Response *response; /* waits to be queued */
    struct made *made;             /* whose response it is, where it is not the request's own */
    int64_t suspended_ms;
    struct request *next, *previous; /* in http->suspended */
};

/* The bytes of a body that is kept whole (max_body_bytes). */
uint64_t request_body_max(const struct request *request);

/* intake.c: looks at all that came before the body; leaves the match, or a problem in
 * request->early. */
void intake(struct request *request, const char *method);

/* request.c: the problem's body, and a whole response of it; NULL when memory is short. */
char *problem_words(const struct request *request, const struct problem *problem);
struct MHD_Response *problem_response(const struct request *request, const struct problem *problem);

/* What libmicrohttpd calls (see doors.c), with a struct listener as its context. */
void *http_request_line(void *context, const char *target, struct MHD_Connection *connection);
enum MHD_Result http_request(void *context, struct MHD_Connection *connection, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *upload_length, void **connection_context);
void http_completed(void *context, struct MHD_Connection *connection, void **connection_context,
                    enum MHD_RequestTerminationCode code);
void connection_notify(void *context, struct MHD_Connection *connection, void **socket_context,
                       enum MHD_ConnectionNotificationCode code);

/* connections.c: what stands before the connection; NULL when there is nothing. */
struct front *connection_front(struct MHD_Connection *connection);
/* Who is at a Unix socket's other end; NULL: it is not known. */
const struct unix_peer *connection_peer(struct MHD_Connection *connection);
/* Under the lock, once a second: turns away those that are slow. */
void connections_tick(struct http *http);
/* Under the lock, often while http->n_lingering. */
void connections_linger(struct http *http, bool all_end);

/* The answer of a daemon that is ending. */
struct MHD_Response *farewell_response(const struct request *request);

/* listeners.c: opens all of them; doors.c has each answered. */
int listeners_open(struct http *http, struct error *err);
int listener_serve(struct listener *listener, struct error *err);

/* http.c */
void request_unref(struct request *request);
/* Under the lock: lets a suspended request go on. */
void request_wake(struct request *request);
/* Gives the finished response (taken over; NULL: no memory for one) to the connection. Drops the
 * answerer's reference. */
void http_deliver(struct request *request, unsigned status, struct MHD_Response *response);
/* Is its handler being asked right now, in this thread? What it answers is sent from here. */
bool http_asks(const struct request *request);

/* ticker.c: resumes parked streams when they are due, and lets go of suspended requests whose
 * client has gone. */
int ticker_start(struct http *http, struct error *err);
enum park {
    PARK_PARKED,
    PARK_RANG,   /* http_ring() was called meanwhile: ask the stream once more */
    PARK_ENDING, /* it should end instead */
};
/* Suspends the connection until the ticker's next round (100 ms), or until `fd` (-1: none) has
 * something to read. */
enum park ticker_park(struct http *http, struct parked *parked, struct MHD_Connection *connection,
                      int fd);
/* The same for a stream that rests: until http_ring(), its client's leaving, or `rest_ms`. `rings`
 * is the count from before the stream was asked. */
enum park ticker_rest(struct http *http, struct parked *parked, struct MHD_Connection *connection,
                      bool tcp, int rest_ms, unsigned rings);
/* waker.c: the same thread for all streams; `watch` and `forget` under the lock. */
int waker_start(struct http *http, struct error *err);
void waker_stop(struct http *http);
void waker_watch(struct http *http, struct parked *parked);
void waker_forget(struct http *http, const struct parked *parked);
/* Is nobody at the other end any more? */
bool connection_gone(struct MHD_Connection *connection, bool tcp);
/* Under the lock: resumes a suspended request so that its connection ends with this response (may
 * be NULL). */
void request_abandon(struct request *request, unsigned status, struct MHD_Response *response);
