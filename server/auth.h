/* Single proofs of who a client is: the token_file's first line, an Authorization header, the
 * kernel's word on a Unix peer. What follows from them is in server/access.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/hash.h"
#include "server/access.h"

struct auth {
    bool has_token;
    char token_digest[SHA256_HEX_SIZE]; /* the token itself is not kept */
};

/* Reads the first line of `token_file`: 16 to 512 visible characters, in a regular file that is
 * ours or root's and that nobody else may read or change. NULL or "": no token. */
int auth_load(const char *token_file, struct auth *ret, struct error *err);
/* The token in an Authorization header ("Bearer <token>"; may be NULL), borrowed, or NULL. */
const char *auth_bearer(const char *authorization);

/* A group whose members may use the Unix socket. */
struct unix_group {
    bool used;
    gid_t gid;
    enum role role;
};
/* By name or number; "": none. -1 when there is no such group. */
int unix_group_find(const char *name, struct unix_group *ret, struct error *err);
/* Who connected to this Unix socket? */
bool auth_peer(int fd, struct unix_peer *ret);
/* What that one may do; ROLE_NONE: nothing. */
enum role auth_peer_role(int fd, const struct unix_peer *peer, const struct unix_group *group);
