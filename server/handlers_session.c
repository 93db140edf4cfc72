/* A browser's session: opened with a token, known by a cookie, ended by its page. And for any
 * client: who bottled takes it for. */
#include "server/handlers.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "server/request_internal.h"

static void set_cookie(struct request *request, const char *value, int64_t seconds)
{
    CLEANUP_TEXT struct text cookie = TEXT_INIT;

    text_addf(&cookie, SESSION_COOKIE "=%s; Path=/; HttpOnly; SameSite=Strict; Max-Age=%lld%s",
              value, (long long)seconds, request->http->tls ? "; Secure" : "");
    if (!cookie.failed)
        reply_header(request, "Set-Cookie", cookie.data);
}

/* `facts`: of a session, or NULL. */
static json_t *describe(const struct identity *identity, enum via via,
                        const struct session_facts *facts)
{
    json_t *ret = json_pack("{s:s, s:s, s:s}", "via", via_names[via], "name", identity->name,
                            "role", role_names[identity->role]);
    char ends[TIMESTAMP_SIZE];

    if (!facts)
        return ret;
    timestamp_format(facts->ends_ms, ends);
    (void)json_object_set_new(ret, "expires_at", json_string(ends));
    (void)json_object_set_new(ret, "csrf_token", json_string(facts->csrf));
    return ret;
}

void handle_session_open(struct request *request)
{
    const struct identity *identity = &request->identity;
    struct session_facts facts;
    struct error err = ERROR_INIT;

    if (access_open_session(request->http->access, identity, &facts, &err) < 0) {
        reply_error(request, &err);
        return;
    }
    set_cookie(request, facts.cookie, (facts.ends_ms - clock_wall_ms()) / 1000);
    reply_json(request, 201, describe(identity, VIA_SESSION, &facts));
}

void handle_session_get(struct request *request)
{
    const struct identity *identity = &request->identity;
    struct session_facts facts;
    bool session = access_session(request->http->access, identity, &facts);

    reply_json(request, 200, describe(identity, identity->via, session ? &facts : NULL));
}

void handle_session_close(struct request *request)
{
    if (request->identity.via != VIA_SESSION) {
        reply_fault(request, "not-found", "there is no session to end: you came with %s",
                    request->identity.via == VIA_UNIX ? "the Unix socket" : "a token");
        return;
    }
    access_close_session(request->http->access, &request->identity);
    set_cookie(request, "", 0);
    reply_empty(request, 204);
}
