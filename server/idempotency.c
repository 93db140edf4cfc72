#include "server/idempotency.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "server/app.h"
#include "server/host_clock.h"
#include "server/log.h"
#include "server/registry.h"
#include "server/request_internal.h"
#include "server/store.h"

struct key_claim {
    UT_hash_handle hh;
    struct http *http;
    struct request *request; /* that waits for `begun`; NULL: it does not */
    struct idempotency_row row;
    struct idempotency_bounds bounds;
    bool begun;                   /* its record is there */
    bool done;                    /* what must not be done twice */
    bool recorded;                /* with the answer */
    struct idempotency_row found; /* to be replayed */
};

static struct idempotency_bounds bounds_of(const struct request *request)
{
    const struct config *config = &request_app(request)->config;

    return (struct idempotency_bounds){config->idempotency_rows, config->idempotency_age_ms};
}

/* --- Claims: who is under way ---------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct key_claim *claims;

/* False: there is one of that key, and *ret_same says whether it is the same request. */
static bool enter(struct key_claim *claim, bool *ret_same)
{
    struct key_claim *other;

    (void)pthread_mutex_lock(&lock);
    HASH_FIND_STR(claims, claim->row.key, other);
    *ret_same = other && strcmp(other->row.fingerprint, claim->row.fingerprint) == 0;
    if (!other)
        HASH_ADD_STR(claims, row.key, claim);
    (void)pthread_mutex_unlock(&lock);
    return !other;
}

void idempotency_drop(struct key_claim *claim)
{
    if (!claim)
        return;
    (void)pthread_mutex_lock(&lock);
    HASH_DEL(claims, claim);
    (void)pthread_mutex_unlock(&lock);
    idempotency_row_free(&claim->row);
    idempotency_row_free(&claim->found);
    free(claim);
}

static bool key_valid(const char *key)
{
    size_t length = 0;

    for (; key[length]; length++)
        if (key[length] <= 0x20 || key[length] >= 0x7f)
            return false;
    return length > 0 && length < IDEMPOTENCY_KEY_SIZE;
}

/* -1: no memory. */
static int fingerprint(const struct request *request, char ret[SHA256_HEX_SIZE])
{
    CLEANUP_TEXT struct text all = TEXT_INIT;
    size_t length;
    const char *body = request_body(request, &length);

    /* Each part ends in a NUL, which none of them holds; the body is last. */
    text_addf(&all, "%s %s", via_names[request->identity.via], request->identity.name);
    text_add_bytes(&all, "", 1);
    text_addf(&all, "%s %s", request->method, request->uri.path);
    text_add_bytes(&all, "", 1);
    for (size_t i = 0; i < request->uri.n_query; i++) {
        text_add_bytes(&all, request->uri.query[i].name, strlen(request->uri.query[i].name) + 1);
        text_add_bytes(&all, request->uri.query[i].value, strlen(request->uri.query[i].value) + 1);
    }
    text_add_bytes(&all, "", 1);
    text_add_bytes(&all, body, length);
    if (all.failed)
        return -1;
    sha256_hex(all.data, all.length, ret);
    return 0;
}

static enum claim_verdict refuse(struct request *request, const char *type, const char *words)
{
    idempotency_drop(request->claim);
    request->claim = NULL;
    problem_set(&request->early, type, "%s", words);
    if (type && strcmp(type, "idempotency-in-progress") == 0)
        reply_header(request, "Retry-After", "1");
    return CLAIM_REFUSED;
}

/* --- Writes ---------------------------------------------------------------------------------- */

/* Something to be stored before an answer goes out, and what to do then. */
struct keeping {
    struct key_claim *claim;
    bool forget; /* rather than put */
    void (*then)(struct keeping *keeping);
    struct request *request;
    unsigned status;
    struct MHD_Response *response;
    struct kept *kept;
};

static int apply_keeping(sqlite3 *db, void *context, struct error *err)
{
    struct keeping *keeping = context;
    struct key_claim *claim = keeping->claim;

    return keeping->forget ? idempotency_row_delete(db, claim->row.key, err)
                           : idempotency_row_put(db, &claim->row, &claim->bounds, err);
}

static void keeping_done(void *context, const struct error *failure)
{
    struct keeping *keeping = context;

    /* What was done was done: its answer goes out all the same. */
    if (failure)
        log_event(LEVEL_WARNING, "the answer of an idempotency key could not be kept",
                  LOG_TEXT("detail", failure->text));
    idempotency_drop(keeping->claim);
    keeping->then(keeping);
    free(keeping);
}

static void nothing(struct keeping *keeping)
{
    (void)keeping;
}

/* Lets go of the claim of a request, and of its record. */
static void forget(struct request *request)
{
    struct keeping *keeping = calloc(1, sizeof *keeping);

    if (!keeping)
        return;
    *keeping = (struct keeping){.claim = request->claim, .forget = true, .then = nothing};
    request->claim = NULL;
    store_submit(request_app(request)->store,
                 &(struct store_write){apply_keeping, keeping_done, keeping});
}

/* --- What is on record ----------------------------------------------------------------------- */

static int look(sqlite3 *db, void *context, struct error *err)
{
    struct key_claim *claim = context;

    return idempotency_row_find(db, claim->row.key, &claim->bounds, claim->row.clock_ms,
                                &claim->found, err);
}

static int put_begun(sqlite3 *db, void *context, struct error *err)
{
    struct key_claim *claim = context;

    return idempotency_row_put(db, &claim->row, &claim->bounds, err);
}

static void is_begun(void *context, const struct error *failure)
{
    struct key_claim *claim = context;
    struct request *request = claim->request;
    struct http *http = claim->http;

    (void)pthread_mutex_lock(&http->lock);
    claim->request = NULL;
    const bool gone = !request->connection || request->abandoned;
    claim->begun = failure == NULL;
    if (failure)
        problem_from_error(&request->early, failure);
    request_wake(request);
    (void)pthread_mutex_unlock(&http->lock);
    /* Nobody is there any more: it is not carried out, and may be sent again. */
    if (gone && claim->begun)
        forget(request);
    request_unref(request);
}

static enum claim_verdict begin(struct request *request)
{
    struct key_claim *claim = request->claim;

    if (route_retry(request->match.route) != RETRY_ONCE)
        return CLAIM_GO;
    claim->request = request;
    request->references++;
    store_submit(request_app(request)->store, &(struct store_write){put_begun, is_begun, claim});
    return CLAIM_WAITS;
}

/* Is what the request made still there, and not another of its name? */
static bool lives(struct registry *registry, const struct idempotency_row *row)
{
    struct snapshot *snapshot = row->slug[0] ? registry_get(registry, row->slug) : NULL;
    const bool ret = snapshot && snapshot->sequence == row->sequence;

    snapshot_release(snapshot);
    return ret;
}

static bool is_leaving(struct registry *registry, const struct idempotency_row *row)
{
    struct snapshot *snapshot = row->slug[0] ? registry_get(registry, row->slug) : NULL;
    const bool ret =
        snapshot && snapshot->sequence == row->sequence && snapshot->bottle.state == STATE_DELETING;

    snapshot_release(snapshot);
    return ret;
}

/* Of a request that was begun earlier and not answered. */
static enum claim_verdict go_on(struct request *request)
{
    struct key_claim *claim = request->claim;

    claim->begun = true;
    if (route_retry(request->match.route) == RETRY_ONCE)
        return refuse(request, "idempotency-unknown",
                      "a request of this Idempotency-Key was begun, and its answer was not kept: "
                      "it was cut off, or longer than is kept. Look at what it did; a new key does "
                      "it again");
    if (is_leaving(request_app(request)->registry, &claim->found))
        return refuse(
            request, "idempotency-in-progress",
            "the bottle that this Idempotency-Key has made is being deleted; ask again in "
            "a moment, and where that does not end, delete it again first");
    /* What is gone again was taken back, or removed by somebody: it is made anew. */
    if (lives(request_app(request)->registry, &claim->found)) {
        memcpy(claim->row.slug, claim->found.slug, sizeof claim->row.slug);
        claim->row.sequence = claim->found.sequence;
    }
    return CLAIM_GO;
}

static enum claim_verdict judge(struct request *request, int found, const struct error *err)
{
    struct key_claim *claim = request->claim;

    if (found < 0)
        return refuse(request, "store-failed", err->text);
    if (found == 0)
        return begin(request);
    if (strcmp(claim->found.fingerprint, claim->row.fingerprint) != 0)
        return refuse(request, "idempotency-key-reused",
                      "the Idempotency-Key was used for another request: another method, address, "
                      "body or sender. Take a new one");
    if (claim->found.status == 0)
        return go_on(request);
    return CLAIM_REPLAYS;
}

enum claim_verdict idempotency_claim(struct request *request)
{
    const char *key = request_header(request, "Idempotency-Key");
    struct error err = ERROR_INIT;
    bool same;

    if (request->claim) /* waited */
        return request->early.type ? CLAIM_REFUSED : CLAIM_GO;
    if (!key || strcmp(request->method, "POST") != 0 ||
        route_retry(request->match.route) == RETRY_UNKEPT)
        return CLAIM_GO;
    if (!key_valid(key))
        return refuse(request, "bad-request",
                      "the Idempotency-Key has to be 1 to 255 visible ASCII characters");
    struct key_claim *claim = calloc(1, sizeof *claim);
    if (!claim || fingerprint(request, claim->row.fingerprint) < 0) {
        free(claim);
        return refuse(request, NULL, "out of memory");
    }
    claim->http = request->http;
    claim->bounds = bounds_of(request);
    claim->row.clock_ms = host_clock_ms();
    (void)snprintf(claim->row.key, sizeof claim->row.key, "%s", key);
    if (!enter(claim, &same)) {
        free(claim);
        return same
                   ? refuse(request, "idempotency-in-progress",
                            "a request of this Idempotency-Key is under way; ask again in a moment")
                   : refuse(request, "idempotency-key-reused",
                            "the Idempotency-Key is in use for another request; take a new one");
    }
    request->claim = claim;
    const int found = store_look(request_app(request)->store, look, claim, &err);
    return judge(request, found, &err);
}

bool idempotency_waits(const struct request *request)
{
    return request->claim && request->claim->request;
}

/* --- Replays --------------------------------------------------------------------------------- */

void idempotency_replay(struct request *request)
{
    struct key_claim *claim = request->claim;
    struct idempotency_row row = claim->found;
    CLEANUP_JSON json_t *headers = json_parse(row.headers, strlen(row.headers), NULL);
    const char *content_type = NULL;
    json_t *pair;
    size_t i;

    claim->found = (struct idempotency_row){0};
    request->claim = NULL;
    idempotency_drop(claim);
    json_array_foreach(headers, i, pair)
    {
        const char *name = json_string_value(json_array_get(pair, 0));
        const char *value = json_string_value(json_array_get(pair, 1));
        if (name && value && strcmp(name, "Content-Type") == 0)
            content_type = value;
        else if (name && value)
            reply_header(request, name, value);
    }
    reply_header(request, "Idempotency-Replayed", "true");
    struct shared_bytes *bytes = shared_bytes_new(row.body, row.body_length);
    row.body = NULL;
    if (bytes)
        reply_shared(request, (unsigned)row.status, content_type, bytes);
    else
        reply_fault(request, NULL, "out of memory");
    shared_bytes_unref(bytes);
    idempotency_row_free(&row);
}

void idempotency_done(struct request *request)
{
    if (request->claim)
        request->claim->done = true;
}

/* --- Keeping answers ------------------------------------------------------------------------- */

/* JSON of the headers that belong to the answer; NULL: no memory. */
static char *headers_text(const struct request *request, const char *content_type)
{
    CLEANUP_JSON json_t *all = json_array();

    if (content_type)
        (void)json_array_append_new(all, json_pack("[s, s]", "Content-Type", content_type));
    for (const struct header *header = request->reply_headers; header; header = header->next)
        if (strcmp(header->name, "Connection") != 0 && strcmp(header->name, "Vary") != 0 &&
            strcmp(header->name, "Content-Encoding") != 0)
            (void)json_array_append_new(all, json_pack("[s, s]", header->name, header->value));
    return json_text(all);
}

static bool is_kept(unsigned status)
{
    return status < 500 && status != 429;
}

/* Fills the claim's row with the answer. What can not be kept leaves the row as it is begun. -1:
 * nothing is to be written. */
static int fill(struct key_claim *claim, unsigned status, const char *headers, const char *bytes,
                size_t length, bool *ret_forget)
{
    *ret_forget = false;
    if (claim->recorded)
        return -1;
    if (!is_kept(status)) {
        /* What was made lives on: sent again, it goes on from there. */
        *ret_forget =
            claim->begun && !claim->done && !lives(claim->http->app->registry, &claim->row);
        return *ret_forget ? 0 : -1;
    }
    if (length > IDEMPOTENCY_ANSWER_MAX || !headers)
        return -1;
    claim->row.headers = strdup(headers);
    claim->row.body = malloc(length + 1);
    if (!claim->row.headers || !claim->row.body)
        return -1;
    claim->row.status = (int)status;
    claim->row.slug[0] = '\0';
    if (length > 0)
        memcpy(claim->row.body, bytes, length);
    claim->row.body_length = length;
    return 0;
}

static void deliver(struct keeping *keeping)
{
    http_deliver(keeping->request, keeping->status, keeping->response);
}

void idempotency_answer(struct request *request, unsigned status, const char *content_type,
                        const char *bytes, size_t length, struct MHD_Response *response)
{
    struct key_claim *claim = request->claim;
    struct keeping *keeping = calloc(1, sizeof *keeping);
    CLEANUP_FREE char *headers = headers_text(request, content_type);
    bool forgets;

    request->claim = NULL;
    if (!keeping || fill(claim, status, headers, bytes, length, &forgets) < 0) {
        free(keeping);
        idempotency_drop(claim);
        http_deliver(request, status, response);
        return;
    }
    *keeping = (struct keeping){claim, forgets, deliver, request, status, response, NULL};
    store_submit(request_app(request)->store,
                 &(struct store_write){apply_keeping, keeping_done, keeping});
}

/* --- Streams --------------------------------------------------------------------------------- */

/* Held by the stream, and by a write that is under way. */
struct kept {
    atomic_uint references;
    struct stream outer, inner;
    struct key_claim *claim; /* NULL: it is being stored, or was dropped */
    struct store *store;
    unsigned status;
    char *headers;
    struct text copy;
    bool storing;
    atomic_bool stored;
};

static void kept_unref(struct kept *kept)
{
    if (atomic_fetch_sub(&kept->references, 1) != 1)
        return;
    text_free(&kept->copy);
    free(kept->headers);
    free(kept);
}

static void kept_stored(struct keeping *keeping)
{
    atomic_store(&keeping->kept->stored, true);
    kept_unref(keeping->kept);
}

/* At the stream's end: true when it may end now. */
static bool store_copy(struct kept *kept)
{
    struct keeping *keeping = kept->storing ? NULL : calloc(1, sizeof *keeping);
    struct key_claim *claim = kept->claim;
    bool forgets;

    if (kept->storing)
        return atomic_load(&kept->stored);
    if (!claim || !keeping || kept->copy.failed ||
        fill(claim, kept->status, kept->headers, kept->copy.data, kept->copy.length, &forgets) <
            0) {
        free(keeping);
        idempotency_drop(claim);
        kept->claim = NULL;
        return true;
    }
    kept->claim = NULL;
    kept->storing = true;
    atomic_fetch_add(&kept->references, 1);
    *keeping =
        (struct keeping){.claim = claim, .forget = forgets, .then = kept_stored, .kept = kept};
    store_submit(kept->store, &(struct store_write){apply_keeping, keeping_done, keeping});
    return false;
}

static ssize_t kept_next(void *context, char *out, size_t room)
{
    struct kept *kept = context;
    ssize_t length = kept->storing ? STREAM_END : kept->inner.next(kept->inner.context, out, room);

    if (length == STREAM_END)
        return store_copy(kept) ? STREAM_END : 0;
    if (length > 0 && kept->copy.length <= IDEMPOTENCY_ANSWER_MAX)
        text_add_bytes(&kept->copy, out, (size_t)length);
    return length;
}

static void kept_done(void *context)
{
    struct kept *kept = context;

    kept->inner.done(kept->inner.context);
    idempotency_drop(kept->claim);
    kept->claim = NULL;
    kept_unref(kept);
}

struct stream *idempotency_stream(struct request *request, unsigned status,
                                  const char *content_type, const struct stream *stream)
{
    struct kept *kept = calloc(1, sizeof *kept);
    char *headers = headers_text(request, content_type);

    if (!kept || !headers) {
        free(kept);
        free(headers);
        return NULL;
    }
    atomic_init(&kept->references, 1);
    kept->inner = kept->outer = *stream;
    kept->outer.next = kept_next;
    kept->outer.done = kept_done;
    kept->outer.context = kept;
    kept->claim = request->claim;
    kept->store = request_app(request)->store;
    kept->status = status;
    kept->headers = headers;
    request->claim = NULL;
    return &kept->outer;
}

/* --- For handlers that write ----------------------------------------------------------------- */

const char *idempotency_made(const struct request *request, uint64_t *ret_sequence)
{
    *ret_sequence = request->claim ? request->claim->row.sequence : 0;
    return request->claim ? request->claim->row.slug : "";
}

int idempotency_record(sqlite3 *db, struct request *request, const struct snapshot *made,
                       unsigned status, struct error *err)
{
    struct key_claim *claim = request->claim;
    char headers[256], etag[2 * sizeof made->etag];
    bool forgets;

    if (!claim)
        return 0;
    if (status == 0) {
        (void)snprintf(claim->row.slug, sizeof claim->row.slug, "%s", made->bottle.slug);
        claim->row.sequence = made->sequence;
    } else {
        /* An entity tag is digits in quotes. */
        (void)snprintf(etag, sizeof etag, "\\\"%.*s\\\"", (int)strlen(made->etag) - 2,
                       made->etag + 1);
        (void)snprintf(headers, sizeof headers,
                       "[[\"Content-Type\", \"application/json\"], [\"ETag\", \"%s\"], "
                       "[\"Location\", \"/bottles/%s\"]]",
                       etag, made->bottle.slug);
        if (fill(claim, status, headers, made->json_text, made->json_length + 1, &forgets) < 0)
            return error_set(err, "store-failed", "out of memory");
    }
    claim->begun = true;
    claim->recorded = status != 0;
    return idempotency_row_put(db, &claim->row, &claim->bounds, err);
}
