#include "server/access.h"

#include <grp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/number.h"
#include "base/util.h"
#include "server/attempts.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/log.h"
#include "server/origin.h"
#include "server/sessions.h"
#include "server/tokens.h"

const char *const role_names[N_ROLES] = {"none", "read", "operate", "admin"};
const char *const via_names[N_VIAS] = {"nobody", "unix", "token", "session"};

struct access {
    struct unix_group group;
    pthread_mutex_t lock; /* guards all below */
    struct settings {
        char *server_names, *cors_origins;
        int64_t session_ms, wrong_tokens;
        bool has_file_token;
        struct token file_token;
    } settings;
    struct token_watch watch;
    struct sessions sessions;
    struct attempts attempts;
    uint64_t wrong, limited;
};

enum role role_parse(const char *name)
{
    for (int role = ROLE_READ; role < N_ROLES; role++)
        if (strcmp(role_names[role], name) == 0)
            return (enum role)role;
    return ROLE_NONE;
}

/* --- Settings ------------------------------------------------------------------------------- */

static void free_settings(struct settings *settings)
{
    free(settings->server_names);
    free(settings->cors_origins);
}

static int read_settings(const struct config *config, struct settings *ret, struct error *err)
{
    struct auth auth;

    if (auth_load(config->token_file, &auth, err) < 0)
        return -1;
    *ret = (struct settings){.server_names = strdup(config->server_names),
                             .cors_origins = strdup(config->cors_origins),
                             .session_ms = config->session_ms,
                             .wrong_tokens = config->wrong_tokens,
                             .has_file_token = auth.has_token,
                             .file_token = {.name = TOKEN_FILE_NAME, .role = ROLE_ADMIN}};
    memcpy(ret->file_token.digest, auth.token_digest, sizeof auth.token_digest);
    if (ret->server_names && ret->cors_origins)
        return 0;
    free_settings(ret);
    return error_set(err, NULL, "out of memory");
}

int access_apply(struct access *access, const struct config *config, struct error *err)
{
    struct settings settings, old;

    if (read_settings(config, &settings, err) < 0)
        return -1;
    (void)pthread_mutex_lock(&access->lock);
    old = access->settings;
    access->settings = settings;
    (void)pthread_mutex_unlock(&access->lock);
    free_settings(&old);
    return 0;
}

struct access *access_new(const struct config *config, struct error *err)
{
    struct access *access = calloc(1, sizeof *access);

    if (!access) {
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    (void)pthread_mutex_init(&access->lock, NULL);
    access->watch.fd = -1;
    if (unix_group_find(config->socket_group, &access->group, err) == 0 &&
        watch_open(&access->watch, config->state_dir, err) == 0 &&
        access_apply(access, config, err) == 0) {
        access->group.role = role_parse(config->socket_group_role);
        return access;
    }
    access_free(access);
    return NULL;
}

void access_free(struct access *access)
{
    if (!access)
        return;
    watch_close(&access->watch);
    free_settings(&access->settings);
    (void)pthread_mutex_destroy(&access->lock);
    free(access);
}

/* --- Host and Origin ------------------------------------------------------------------------ */

int access_check_origin(struct access *access, const struct claim *claim, bool *ret_cors,
                        struct error *err)
{
    union address local = {0};
    char address[ADDRESS_SIZE] = "";

    *ret_cors = false;
    (void)pthread_mutex_lock(&access->lock);
    const struct settings *settings = &access->settings;
    bool host = !claim->tcp || (address_local(claim->fd, &local) == 0 &&
                                host_fits(&local, claim->tls, settings->server_names, claim->host));
    *ret_cors = claim->origin && list_has(settings->cors_origins, claim->origin);
    (void)pthread_mutex_unlock(&access->lock);
    if (!host) {
        address_format(&local, address);
        return error_set(err, "forbidden-host",
                         "the Host has to be %s, or one of the key server_names%s", address,
                         address_is_loopback(&local) ? ", or localhost with that port" : "");
    }
    if (!claim->origin || *ret_cors || !claim->changes ||
        origin_is_same(claim->origin, claim->host, claim->tls))
        return 0;
    return error_set(err, "forbidden-origin",
                     "pages of %.100s may change nothing here; the key cors_origins lists those "
                     "that may",
                     claim->origin);
}

/* --- Who is it? ----------------------------------------------------------------------------- */

static int identify_unix(const struct access *access, const struct claim *claim,
                         struct identity *ret, struct error *err)
{
    const struct unix_peer *peer = claim->peer;
    enum role role = peer ? auth_peer_role(claim->fd, peer, &access->group) : ROLE_NONE;

    if (role == ROLE_NONE)
        return error_set(err, "forbidden",
                         "only root, the user that runs bottled and the group of the key "
                         "socket_group may use this socket");
    *ret = (struct identity){.via = VIA_UNIX, .role = role};
    memcpy(ret->name, peer->name, sizeof peer->name);
    return 0;
}

/* Under the lock: the row of a token's digest. */
static const struct token *find_token(struct access *access, const char *digest)
{
    const struct settings *settings = &access->settings;
    const struct token_watch *watch = &access->watch;

    watch_refresh(&access->watch);
    const struct token *token = token_find(watch->tokens.rows, watch->tokens.count, digest);
    return token ? token : token_find(&settings->file_token, settings->has_file_token, digest);
}

static void become(struct identity *ret, enum via via, const struct token *token,
                   const char *credential)
{
    *ret = (struct identity){.via = via, .role = token->role};
    memcpy(ret->name, token->name, sizeof ret->name);
    memcpy(ret->credential, credential, sizeof ret->credential);
}

static int refuse(struct error *err, const char *why)
{
    return error_set(err, "unauthorized",
                     "%s; send a token as \"Authorization: Bearer TOKEN\" (bottled token create "
                     "makes one)",
                     why);
}

/* Under the lock. */
static int identify_token(struct access *access, const struct claim *claim,
                          const union address *peer, struct identity *ret, struct error *err)
{
    const char *value = auth_bearer(claim->authorization);
    char digest[SHA256_HEX_SIZE], from[ADDRESS_SIZE];

    if (!value)
        return refuse(err, "the Authorization is not one Bearer token");
    sha256_hex(value, strlen(value), digest);
    const struct token *token = find_token(access, digest);
    if (!token) {
        access->wrong++;
        attempts_add(&access->attempts, peer, clock_monotonic_ms());
        address_format(peer, from);
        log_event(LEVEL_WARNING, "wrong token", LOG_TEXT("from", from));
        return refuse(err, "the token is wrong, or was revoked");
    }
    if (token_expired(token, clock_wall_ms()))
        return refuse(err, "the token has expired");
    become(ret, VIA_TOKEN, token, digest);
    return 0;
}

/* The value of our cookie in a Cookie header, as a digest; false when it is not there. */
static bool cookie_digest(const char *cookies, char ret[SHA256_HEX_SIZE])
{
    const size_t length = strlen(SESSION_COOKIE);

    for (const char *at = cookies; at && *at;) {
        at += strspn(at, "; ");
        if (strncmp(at, SESSION_COOKIE "=", length + 1) == 0) {
            at += length + 1;
            sha256_hex(at, strcspn(at, "; "), ret);
            return true;
        }
        at += strcspn(at, ";");
    }
    return false;
}

/* Under the lock. */
static int identify_session(struct access *access, const struct claim *claim, const char *digest,
                            struct identity *ret, struct error *err)
{
    int64_t now = clock_wall_ms();
    const struct session *session = session_find(&access->sessions, digest, now);
    const struct token *token = session ? find_token(access, session->token_digest) : NULL;
    char sent[SHA256_HEX_SIZE], meant[SHA256_HEX_SIZE];

    if (!token || token_expired(token, now))
        return refuse(err, "the session is over");
    if (claim->changes) {
        /* Digests are compared, so that the time says nothing of the value. */
        sha256_hex(claim->csrf ? claim->csrf : "", claim->csrf ? strlen(claim->csrf) : 0, sent);
        sha256_hex(session->csrf, strlen(session->csrf), meant);
        if (strcmp(sent, meant) != 0)
            return error_set(err, "forbidden-csrf",
                             "a change by a session needs the header X-CSRF-Token with the "
                             "csrf_token of GET /session");
    }
    become(ret, VIA_SESSION, token, digest);
    return 0;
}

/* Under the lock. */
static int identify_tcp(struct access *access, const struct claim *claim, struct identity *ret,
                        int64_t *ret_wait_s, struct error *err)
{
    char digest[SHA256_HEX_SIZE];
    union address peer;

    if (!claim->authorization)
        return cookie_digest(claim->cookie, digest)
                   ? identify_session(access, claim, digest, ret, err)
                   : refuse(err, "this needs a token");
    if (address_peer(claim->fd, &peer) < 0)
        return refuse(err, "the connection is gone");
    int64_t wait_ms = attempts_wait_ms(&access->attempts, &peer, access->settings.wrong_tokens,
                                       clock_monotonic_ms());
    if (wait_ms == 0)
        return identify_token(access, claim, &peer, ret, err);
    access->limited++;
    *ret_wait_s = (wait_ms + 999) / 1000;
    return error_set(err, "too-many-attempts",
                     "too many wrong tokens came from this address; wait %lld s",
                     (long long)*ret_wait_s);
}

int access_identify(struct access *access, const struct claim *claim, struct identity *ret,
                    int64_t *ret_wait_s, struct error *err)
{
    *ret_wait_s = 0;
    if (!claim->tcp)
        return identify_unix(access, claim, ret, err);
    (void)pthread_mutex_lock(&access->lock);
    int result = identify_tcp(access, claim, ret, ret_wait_s, err);
    (void)pthread_mutex_unlock(&access->lock);
    return result;
}

bool access_holds(struct access *access, const struct identity *identity)
{
    struct session *session = NULL;
    int64_t now = clock_wall_ms();

    if (identity->via == VIA_UNIX || identity->via == VIA_NOBODY) /* of a route that is open */
        return true;
    (void)pthread_mutex_lock(&access->lock);
    if (identity->via == VIA_SESSION)
        session = session_find(&access->sessions, identity->credential, now);
    const char *digest = identity->via == VIA_TOKEN ? identity->credential
                         : session                  ? session->token_digest
                                                    : NULL;
    const struct token *token = digest ? find_token(access, digest) : NULL;
    bool holds = token && !token_expired(token, now) && token->role >= identity->role;
    (void)pthread_mutex_unlock(&access->lock);
    return holds;
}

/* --- Sessions ------------------------------------------------------------------------------- */

int access_open_session(struct access *access, const struct identity *identity,
                        struct session_facts *ret, struct error *err)
{
    int64_t now = clock_wall_ms();
    int result = -1;

    if (identity->via != VIA_TOKEN)
        return error_set(err, "forbidden", "a session is for who sends a bearer token");
    (void)pthread_mutex_lock(&access->lock);
    const struct token *token = find_token(access, identity->credential);
    if (!token) {
        (void)refuse(err, "the token was revoked");
    } else {
        int64_t ends = now + access->settings.session_ms;
        if (token->expires_ms && token->expires_ms < ends)
            ends = token->expires_ms;
        const struct session *session =
            session_open(&access->sessions, token->digest, now, ends, ret->cookie, err);
        if (session) {
            memcpy(ret->csrf, session->csrf, sizeof ret->csrf);
            ret->ends_ms = ends;
            result = 0;
        }
    }
    (void)pthread_mutex_unlock(&access->lock);
    return result;
}

bool access_session(struct access *access, const struct identity *identity,
                    struct session_facts *ret)
{
    *ret = (struct session_facts){0};
    (void)pthread_mutex_lock(&access->lock);
    const struct session *session =
        identity->via == VIA_SESSION
            ? session_find(&access->sessions, identity->credential, clock_wall_ms())
            : NULL;
    if (session) {
        memcpy(ret->csrf, session->csrf, sizeof ret->csrf);
        ret->ends_ms = session->ends_ms;
    }
    (void)pthread_mutex_unlock(&access->lock);
    return session != NULL;
}

void access_close_session(struct access *access, const struct identity *identity)
{
    (void)pthread_mutex_lock(&access->lock);
    struct session *session =
        session_find(&access->sessions, identity->credential, clock_wall_ms());
    if (session)
        session_close(session);
    (void)pthread_mutex_unlock(&access->lock);
}

void access_count(struct access *access, struct access_counts *ret)
{
    int64_t now = clock_wall_ms();

    *ret = (struct access_counts){0};
    (void)pthread_mutex_lock(&access->lock);
    watch_refresh(&access->watch);
    ret->wrong = access->wrong;
    ret->limited = access->limited;
    ret->tokens = (unsigned)access->watch.tokens.count + (access->settings.has_file_token ? 1 : 0);
    for (size_t i = 0; i < SESSIONS_MAX; i++)
        ret->sessions +=
            access->sessions.rows[i].digest[0] && now < access->sessions.rows[i].ends_ms;
    (void)pthread_mutex_unlock(&access->lock);
}
