/* Bottles over HTTP: create, get, wait, start, stop, patch. (The list is in handlers_list.c, delete
 * in handlers_cleanup.c.)
 *
 * Creating with start and wait, starting and stopping with wait are one chain: create → start →
 * wait → reply. The chain is a heap object that the engine's callbacks hand on; each link replies
 * or goes on. Who wants the progress gets that in place of the wait (progress.c). */
#include "server/handlers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/accept.h"
#include "server/app.h"
#include "server/engine.h"
#include "server/etag.h"
#include "server/idempotency.h"
#include "server/progress.h"
#include "server/query.h"
#include "server/secrets.h"

#define JSON_TYPE "application/json"
#define LINES_TYPE "application/x-ndjson"
#define STATE_BIT(state) (1U << (state))

enum {
    ALL_STATES = (1U << N_STATES) - 1,
};

struct chain {
    struct request *request;
    char slug[SLUG_MAX + 1];
    uint64_t sequence; /* of what was created; 0: whichever bottle has the name */
    bool created;      /* the reply is 201, with Location */
    bool resumed;      /* it was created by an earlier request, and may have a history of its own */
    bool start;        /* it is to be started, by creating or by itself */
    bool once;         /* and is not to be again for the same Idempotency-Key */
    unsigned wait;     /* states, 0: do not wait */
    int64_t timeout_ms, began_ms;
    bool lines; /* the reply is the progress, as NDJSON */
    struct progress *progress;
    struct problem refusal; /* while what was created is taken back */
};

static void chain_free(struct chain *chain)
{
    progress_free(chain->progress);
    free(chain);
}

/* --- Replies ---------------------------------------------------------------------------------- */

static void reply_bottle(struct request *request, unsigned status, struct snapshot *snapshot)
{
    reply_tagged(request, status, snapshot->json, snapshot->etag);
}

static void add_location(struct request *request, const char *slug)
{
    char location[SLUG_MAX + 16];

    (void)snprintf(location, sizeof location, "/bottles/%s", slug);
    reply_header(request, "Location", location);
}

static void chain_reply(struct chain *chain, unsigned status, struct snapshot *snapshot)
{
    if (chain->created)
        add_location(chain->request, chain->slug);
    reply_bottle(chain->request, chain->created ? 201 : status, snapshot);
    chain_free(chain);
}

/* A bottle that was created and lives on is there: Location says where. */
static void chain_refuse(struct chain *chain, const struct problem *problem)
{
    if (chain->created)
        add_location(chain->request, chain->slug);
    reply_problem(chain->request, problem);
    chain_free(chain);
}

static void taken_back(void *context, const struct cleanup_plan *plan,
                       const struct problem *problem)
{
    struct chain *chain = context;
    struct problem refusal = chain->refusal;

    (void)plan;
    chain->created = problem != NULL; /* then it is still there */
    chain_refuse(chain, &refusal);
    problem_free(&refusal);
}

/* One call that creates and starts does both or neither; sent again it takes nothing back, since
 * others may have used the bottle meanwhile. Takes *problem over. */
static void chain_take_back(struct chain *chain, struct problem *problem)
{
    if (!chain->created || chain->resumed) {
        chain_refuse(chain, problem);
        problem_free(problem);
        return;
    }
    chain->refusal = *problem;
    engine_delete(request_app(chain->request), chain->slug, chain->sequence, NULL, false,
                  taken_back, chain);
}

static void chain_undo(struct chain *chain, const struct problem *problem)
{
    struct problem copy = problem_ref(problem);

    chain_take_back(chain, &copy);
}

/* --- The links -------------------------------------------------------------------------------- */

static void refuse_failed(struct chain *chain, struct snapshot *snapshot)
{
    struct problem problem = PROBLEM_INIT;

    if (chain->created && !chain->resumed)
        problem_set(&problem, "boot-failed",
                    "%s did not come up and was removed again: %s. To look into it, create it "
                    "first and start it by itself: then it stays, with its logs",
                    chain->slug, snapshot->bottle.reason);
    else
        problem_set(&problem, "boot-failed",
                    "%s did not come up: %s; its logs are at /bottles/%s/logs", chain->slug,
                    snapshot->bottle.reason, chain->slug);
    problem_add_member(&problem, "state", json_string(states[snapshot->bottle.state].name));
    problem_add_member(&problem, "slug", json_string(chain->slug));
    problem_add_member(&problem, "console", console_tail(request_app(chain->request), chain->slug));
    chain_take_back(chain, &problem);
}

/* It failed before its command ran, or somebody waits for one that was there to run. */
static bool never_came_up(const struct chain *chain, const struct snapshot *snapshot)
{
    return snapshot->bottle.state == STATE_FAILED &&
           (chain->created ? snapshot->bottle.started_ms == 0
                           : chain->wait == STATE_BIT(STATE_RUNNING));
}

/* Also where the client has left: what it has created is taken back if it does not come up, unless
 * it may come again for it. */
static bool is_wanted(void *context)
{
    const struct chain *chain = context;
    const bool takes_back =
        chain->created && !chain->resumed && !request_header(chain->request, "Idempotency-Key");

    return takes_back || !request_left(chain->request);
}

static void after_wait(void *context, struct snapshot *snapshot, const struct problem *problem)
{
    struct chain *chain = context;

    /* It is to be sent again, so that nothing may have been done. */
    if (problem && strcmp(problem->type->name, "too-many-waiters") == 0)
        chain_undo(chain, problem);
    else if (problem)
        chain_refuse(chain, problem);
    else if (never_came_up(chain, snapshot))
        refuse_failed(chain, snapshot);
    else
        chain_reply(chain, 200, snapshot);
}

/* From here on the reply is a stream, and what it began with stays. */
static void chain_stream(struct chain *chain, struct snapshot *snapshot)
{
    struct progress *progress = chain->progress;

    progress_begin(progress, snapshot);
    if (chain->created)
        add_location(chain->request, chain->slug);
    chain->progress = NULL;
    reply_stream(chain->request, chain->created ? 201 : 200, LINES_TYPE, progress_stream(progress));
    chain_free(chain);
}

/* False: the request was answered. */
static bool chain_watch(struct chain *chain, struct snapshot *snapshot)
{
    struct problem problem = PROBLEM_INIT;

    if (!chain->lines)
        return true;
    chain->progress = progress_new(request_app(chain->request), snapshot, chain->wait,
                                   chain->began_ms + chain->timeout_ms, &problem);
    if (chain->progress)
        return true;
    chain_take_back(chain, &problem);
    return false;
}

/* Waits if that was asked for, or replies: 202 while a start or stop is under way. */
static void chain_wait(struct chain *chain, struct snapshot *snapshot)
{
    enum bottle_state state = snapshot->bottle.state;
    bool under_way = state == STATE_STARTING || state == STATE_STOPPING ||
                     state == STATE_RESTARTING || state == STATE_DELETING;

    if ((!chain->wait || chain->progress) && chain->start && state == STATE_FAILED &&
        (!chain->created || snapshot->bottle.started_ms == 0)) {
        refuse_failed(chain, snapshot);
        return;
    }
    if (chain->progress) {
        chain_stream(chain, snapshot);
        return;
    }
    /* One that never ran is stopped as it is: nothing comes of it. */
    if (!chain->wait || (!chain->start && state == STATE_PREPARED)) {
        chain_reply(chain, under_way ? 202 : 200, snapshot);
        return;
    }
    int64_t left = chain->timeout_ms - (clock_monotonic_ms() - chain->began_ms);
    engine_wait(request_app(chain->request), chain->slug, chain->wait, left > 0 ? left : 0,
                is_wanted, after_wait, chain);
}

static void after_change(void *context, struct snapshot *snapshot, const struct problem *problem)
{
    struct chain *chain = context;

    if (problem) {
        chain_undo(chain, problem);
        return;
    }
    if (chain->once)
        idempotency_done(chain->request);
    chain_wait(chain, snapshot);
}

static void after_create(void *context, struct snapshot *snapshot, const struct problem *problem)
{
    struct chain *chain = context;

    if (problem) {
        chain_refuse(chain, problem);
        return;
    }
    chain->created = true;
    chain->sequence = snapshot->sequence;
    (void)snprintf(chain->slug, sizeof chain->slug, "%s", snapshot->bottle.slug);
    if (!chain->start) {
        chain_reply(chain, 201, snapshot);
        return;
    }
    if (!chain_watch(chain, snapshot))
        return;
    if (chain->progress)
        progress_begin(chain->progress, snapshot);
    engine_start_bottle(request_app(chain->request), chain->slug, chain->sequence, after_change,
                        chain);
}

/* Is the progress of the start wanted, rather than its end? False: the request was answered. */
static bool choose_form(struct chain *chain)
{
    static const char *const offers[] = {JSON_TYPE, LINES_TYPE};
    struct request *request = chain->request;

    reply_header(request, "Vary", "Accept");
    chain->lines = accept_choose(request_header(request, "Accept"), offers, COUNT_OF(offers)) == 1;
    if (!chain->lines || chain->wait)
        return true;
    reply_fault(request, "not-acceptable",
                "%s is the progress up to a state: it needs wait=exited or wait=running",
                LINES_TYPE);
    return false;
}

/* An earlier request of this idempotency key made the bottle, and was not answered. What it came to
 * do with it is not done again. */
static void go_on(struct chain *chain, const char *slug, uint64_t sequence)
{
    struct snapshot *snapshot = registry_get(request_app(chain->request)->registry, slug);

    chain->created = chain->resumed = true;
    chain->sequence = sequence;
    (void)snprintf(chain->slug, sizeof chain->slug, "%s", slug);
    const bool gone = !snapshot || snapshot->sequence != sequence; /* a moment ago: refused */
    const bool starts = gone || (chain->start && snapshot->bottle.state == STATE_PREPARED);
    const bool answered = !gone && !chain_watch(chain, snapshot);
    if (!answered && starts)
        engine_start_bottle(request_app(chain->request), slug, sequence, after_change, chain);
    else if (!answered)
        chain_wait(chain, snapshot);
    snapshot_release(snapshot);
}

/* On the store's thread: what the idempotency key is answered with, or what it has made so far. */
static int record_created(sqlite3 *db, void *context, const struct snapshot *made,
                          struct error *err)
{
    const struct chain *chain = context;

    return idempotency_record(db, chain->request, made, chain->start ? 0 : 201, err);
}

/* NULL: the request was answered. `waitable` are the states that ?wait= may name here. */
static struct chain *chain_new(struct request *request, const char *slug, unsigned waitable)
{
    struct chain *chain = calloc(1, sizeof *chain);

    if (!chain) {
        reply_fault(request, NULL, "out of memory");
        return NULL;
    }
    chain->request = request;
    chain->timeout_ms = WAIT_DEFAULT_MS;
    chain->began_ms = clock_monotonic_ms();
    if (slug)
        (void)snprintf(chain->slug, sizeof chain->slug, "%s", slug);
    if (query_states(request, "wait", waitable, &chain->wait) < 0 ||
        query_duration(request, "timeout", WAIT_MAX_MS, &chain->timeout_ms) < 0) {
        free(chain);
        return NULL;
    }
    if (request_query(request, "timeout") && !chain->wait) {
        reply_fault(request, "invalid-query",
                    "timeout says how long to wait: it needs wait beside it");
        free(chain);
        return NULL;
    }
    return chain;
}

/* --- Create ----------------------------------------------------------------------------------- */

/* The body's spec; -1 when the request was answered with every fault. */
static int read_spec(struct request *request, struct spec *ret)
{
    struct error err = ERROR_INIT;
    struct problem problem = PROBLEM_INIT;
    size_t length;
    const char *bytes = request_body(request, &length);
    CLEANUP_JSON json_t *body = json_parse_request(bytes, length, &err);

    if (!body) {
        reply_error(request, &err);
        return -1;
    }
    if (spec_decode(body, ret, &problem) == 0)
        secrets_check(request_app(request)->secrets, ret, &problem);
    if (!problem.type)
        return 0;
    reply_problem(request, &problem);
    problem_free(&problem);
    spec_free(ret);
    return -1;
}

/* False: the request was answered. */
static bool read_start(struct chain *chain)
{
    if (query_flag(chain->request, "start", &chain->start) < 0)
        return false;
    if (chain->start || !chain->wait)
        return choose_form(chain);
    reply_fault(chain->request, "invalid-query",
                "wait needs start=true: a prepared bottle stays as it is");
    return false;
}

void handle_bottle_create(struct request *request)
{
    const unsigned waitable = STATE_BIT(STATE_RUNNING) | STATE_BIT(STATE_EXITED);
    struct chain *chain = chain_new(request, NULL, waitable);
    struct spec spec = {0};

    if (!chain)
        return;
    if (!read_start(chain)) {
        free(chain);
        return;
    }
    const char *made = idempotency_made(request, &chain->sequence);
    if (made[0]) {
        go_on(chain, made, chain->sequence);
        return;
    }
    if (read_spec(request, &spec) < 0) {
        free(chain);
        return;
    }
    engine_create(request_app(request), &spec, record_created, after_create, chain);
}

/* --- One bottle ------------------------------------------------------------------------------- */

static bool has_tag(const struct snapshot *snapshot, const char *known)
{
    char tag[sizeof snapshot->etag];

    (void)snprintf(tag, sizeof tag, "%.*s", (int)strlen(snapshot->etag) - 2, snapshot->etag + 1);
    return etag_listed(known, tag, true);
}

void handle_bottle_get(struct request *request)
{
    const char *slug = request_param(request, "slug");
    const char *known = request_header(request, "If-None-Match");
    struct snapshot *snapshot = registry_get(request_app(request)->registry, slug);

    if (!snapshot) {
        reply_fault(request, "not-found", "there is no bottle named %s", slug);
        return;
    }
    if (known && has_tag(snapshot, known)) {
        reply_header(request, "ETag", snapshot->etag);
        reply_empty(request, 304);
    } else {
        reply_bottle(request, 200, snapshot);
    }
    snapshot_release(snapshot);
}

void handle_bottle_wait(struct request *request)
{
    const char *slug = request_param(request, "slug");
    struct chain *chain = calloc(1, sizeof *chain);

    if (!chain) {
        reply_fault(request, NULL, "out of memory");
        return;
    }
    chain->request = request;
    chain->timeout_ms = WAIT_DEFAULT_MS;
    (void)snprintf(chain->slug, sizeof chain->slug, "%s", slug);
    unsigned wanted = 0;
    if (query_states(request, "state", ALL_STATES, &wanted) < 0 ||
        query_duration(request, "timeout", WAIT_MAX_MS, &chain->timeout_ms) < 0) {
        free(chain);
        return;
    }
    if (!wanted) {
        reply_fault(request, "invalid-query", "state is missing: which one is to be waited for?");
        free(chain);
        return;
    }
    /* A long poll tells the state; it is for the client to judge it. */
    engine_wait(request_app(request), slug, wanted, chain->timeout_ms, is_wanted, after_wait,
                chain);
}

/* False: the request was answered. */
static bool begin_start(struct chain *chain)
{
    chain->start = true;
    if (!choose_form(chain)) {
        free(chain);
        return false;
    }
    /* One that is not there is the engine's to refuse. */
    struct snapshot *snapshot = registry_get(request_app(chain->request)->registry, chain->slug);
    bool ret = !snapshot || chain_watch(chain, snapshot);
    snapshot_release(snapshot);
    return ret;
}

void handle_bottle_start(struct request *request)
{
    const unsigned waitable = STATE_BIT(STATE_RUNNING) | STATE_BIT(STATE_EXITED);
    const char *slug = request_param(request, "slug");
    struct chain *chain = chain_new(request, slug, waitable);

    if (chain && begin_start(chain))
        engine_start_bottle(request_app(request), slug, 0, after_change, chain);
}

void handle_bottle_restart(struct request *request)
{
    const unsigned waitable = STATE_BIT(STATE_RUNNING) | STATE_BIT(STATE_EXITED);
    const char *slug = request_param(request, "slug");
    int64_t grace_ms = STOP_GRACE_MS;

    if (query_duration(request, "grace", WAIT_MAX_MS, &grace_ms) < 0)
        return;
    struct chain *chain = chain_new(request, slug, waitable);
    if (!chain)
        return;
    chain->start = chain->once = true;
    engine_restart_bottle(request_app(request), slug, grace_ms, after_change, chain);
}

static void pause_or_resume(struct request *request, bool pause)
{
    const char *slug = request_param(request, "slug");
    struct chain *chain = chain_new(request, slug, STATE_BIT(pause ? STATE_PAUSED : STATE_RUNNING));

    if (chain)
        engine_pause_bottle(request_app(request), slug, pause, after_change, chain);
}

void handle_bottle_pause(struct request *request)
{
    pause_or_resume(request, true);
}

void handle_bottle_resume(struct request *request)
{
    pause_or_resume(request, false);
}

void handle_bottle_stop(struct request *request)
{
    const unsigned waitable = STATE_BIT(STATE_STOPPED) | STATE_BIT(STATE_EXITED);
    const char *slug = request_param(request, "slug");
    int64_t grace_ms = STOP_GRACE_MS;

    if (query_duration(request, "grace", WAIT_MAX_MS, &grace_ms) < 0)
        return;
    struct chain *chain = chain_new(request, slug, waitable);
    if (chain)
        engine_stop_bottle(request_app(request), slug, grace_ms, after_change, chain);
}

/* --- Patch ------------------------------------------------------------------------------------ */

static void after_patch(void *context, struct snapshot *snapshot, const struct problem *problem)
{
    struct request *request = context;

    if (problem)
        reply_problem(request, problem);
    else
        reply_bottle(request, 200, snapshot);
}

void handle_bottle_patch(struct request *request)
{
    struct error err = ERROR_INIT;
    size_t length;
    const char *bytes = request_body(request, &length);
    json_t *body = json_parse_request(bytes, length, &err);

    if (body)
        engine_patch(request_app(request), request_param(request, "slug"), body,
                     request_header(request, "If-Match"), after_patch, request);
    else
        reply_error(request, &err);
}
