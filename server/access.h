/* Who a client is, and what it may do.
 *
 * On the Unix socket the kernel says who the peer is: root and the daemon's own user may do all,
 * the configured group what its role says. On TCP everybody can connect, browsers included: a
 * client shows a token (server/tokens.h), or a session that was made from one (server/sessions.h);
 * the Host has to be one that is served, and a change that a page makes has to come from a page of
 * ours or of an origin that was configured (server/origin.h). Wrong tokens are counted by address
 * (server/attempts.h); nothing of that is ever looked at for a Unix peer. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/hash.h"

/* Each role may do what the ones before it may. */
enum role {
    ROLE_NONE,    /* in no row of the routes: a row without a role is a fault */
    ROLE_READ,    /* look at everything but the files of guests */
    ROLE_OPERATE, /* make, run, change and remove bottles; import images */
    ROLE_ADMIN,   /* also what all bottles share: remove images, clean up */
    N_ROLES
};
extern const char *const role_names[N_ROLES]; /* "none", "read", "operate", "admin" */
/* ROLE_NONE for what is no name of a role that someone can have. */
enum role role_parse(const char *name);

enum via { VIA_NOBODY, VIA_UNIX, VIA_TOKEN, VIA_SESSION, N_VIAS };
extern const char *const via_names[N_VIAS];

enum { IDENTITY_NAME_SIZE = 65 };

/* Who sent a request. */
struct identity {
    enum via via;
    enum role role;
    char name[IDENTITY_NAME_SIZE];    /* of the token; of a Unix peer its uid */
    char credential[SHA256_HEX_SIZE]; /* digest of the token, or of the session's cookie */
};

/* Who connected to a Unix socket; it stays so as long as the connection does. */
struct unix_peer {
    uid_t uid;
    gid_t gid;
    char name[12]; /* the uid */
};

/* What a request shows of who sent it. Strings are borrowed; NULL: not there. */
struct claim {
    int fd;                       /* the connection */
    const struct unix_peer *peer; /* of a Unix socket; NULL: not known */
    bool tcp, tls;
    bool changes; /* its method is one that changes something */
    const char *host, *origin, *authorization, *cookie, *csrf;
};

struct access;
struct config;

struct access *access_new(const struct config *config, struct error *err);
void access_free(struct access *access);
/* Takes the keys of a configuration that was read again; on a fault what holds stays. */
int access_apply(struct access *access, const struct config *config, struct error *err);

/* May a request with this Host and Origin be looked at? -1 with the problem's kind. On success
 * *ret_cors says whether the Origin is one of another site that may call. */
int access_check_origin(struct access *access, const struct claim *claim, bool *ret_cors,
                        struct error *err);
/* Who is it? -1 with the problem's kind: "unauthorized", "forbidden", "forbidden-csrf", or
 * "too-many-attempts", and then *ret_wait_s says how long to wait. */
int access_identify(struct access *access, const struct claim *claim, struct identity *ret,
                    int64_t *ret_wait_s, struct error *err);
/* Does what identified this client still hold (not revoked, not over)? */
bool access_holds(struct access *access, const struct identity *identity);

/* A browser's session for the holder of a token. */
struct session_facts {
    char cookie[SHA256_HEX_SIZE]; /* its value; only when it is opened */
    char csrf[SHA256_HEX_SIZE];
    int64_t ends_ms; /* wall clock */
};
#define SESSION_COOKIE "bottled_session"
int access_open_session(struct access *access, const struct identity *identity,
                        struct session_facts *ret, struct error *err);
/* Of a session's identity; false when it is over. */
bool access_session(struct access *access, const struct identity *identity,
                    struct session_facts *ret);
void access_close_session(struct access *access, const struct identity *identity);
/* Numbers for /metrics. */
struct access_counts {
    uint64_t wrong, limited; /* wrong tokens; requests that had to wait */
    unsigned sessions, tokens;
};
void access_count(struct access *access, struct access_counts *ret);
