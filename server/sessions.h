/* Browsers' sessions: made from a token, known by a cookie, in memory only.
 *
 * A session has no rights of its own: it points to its token, whose role, end and revocation hold
 * for it at once. Bounded in number (of a token, and of all: the oldest goes) and in time. Of the
 * cookie only the digest is kept. Not safe for threads by itself. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"

enum { SESSIONS_MAX = 256, SESSIONS_OF_TOKEN = 16 };

struct session {
    char digest[SHA256_HEX_SIZE];       /* of the cookie; "": free */
    char token_digest[SHA256_HEX_SIZE]; /* whose it is */
    char csrf[SHA256_HEX_SIZE];         /* what a page has to send with each change */
    uint64_t number;                    /* in the order they were opened */
    int64_t opened_ms, ends_ms;         /* wall clock */
};

struct sessions {
    struct session rows[SESSIONS_MAX];
    uint64_t opened;
};

/* Opens one; the cookie's value goes to ret_cookie. */
struct session *session_open(struct sessions *sessions, const char *token_digest, int64_t now_ms,
                             int64_t ends_ms, char ret_cookie[SHA256_HEX_SIZE], struct error *err);
/* The session of that digest that has not ended, or NULL. */
struct session *session_find(struct sessions *sessions, const char *digest, int64_t now_ms);
void session_close(struct session *session);
