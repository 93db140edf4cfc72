/* The HTTP side of the daemon: listeners, and the life of a request from its first byte to its
 * answer. */
#pragma once

#include "base/error.h"
#include "base/text.h"

struct app;
struct config;
struct http;

/* Opens every listener of the configuration and answers from then on. */
struct http *http_start(struct app *app, struct error *err);
/* "unix:/run/bottled/bottled.sock, http://127.0.0.1:8080". */
void http_describe(const struct http *http, struct text *out);
/* Takes the live keys of a configuration that was read again: tokens, names, origins, certificate.
 * On a fault what holds stays. */
int http_apply(struct http *http, const struct config *config, struct error *err);
/* Returns; unless its lock is held for ever. */
void http_touch(struct http *http);
/* Takes no more connections, answers every request that still waits with 503 "shutting-down", and
 * ends the listeners. Replies that come later are dropped: handlers' callbacks may still run until
 * http_free. */
void http_stop(struct http *http);
/* Asks the streams that rest (struct stream) again; `context` is the struct http. From any thread.
 */
void http_ring(void *context);
void http_free(struct http *http);
