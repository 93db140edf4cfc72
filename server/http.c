/* Listeners, and the hand-over between libmicrohttpd's threads and those that answer. See
 * request_internal.h.
 *
 * libmicrohttpd calls on_request() once when the headers are there, once for each piece of the
 * body, and once at the end. A response may be queued in the first or in the last of these calls
 * only. */
#include "server/http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/util.h"
#include "server/app.h"
#include "server/listen.h"
#include "server/log.h"
#include "server/request_internal.h"

enum {
    IDLE_SECONDS = 30,
    COMMIT_MS = 500,    /* when ending: for answers that are about to come anyway */
    FAREWELL_MS = 3000, /* and for the last answers to be sent */
    FAREWELL_STATUS = 503,
    OPENAPI_MAX = 1024 * 1024,
};

/* --- Requests ------------------------------------------------------------------------------ */

static void request_free(struct request *request)
{
    struct header *lists[] = {request->headers, request->reply_headers};

    for (size_t i = 0; i < COUNT_OF(lists); i++)
        for (struct header *header = lists[i], *next; header; header = next) {
            next = header->next;
            free(header);
        }
    if (request->response)
        MHD_destroy_response(request->response);
    uri_free(&request->uri);
    problem_free(&request->early);
    text_free(&request->body);
    free(request);
}

void request_unref(struct request *request)
{
    struct http *http = request->http;

    (void)pthread_mutex_lock(&http->lock);
    bool last = --request->references == 0;
    (void)pthread_mutex_unlock(&http->lock);
    if (last)
        request_free(request);
}

/* The target is kept here, since later it is only to be had decoded, and cut at an encoded NUL. */
static void *on_request_line(void *context, const char *target, struct MHD_Connection *connection)
{
    struct listener *listener = context;
    struct http *http = listener->http;
    struct request *request = calloc(1, sizeof *request);

    if (!request)
        return NULL;
    request->http = http;
    request->listener = listener;
    request->connection = connection;
    request->references = 1;
    request->started_ms = clock_monotonic_ms();
    request->target_end = (uintptr_t)target + strlen(target);
    if (strlen(target) > URI_LENGTH_MAX)
        problem_set(&request->early, "uri-too-long", "the address may have %d bytes",
                    URI_LENGTH_MAX);
    else if (uri_parse(target, &request->uri, &request->uri_fault) == 0)
        request->uri_fault = NULL;
    (void)pthread_mutex_lock(&http->lock);
    http->active++;
    (void)pthread_mutex_unlock(&http->lock);
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

static void log_request(const struct request *request)
{
    bool reads = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0;
    enum log_level level = request->status >= 500 ? LEVEL_WARNING
                           : reads                ? LEVEL_DEBUG
                                                  : LEVEL_INFO;

    log_event(level, "request", LOG_TEXT("method", request->method),
              LOG_TEXT("path", request->uri.path), LOG_NUMBER("status", request->status),
              LOG_NUMBER("ms", clock_monotonic_ms() - request->started_ms),
              LOG_TEXT("id", request->id));
}

static void on_completed(void *context, struct MHD_Connection *connection,
                         void **connection_context, enum MHD_RequestTerminationCode code)
{
    struct request *request = *connection_context;

    (void)context;
    (void)connection;
    (void)code;
    if (!request)
        return;
    *connection_context = NULL;
    struct http *http = request->http;
    if (request->worker.done)
        request->worker.done(request->worker.context);
    if (request->begun)
        log_request(request);
    (void)pthread_mutex_lock(&http->lock);
    unlink_suspended(request);
    request->connection = NULL;
    http->active--;
    (void)pthread_cond_broadcast(&http->changed);
    (void)pthread_mutex_unlock(&http->lock);
    request_unref(request);
}

/* --- Hand-over ----------------------------------------------------------------------------- */

void http_deliver(struct request *request, unsigned status, struct MHD_Response *response)
{
    struct http *http = request->http;

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

void request_abandon(struct request *request, unsigned status, struct MHD_Response *response)
{
    unlink_suspended(request);
    request->abandoned = true;
    request->status = status;
    request->response = response;
    MHD_resume_connection(request->connection);
}

static struct MHD_Response *farewell_response(const struct request *request)
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
           ticker_park(request->http, &request->parked, request->connection, fd ? *fd : -1);
}

/* Lets the worker answer, which owes the answer only meanwhile. */
static void work(struct request *request)
{
    struct http *http = request->http;

    (void)pthread_mutex_lock(&http->lock);
    request->references++;
    (void)pthread_mutex_unlock(&http->lock);
    request->worker.look(request->worker.context, request);
    (void)pthread_mutex_lock(&http->lock);
    if (!request->answered)
        request->references--;
    (void)pthread_mutex_unlock(&http->lock);
}

/* Queues the response if it is there; suspends until it is otherwise. */
static enum MHD_Result queue_or_suspend(struct request *request)
{
    struct http *http = request->http;
    struct MHD_Connection *connection = request->connection;

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
    if (!response)
        return MHD_NO; /* the client has gone, or there was no memory even for an answer */
    enum MHD_Result queued = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return queued;
}

static enum MHD_Result dispatch(struct request *request)
{
    bool works = !request->early.type && request->worker.look;

    request->dispatched = true;
    request->taking = false;
    if (works) {
        work(request);
        return queue_or_suspend(request);
    }
    (void)pthread_mutex_lock(&request->http->lock);
    request->references++; /* the answerer's */
    bool stopping = request->http->stopping;
    (void)pthread_mutex_unlock(&request->http->lock);
    if (!request->early.type && request->received > BODY_MAX)
        problem_set(&request->early, "body-too-large", "a body may have %d bytes", BODY_MAX);
    if (!request->early.type && request->body.failed)
        problem_set(&request->early, "internal", "out of memory");
    if (!request->early.type && stopping)
        problem_set(&request->early, "shutting-down",
                    "bottled is ending; the bottles run on. Try again soon");
    if (request->early.type)
        reply_problem(request, &request->early);
    else if (request->options)
        reply_empty(request, 204);
    else
        request->match.route->handle(request);
    return queue_or_suspend(request);
}

/* --- Intake -------------------------------------------------------------------------------- */

/* For a chunked body without an end: no response can be queued inside a body, and reading on would
 * never stop. */
static void answer_by_hand(struct request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    CLEANUP_TEXT struct text answer = TEXT_INIT;

    if (!request->early.type)
        problem_set(&request->early, "body-too-large", "a body may have %d bytes", BODY_MAX);
    CLEANUP_FREE char *body = problem_words(request, &request->early);
    request->status = (unsigned)request->early.type->status;
    text_addf(&answer,
              "HTTP/1.1 %u %s\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
              "X-Request-Id: %s\r\nContent-Length: %zu\r\n\r\n%s",
              request->status, request->early.type->title, request->id, body ? strlen(body) : 0,
              body ? body : "");
    if (info && !answer.failed)
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
    if (request->worker.take && !request->early.type)
        return give_worker(request, data, length);
    request->received += *length;
    if (!request->early.type && request->received <= BODY_MAX)
        text_add_bytes(&request->body, data, *length);
    else
        text_free(&request->body);
    *length = 0;
    if (request->received <= DISCARD_MAX)
        return MHD_YES;
    answer_by_hand(request);
    return MHD_NO;
}

static enum MHD_Result begin(struct request *request, const char *method, const char *version)
{
    request->begun = true;
    intake(request, method, version);
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

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_length, void **connection_context)
{
    struct request *request = *connection_context;

    (void)context;
    (void)url;
    (void)connection;
    if (!request)
        return MHD_NO; /* no memory */
    if (!request->begun)
        return begin(request, method, version);
    if (*upload_length > 0)
        return take_piece(request, upload, upload_length);
    if (!request->dispatched)
        return dispatch(request);
    if (request->worker.look && !request->answered && !request->abandoned)
        work(request);
    return queue_or_suspend(request);
}

/* --- Listeners ----------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 0))) static void
on_library_message(void *context, const char *format, va_list args)
{
    char words[300];

    (void)context;
    (void)vsnprintf(words, sizeof words, format, args);
    words[strcspn(words, "\n")] = '\0';
    log_event(LEVEL_DEBUG, "libmicrohttpd", LOG_TEXT("says", words));
}

static int serve(struct listener *listener, struct error *err)
{
    const struct config *config = &listener->http->app->config;
    const struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_library_message, NULL},
        {MHD_OPTION_LISTEN_SOCKET, listener->fd, NULL},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)on_request_line, listener},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, listener},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)config->max_connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, HEADER_POOL, NULL},
        {listener->tcp ? MHD_OPTION_END : MHD_OPTION_THREAD_POOL_SIZE, 2, NULL},
        {MHD_OPTION_END, 0, NULL},
    };

    listener->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_request, listener, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    return listener->daemon
               ? 0
               : error_set(err, NULL, "listener %s could not be started", listener->address);
}

static int open_listener(struct http *http, const char *where, bool tcp, struct error *err)
{
    struct listener *listener = &http->listeners[http->n_listeners];

    *listener = (struct listener){.http = http, .tcp = tcp};
    if (tcp) {
        listener->fd = listen_tcp(where, listener->address, sizeof listener->address, err);
    } else {
        (void)snprintf(listener->address, sizeof listener->address, "%s", where);
        listener->fd = listen_unix(where, &listener->inode, err);
    }
    if (listener->fd < 0)
        return -1;
    http->n_listeners++;
    return serve(listener, err);
}

static void read_openapi(struct http *http)
{
    struct error err = ERROR_INIT;
    size_t length;
    char *bytes = file_read(http->app->config.openapi_file, OPENAPI_MAX, &length, &err);

    if (bytes)
        http->openapi = shared_bytes_new(bytes, length);
    else
        log_event(LEVEL_WARNING, "/openapi.yaml can not be served", LOG_TEXT("error", err.text));
}

struct http *http_start(struct app *app, struct error *err)
{
    struct http *http = calloc(1, sizeof *http);
    pthread_condattr_t monotonic;

    if (!http) {
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    http->app = app;
    http->waker_epoll = http->waker_end = -1;
    if (getrandom(&http->run_number, sizeof http->run_number, 0) < 0)
        http->run_number = (unsigned)app->started_ms;
    (void)pthread_mutex_init(&http->lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&http->changed, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    read_openapi(http);
    int result = auth_load(app->config.token_file, &http->auth, err);
    if (result == 0)
        result = ticker_start(http, err);
    if (result == 0)
        result = waker_start(http, err);
    if (result == 0)
        result = open_listener(http, app->config.socket, false, err);
    for (unsigned i = 0; i < app->config.n_listen && result == 0; i++)
        result = open_listener(http, app->config.listen[i], true, err);
    if (result == 0)
        return http;
    http_stop(http);
    http_free(http);
    return NULL;
}

void http_describe(const struct http *http, struct text *out)
{
    for (size_t i = 0; i < http->n_listeners; i++)
        text_addf(out, "%s%s%s", i ? ", " : "",
                  http->listeners[i].tcp ? "http://" : "unix:", http->listeners[i].address);
}

/* Under the lock: ends what still waits. */
static void say_farewell(struct http *http)
{
    http->farewell = true;
    for (struct request *request = http->suspended, *next; request; request = next) {
        next = request->next;
        request_abandon(request, FAREWELL_STATUS, farewell_response(request));
    }
}

/* Under the lock: waits until no request is suspended any more, or no connection has one. Not for
 * ever. */
static void wait_for(struct http *http, bool all, int64_t ms)
{
    int64_t until_ms = clock_monotonic_ms() + ms;
    const struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};

    while (all ? http->active > 0 : http->suspended != NULL)
        if (pthread_cond_timedwait(&http->changed, &http->lock, &until) == ETIMEDOUT)
            return;
}

void http_stop(struct http *http)
{
    /* The listeners stay open meanwhile and new requests are refused with words: quiescing races
     * with the library's own thread over its epoll set (0.9.75), and losing aborts the process. */
    (void)pthread_mutex_lock(&http->lock);
    http->stopping = true;
    (void)pthread_cond_broadcast(&http->changed);
    /* What waits for a commit has its true answer in a moment; the long waits are told to come
     * back. */
    wait_for(http, false, COMMIT_MS);
    say_farewell(http);
    (void)pthread_mutex_unlock(&http->lock);
    if (http->ticker_runs)
        (void)pthread_join(http->ticker, NULL);
    http->ticker_runs = false;
    waker_stop(http);
    (void)pthread_mutex_lock(&http->lock);
    wait_for(http, true, FAREWELL_MS);
    (void)pthread_mutex_unlock(&http->lock);
    for (size_t i = 0; i < http->n_listeners; i++) {
        struct listener *listener = &http->listeners[i];
        if (listener->daemon)
            MHD_stop_daemon(listener->daemon); /* closes the listener too */
        else if (listener->fd >= 0)
            (void)close(listener->fd);
        listener->daemon = NULL;
        listener->fd = -1;
        if (!listener->tcp)
            listen_unlink(listener->address, listener->inode);
    }
}

void http_free(struct http *http)
{
    if (!http)
        return;
    shared_bytes_unref(http->openapi);
    (void)pthread_cond_destroy(&http->changed);
    (void)pthread_mutex_destroy(&http->lock);
    free(http);
}
