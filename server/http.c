/* Requests, and the hand-over between libmicrohttpd's threads and those that answer. See
 * request_internal.h; the listeners are in doors.c.
 *
 * libmicrohttpd calls on_request() once when the headers are there, once for each piece of the
 * body, and once at the end. A response may be queued in the first or in the last of these calls
 * only. */
#include "server/request_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/util.h"
#include "server/app.h"
#include "server/log.h"
#include "server/made.h"
#include "server/metrics.h"
#include "server/spare.h"
#include "server/tls.h"

/* --- Requests ------------------------------------------------------------------------------ */

static void request_free(struct request *request)
{
    struct header *lists[] = {request->headers, request->reply_headers};

    for (size_t i = 0; i < COUNT_OF(lists); i++)
        for (struct header *header = lists[i], *next; header; header = next) {
            next = header->next;
            free(header);
        }
    if (request->made)
        made_give(request->made);
    else if (request->response)
        MHD_destroy_response(request->response);
    idempotency_drop(request->claim);
    uri_free(&request->uri);
    if (request->early.type)
        problem_free(&request->early);
    text_free(&request->body);
    spare_give(SPARE_REQUEST, request);
}

void request_unref(struct request *request)
{
    if (atomic_fetch_sub(&request->references, 1) == 1)
        request_free(request);
}

/* The target is kept here, since later it is only to be had decoded, and cut at an encoded NUL. */
void *http_request_line(void *context, const char *target, struct MHD_Connection *connection)
{
    struct listener *listener = context;
    struct http *http = listener->http;
    struct request *request = spare_take(SPARE_REQUEST, sizeof *request);

    if (!request)
        return NULL;
    *request = (struct request){.http = http, .listener = listener, .connection = connection};
    atomic_init(&request->references, 1);
    request->started_us = clock_monotonic_us();
    request->front = connection_front(connection);
    request->number = front_saw(request->front);
    const enum head_fault_row fault = front_refused(target);
    request->misframed = fault != HEAD_OK || request->number == 0;
    if (request->number == 0)
        problem_set(&request->early, "internal",
                    "the request was not looked at before it was read");
    else if (fault)
        problem_set(&request->early, head_faults[fault].type, "%s", head_faults[fault].words);
    else if (uri_parse(target, &request->uri, &request->uri_fault) == 0)
        request->uri_fault = NULL;
    counter_add(&http->active, 1);
    return request;
}

/* Under the lock. */
static void unlink_suspended(struct request *request)
{
    if (!request->suspended)
        return;
    request->suspended = false;
    if (request->previous)
        request->previous->next = request->next;
    else
        request->http->suspended = request->next;
    if (request->next)
        request->next->previous = request->previous;
}

/* What became of a change, in a word. */
static const char *outcome(unsigned status)
{
    return status == 401 || status == 403 || status == 429 ? "refused"
           : status == 499                                 ? "left"
           : status >= 500                                 ? "failed"
           : status >= 400                                 ? "rejected"
                                                           : "done";
}

/* Each request; one that changes something has its line in any case: who, what, and the outcome. */
static void log_request(const struct request *request)
{
    const struct identity *who = &request->identity;
    bool changes = request->changes && !request->misframed;
    const unsigned status = request->status ? request->status : 499;
    enum log_level level = changes ? LEVEL_ALWAYS : status >= 500 ? LEVEL_WARNING : LEVEL_DEBUG;

    const int64_t took_us = clock_monotonic_us() - request->started_us;
    metrics_request(request->match.route, status, took_us);
    log_event(level, changes ? "change" : "request", LOG_TEXT("method", request->method),
              LOG_TEXT("path", request->uri.path), LOG_NUMBER("status", status),
              LOG_NUMBER("ms", took_us / 1000), LOG_TEXT("id", request->id),
              LOG_TEXT("via", via_names[who->via]), LOG_TEXT("who", who->name),
              LOG_TEXT("from", request->from), LOG_TEXT("outcome", outcome(status)));
}

void http_completed(void *context, struct MHD_Connection *connection, void **connection_context,
                    enum MHD_RequestTerminationCode code)
{
    struct request *request = *connection_context;

    (void)context;
    (void)code;
    front_done(request ? request->front : connection_front(connection));
    if (!request)
        return;
    *connection_context = NULL;
    struct http *http = request->http;
    if (request->worker.done)
        request->worker.done(request->worker.context);
    if (request->begun)
        log_request(request);
    if (!request->direct) {
        (void)pthread_mutex_lock(&http->lock);
        unlink_suspended(request);
        request->connection = NULL;
        (void)pthread_mutex_unlock(&http->lock);
    }
    counter_add(&http->active, -1);
    if (http->stopping) { /* the ticker, which waits for the same, has no need to know */
        (void)pthread_mutex_lock(&http->lock);
        (void)pthread_cond_broadcast(&http->changed);
        (void)pthread_mutex_unlock(&http->lock);
    }
    request_unref(request);
}

/* --- Hand-over ----------------------------------------------------------------------------- */

/* The request that this thread is asking its handler for. What that answers by itself, as most that
 * only look do, needs no lock. */
static _Thread_local struct request *asked;

bool http_asks(const struct request *request)
{
    return asked == request;
}

void http_deliver(struct request *request, unsigned status, struct MHD_Response *response)
{
    struct http *http = request->http;

    if (asked == request && !request->answered) {
        request->direct = request->answered = true;
        request->status = status;
        request->response = response;
        request_unref(request);
        return;
    }
    (void)pthread_mutex_lock(&http->lock);
    bool taken = request->connection && !request->abandoned && !request->answered;
    if (taken) {
        request->answered = true;
        request->status = status;
        request->response = response;
        if (request->suspended) {
            unlink_suspended(request);
            MHD_resume_connection(request->connection);
            if (http->stopping)
                (void)pthread_cond_broadcast(&http->changed);
        }
    }
    (void)pthread_mutex_unlock(&http->lock);
    if (!taken && response)
        MHD_destroy_response(response);
    request_unref(request);
}

bool request_left(const struct request *request)
{
    struct http *http = request->http;

    (void)pthread_mutex_lock(&http->lock);
    const bool left = !request->connection || request->abandoned;
    (void)pthread_mutex_unlock(&http->lock);
    return left;
}

void request_wake(struct request *request)
{
    if (!request->suspended)
        return;
    unlink_suspended(request);
    MHD_resume_connection(request->connection);
}

void request_abandon(struct request *request, unsigned status, struct MHD_Response *response)
{
    unlink_suspended(request);
    request->abandoned = true;
    request->status = status;
    request->response = response;
    MHD_resume_connection(request->connection);
}

struct MHD_Response *farewell_response(const struct request *request)
{
    struct problem problem = PROBLEM_INIT;

    problem_set(&problem, "shutting-down",
                "bottled is ending; the bottles run on. Ask again when it is back");
    struct MHD_Response *response = problem_response(request, &problem);
    problem_free(&problem);
    return response;
}

/* Under the lock. */
static void suspend(struct request *request)
{
    struct http *http = request->http;

    request->suspended = true;
    request->suspended_ms = clock_monotonic_ms();
    request->previous = NULL;
    request->next = http->suspended;
    if (http->suspended)
        http->suspended->previous = request;
    else
        (void)pthread_cond_broadcast(
            &http->changed); /* the ticker has something to look at again */
    http->suspended = request;
    MHD_suspend_connection(request->connection);
}

/* A request with a worker: until that is to look again. False: nobody is there any more. */
static bool park(struct request *request)
{
    const int *fd = request->worker.fd;

    return !connection_gone(request->connection, request->listener->tcp) &&
           ticker_park(request->http, &request->parked, request->connection, fd ? *fd : -1) ==
               PARK_PARKED;
}

/* Lets the worker answer, which owes the answer only meanwhile. */
static void work(struct request *request)
{
    struct http *http = request->http;

    request->references++;
    request->worker.look(request->worker.context, request);
    (void)pthread_mutex_lock(&http->lock);
    if (!request->answered)
        request->references--;
    (void)pthread_mutex_unlock(&http->lock);
}

/* Asks the handler. Where that leaves the answer to a worker, nobody owes it but within work(). */
static void handle(struct request *request)
{
    request->match.route->handle(request);
    if (!request->worker.look)
        return;
    (void)pthread_mutex_lock(&request->http->lock);
    if (!request->answered)
        request->references--;
    (void)pthread_mutex_unlock(&request->http->lock);
}

/* Takes the response over, unless it is of what is sent often. */
static enum MHD_Result queue(struct request *request, unsigned status,
                             struct MHD_Response *response)
{
    if (!response)
        return MHD_NO; /* the client has gone, or there was no memory even for an answer */
    enum MHD_Result queued = MHD_queue_response(request->connection, status, response);
    if (!request->made)
        MHD_destroy_response(response);
    return queued;
}

/* Queues the response if it is there; suspends until it is otherwise. */
static enum MHD_Result queue_or_suspend(struct request *request)
{
    struct http *http = request->http;

    if (request->direct) {
        struct MHD_Response *answer = request->response;
        request->response = NULL;
        return queue(request, request->status, answer);
    }
    (void)pthread_mutex_lock(&http->lock);
    bool ready = request->answered || request->abandoned, works = request->worker.look;
    if (!ready && (http->farewell || (works && http->stopping))) {
        ready = request->abandoned = true;
        request->status = FAREWELL_STATUS;
        request->response = farewell_response(request);
    }
    struct MHD_Response *response = request->response;
    unsigned status = request->status;
    if (ready)
        request->response = NULL;
    else if (!works)
        suspend(request);
    (void)pthread_mutex_unlock(&http->lock);
    if (!ready)
        return works && !park(request) ? MHD_NO : MHD_YES;
    return queue(request, status, response);
}

uint64_t request_body_max(const struct request *request)
{
    return (uint64_t)request->http->app->config.max_body_bytes;
}

static void refuse_body(struct request *request)
{
    problem_set(&request->early, "body-too-large", "a body may have %llu bytes",
                (unsigned long long)request_body_max(request));
}

/* What else may be wrong with a request whose body is there. */
static void check_whole(struct request *request)
{
    if (!request->early.type && request->received > request_body_max(request))
        refuse_body(request);
    if (!request->early.type && request->body.failed)
        problem_set(&request->early, "internal", "out of memory");
    if (!request->early.type && request->http->stopping)
        problem_set(&request->early, "shutting-down",
                    "bottled is ending; the bottles run on. Try again soon");
}

/* Suspends until request_wake(), unless that was already. */
static enum MHD_Result wait_for_claim(struct request *request)
{
    (void)pthread_mutex_lock(&request->http->lock);
    if (idempotency_waits(request))
        suspend(request);
    (void)pthread_mutex_unlock(&request->http->lock);
    return MHD_YES;
}

static enum MHD_Result dispatch(struct request *request)
{
    bool works = !request->early.type && request->worker.look;
    enum claim_verdict verdict = CLAIM_GO;

    request->taking = false;
    if (works) {
        request->dispatched = true;
        work(request);
        return queue_or_suspend(request);
    }
    if (!request->claim)
        check_whole(request);
    if (!request->early.type && !request->options)
        verdict = idempotency_claim(request);
    if (verdict == CLAIM_WAITS)
        return wait_for_claim(request);
    request->dispatched = true;
    request->references++; /* the answerer's */
    asked = request;
    if (request->early.type)
        reply_problem(request, &request->early);
    else if (request->options)
        reply_empty(request, 204);
    else if (verdict == CLAIM_REPLAYS)
        idempotency_replay(request);
    else
        handle(request);
    asked = NULL;
    text_free(&request->body); /* who waits does so without it */
    return queue_or_suspend(request);
}

/* --- Intake -------------------------------------------------------------------------------- */

/* For a body that breaks off, or is chunked and without an end: no response can be queued inside a
 * body, and reading on would never stop. */
static void answer_by_hand(struct request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    CLEANUP_TEXT struct text answer = TEXT_INIT;

    if (!request->early.type)
        refuse_body(request);
    CLEANUP_FREE char *body = problem_words(request, &request->early);
    request->status = (unsigned)request->early.type->status;
    text_addf(&answer,
              "HTTP/1.1 %u %s\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
              "X-Request-Id: %s\r\nContent-Length: %zu\r\n\r\n%s",
              request->status, request->early.type->title, request->id, body ? strlen(body) : 0,
              body ? body : "");
    if (request->http->tls && request->listener->tcp)
        tls_send(request->connection, answer.data, answer.failed ? 0 : answer.length);
    else if (info && !answer.failed)
        (void)send(info->connect_fd, answer.data, answer.length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* To the worker, which may have no room for all of it now, or want no more. */
static enum MHD_Result give_worker(struct request *request, const char *data, size_t *length)
{
    ssize_t took = request->worker.take(request->worker.context, request, data, *length);

    *length = took < 0 ? 0 : *length - (size_t)took;
    return *length > 0 && !park(request) ? MHD_NO : MHD_YES;
}

static enum MHD_Result take_piece(struct request *request, const char *data, size_t *length)
{
    const enum head_fault_row broken = front_broken(request->front, request->number);

    if (broken) {
        problem_free(&request->early);
        problem_set(&request->early, head_faults[broken].type, "%s", head_faults[broken].words);
        answer_by_hand(request);
        return MHD_NO;
    }
    if (request->worker.take && !request->early.type)
        return give_worker(request, data, length);
    request->received += *length;
    if (!request->early.type && request->received <= request_body_max(request))
        text_add_bytes(&request->body, data, *length);
    else
        text_free(&request->body);
    *length = 0;
    if (request->received <= DISCARD_MAX)
        return MHD_YES;
    answer_by_hand(request);
    return MHD_NO;
}

static enum MHD_Result begin(struct request *request, const char *method)
{
    request->begun = true;
    intake(request, method);
    if (!request->early.type && !request->options && request->match.route->body == BODY_STREAM)
        front_streams(request->front, request->number);
    if (!request->early.type && !request->options && request->match.route->body == BODY_STREAM) {
        request->taking = true;
        request->match.route->handle(request);
    }
    if (!request->early.type)
        return MHD_YES;
    /* The body of a refused request is read all the same, unless it has no certain end, the client
     * waits for "100 Continue", or it means to send more than we would throw away. */
    if (request->misframed ||
        (request->has_body && (request->expects_continue || request->declared > DISCARD_MAX)))
        return dispatch(request);
    return MHD_YES;
}

enum MHD_Result http_request(void *context, struct MHD_Connection *connection, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *upload_length, void **connection_context)
{
    struct request *request = *connection_context;

    (void)context;
    (void)url;
    (void)version;
    (void)connection;
    if (!request)
        return MHD_NO; /* no memory */
    if (!request->begun)
        return begin(request, method);
    if (request->abandoned && !request->dispatched)
        return queue_or_suspend(request);
    if (*upload_length > 0)
        return take_piece(request, upload, upload_length);
    if (!request->dispatched)
        return dispatch(request);
    if (request->worker.look && !request->answered && !request->abandoned)
        work(request);
    return queue_or_suspend(request);
}
