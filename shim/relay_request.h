/* The head of a request to a proxy, and of the proxy's answer (RFC 9112). Pure.
 *
 * Far stricter than a server need be: a head that two readers could take for different things (bare
 * line feeds, folded lines, two lengths, a Host that is not the target's) is refused, since the
 * engine behind reads it again by its own rules. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/rule_match.h"

enum {
    REQUEST_HEAD_MAX = 8 * 1024,
    REQUEST_HOST_MAX = 300, /* longer ones are cut: no rule allows them anyway */
};

enum request_kind {
    REQUEST_CONNECT,
    REQUEST_HTTP, /* METHOD http://host[:port]/… */
    REQUEST_OTHER /* a target that no rule can speak of: "https://…", "ftp://…" */
};

struct proxy_request {
    enum request_kind kind;
    char host[REQUEST_HOST_MAX + 1]; /* printable ASCII, as it was sent, without brackets */
    uint16_t port;                   /* 0: of REQUEST_OTHER */
    uint64_t body; /* bytes that follow the head; UINT64_MAX when only its chunks say how many */
};

/* Length of the head, its empty line included; 0: it is not whole; -1: it can't become one. */
int head_length(const char *bytes, size_t length);
/* Reads a whole head. NULL, or what is wrong with it (static text that follows "the request "). */
const char *request_read(const char *head, size_t length, struct proxy_request *ret);
/* The head of an http:// request for the engine: the same, but its connection ends with the
 * answer, so that no request follows that nobody looked at. Writes at most `length` +
 * REQUEST_CLOSE_MORE bytes; gives how many. */
enum { REQUEST_CLOSE_MORE = sizeof "Connection: close\r\n" - 1 };
size_t request_close(const char *head, size_t length, char *ret);
/* The status of an answer whose head is whole; -1 when it is none. */
int answer_status(const char *head, size_t length);
