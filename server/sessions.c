#include "server/sessions.h"

#include <nettle/memops.h>
#include <string.h>
#include <sys/random.h>

#include "base/util.h"

/* 64 digits that nobody can guess. */
static int draw(char ret[SHA256_HEX_SIZE], struct error *err)
{
    unsigned char random[32];

    if (getrandom(random, sizeof random, 0) != sizeof random)
        return error_errno(err, NULL, "no random bytes");
    sha256_hex(random, sizeof random, ret);
    explicit_bzero(random, sizeof random);
    return 0;
}

static bool lives(const struct session *row, int64_t now_ms)
{
    return row->digest[0] && now_ms >= row->opened_ms && now_ms < row->ends_ms;
}

/* A free row; when there is none, or the token has too many, the oldest one. */
static struct session *room_for(struct sessions *sessions, const char *token_digest, int64_t now_ms)
{
    struct session *unused = NULL, *oldest = NULL, *own = NULL;
    size_t n_own = 0;

    for (size_t i = 0; i < SESSIONS_MAX; i++) {
        struct session *row = &sessions->rows[i];
        if (!lives(row, now_ms)) {
            unused = row;
            continue;
        }
        if (!oldest || row->number < oldest->number)
            oldest = row;
        if (strcmp(row->token_digest, token_digest) != 0)
            continue;
        n_own++;
        if (!own || row->number < own->number)
            own = row;
    }
    if (n_own >= SESSIONS_OF_TOKEN)
        return own;
    return unused ? unused : oldest;
}

struct session *session_open(struct sessions *sessions, const char *token_digest, int64_t now_ms,
                             int64_t ends_ms, char ret_cookie[SHA256_HEX_SIZE], struct error *err)
{
    struct session session = {.opened_ms = now_ms, .ends_ms = ends_ms};

    if (draw(ret_cookie, err) < 0 || draw(session.csrf, err) < 0)
        return NULL;
    sha256_hex(ret_cookie, strlen(ret_cookie), session.digest);
    memcpy(session.token_digest, token_digest, SHA256_HEX_SIZE);
    struct session *row = room_for(sessions, token_digest, now_ms);
    session.number = ++sessions->opened;
    *row = session;
    return row;
}

struct session *session_find(struct sessions *sessions, const char *digest, int64_t now_ms)
{
    struct session *found = NULL;

    for (size_t i = 0; i < SESSIONS_MAX; i++)
        if (lives(&sessions->rows[i], now_ms) &&
            memeql_sec(sessions->rows[i].digest, digest, SHA256_HEX_SIZE - 1) == 1)
            found = &sessions->rows[i];
    return found;
}

void session_close(struct session *session)
{
    *session = (struct session){0};
}
