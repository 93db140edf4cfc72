/* What stands between a client's connection and libmicrohttpd: every byte that it reads was looked
 * at here before.
 *
 * libmicrohttpd 0.9.75 has no hook for this, accepts requests that two readers read in two ways,
 * answers others by itself and in HTML, and closes on slow clients without a word. Of what could
 * stand before it:
 *   - a look at the head by MSG_PEEK before the connection is handed over sees the first request of
 *     a connection only, and nothing of TLS;
 *   - a proxy of our own, with a socketpair to libmicrohttpd, copies every byte twice, takes a
 *     second descriptor and a switch of threads for each request, and hides the peer's credentials;
 *   - so it is the call itself: libmicrohttpd reads by recv(), and bottled's own recv() (recv.c, in
 *     no other program) gives it what a struct front lets through; under TLS it reads by
 *     gnutls_record_recv(), and there is one of those too.
 * That a later libmicrohttpd may read otherwise is not left to luck: a request that no front let
 * through is answered with 500 (front_saw).
 *
 * A front reads one connection as a machine of states: a head, checked whole (head.h) and then
 * passed on as it is, but for an absolute target's origin and a cookie's name; a body of so many
 * bytes; chunks, which are passed on with lines of our own. A head that is refused is taken out,
 * and in its place libmicrohttpd reads "GET !N HTTP/1.1": no target of a client gets through that
 * starts with
 * "!", so that N, a row of head_faults, is the answer that http.c gives; nothing that comes after
 * it is read. Where a body breaks off, one byte is put in for http.c to be called with, which asks
 * front_broken().
 *
 * Who is slow is found by front_tick(), once a second: its end of the socket is shut for reading,
 * which wakes libmicrohttpd, and the next read says so (408). libmicrohttpd waits for edges of its
 * epoll set: a read may come short only where the socket was drained. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/head.h"

/* What a Cookie header is called from here on, as no client can call one: libmicrohttpd would take
 * it apart, and answers by itself, in HTML, where it runs out of room for that or of patience. */
#define FRONT_COOKIE "@ookie"

struct front;

/* How long a connection may wait between requests, a head may take, and a body may pause (a body
 * that is kept in memory: take). */
struct front_patience {
    int64_t idle_ms, head_ms, body_ms;
};

/* From here on what is read from `fd` goes through it; with `tls` what is deciphered, and the
 * socket's own bytes do not. `crowded`: it is one connection too many, and each request is told so.
 * NULL: no memory. */
struct front *front_open(int fd, bool tls, bool crowded);
/* Before the descriptor is closed. NULL is fine. */
void front_close(struct front *front);

/* libmicrohttpd has read a request line: its number on this connection, from 1; 0 when the front
 * has let no such request through. */
unsigned front_saw(struct front *front);
/* The fault whose number stands in a request line's target; HEAD_OK: it is a client's own. */
enum head_fault_row front_refused(const char *target);
/* Of request `number`: how its body broke off; HEAD_OK: it did not. */
enum head_fault_row front_broken(const struct front *front, unsigned number);
/* The body of request `number` is not kept: it may take its time, as long as it goes on. */
void front_streams(struct front *front, unsigned number);
/* May the client have sent what nobody has read? Then closing resets the connection, and what was
 * answered may be lost on its way. */
bool front_unread(const struct front *front);
/* A request is over. */
void front_done(struct front *front);

/* Any thread; the caller sees to it that front_close() is not called meanwhile. */
void front_tick(struct front *front, const struct front_patience *patience, int64_t now_ms);

/* For recv.c: as recv(), which `read` stands for. *ret_found: there is a front for this
 * descriptor's bytes (deciphered ones: `tls`); without one nothing was done. */
typedef ssize_t front_source(void *context, char *out, size_t room);
ssize_t front_read(int fd, bool tls, front_source *read, void *context, char *out, size_t room,
                   bool *ret_found);
