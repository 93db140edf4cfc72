/* Who may talk to the daemon.
 *
 * On the Unix socket the kernel says who the peer is: root and the daemon's own user may. On TCP
 * everybody on this machine can connect, browsers included, so a bearer token is wanted and the
 * Host header has to be one that is served (a name that an attacker points at 127.0.0.1 is not). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/hash.h"

struct auth {
    bool has_token;
    char token_digest[SHA256_HEX_SIZE]; /* the token itself is not kept */
};

/* Reads the first line of `token_file`: 16 to 512 visible characters, in a regular file that is
 * ours or root's and that nobody else may read or change. NULL or "": no token. */
int auth_load(const char *token_file, struct auth *ret, struct error *err);
/* Is this Authorization header (may be NULL) "Bearer <token>"? Takes the same time for every wrong
 * token. */
bool auth_token_fits(const struct auth *auth, const char *authorization);
/* May the process at the other end of this Unix socket use the daemon? */
bool auth_peer_fits(int fd);
/* Is this Host header one of those that a listener at `address` ("127.0.0.1:8080", "[::1]:8080")
 * serves: itself, or localhost with the same port? */
bool auth_host_fits(const char *address, const char *host);
