/* The doors: the listeners, and how the HTTP side starts and ends. */
#include "server/http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/util.h"
#include "server/app.h"
#include "server/feed.h"
#include "server/listen.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/request_internal.h"
#include "server/tls.h"

enum {
    THREADS = 2, /* of the Unix socket's listener */
    SPARE = 64,  /* connections beyond the limit, to be told so */
    READER_SECONDS =
        60,             /* how long a client may leave an answer unread; see front.h for the rest */
    COMMIT_MS = 500,    /* when ending: for answers that are about to come anyway */
    FAREWELL_MS = 3000, /* and for the last answers to be sent */
    OPENAPI_MAX = 1024 * 1024,
};

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

/* The library closes without a word: it has to be more patient than what speaks (front.h). */
static intptr_t reader_seconds(const struct config *config)
{
    int64_t ms = config->idle_timeout_ms + config->head_timeout_ms + config->body_timeout_ms;

    return (intptr_t)(ms / 1000 + READER_SECONDS);
}

int listener_serve(struct listener *listener, struct error *err)
{
    const struct config *config = &listener->http->app->config;
    /* The library gives each of its threads an equal part of the limit. */
    bool tls = listener->tcp && listener->http->tls;
    const struct MHD_OptionItem encryption[] = {
        {MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, tls_callback()},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)TLS_PRIORITIES},
        {MHD_OPTION_END, 0, NULL},
    };
    const int64_t limit = (config->max_connections + SPARE) * (listener->tcp ? 1 : THREADS);
    const struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_library_message, NULL},
        {MHD_OPTION_LISTEN_SOCKET, listener->fd, NULL},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)http_request_line, listener},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)http_completed, listener},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)connection_notify, listener},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)limit, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, reader_seconds(config), NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, HEADER_POOL, NULL},
        {listener->tcp ? MHD_OPTION_END : MHD_OPTION_THREAD_POOL_SIZE, THREADS, NULL},
        {MHD_OPTION_END, 0, NULL},
    };

    listener->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
            (tls ? MHD_USE_TLS : 0),
        0, NULL, NULL, http_request, listener, MHD_OPTION_ARRAY, options, MHD_OPTION_ARRAY,
        tls ? encryption : encryption + COUNT_OF(encryption) - 1, MHD_OPTION_END);
    return listener->daemon
               ? 0
               : error_set(err, NULL, "listener %s could not be started", listener->address);
}

/* Who may come in, and by which certificate they know us. */
static int open_doors(struct http *http, struct error *err)
{
    const struct config *config = &http->app->config;

    http->access = access_new(config, err);
    if (!http->access)
        return -1;
    if (*config->tls_cert && !(http->tls = tls_new(config->tls_cert, config->tls_key, err)))
        return -1;
    return 0;
}

int http_apply(struct http *http, const struct config *config, struct error *err)
{
    if (http->tls && *config->tls_cert &&
        tls_apply(http->tls, config->tls_cert, config->tls_key, err) < 0)
        return -1;
    return access_apply(http->access, config, err);
}

void http_touch(struct http *http)
{
    (void)pthread_mutex_lock(&http->lock);
    (void)pthread_mutex_unlock(&http->lock);
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
    if (metrics_start() < 0)
        log_event(LEVEL_WARNING, "requests are not counted", LOG_TEXT("error", "out of memory"));
    int result = open_doors(http, err);
    if (result == 0)
        result = ticker_start(http, err);
    if (result == 0)
        result = waker_start(http, err);
    if (result == 0)
        result = listeners_open(http, err);
    if (result == 0) {
        feed_listen(app->feed, http_ring, http);
        return http;
    }
    http_stop(http);
    http_free(http);
    return NULL;
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

    while (all ? counter_sum(&http->active) > 0 : http->suspended != NULL)
        if (pthread_cond_timedwait(&http->changed, &http->lock, &until) == ETIMEDOUT)
            return;
}

void http_stop(struct http *http)
{
    /* The listeners stay open meanwhile and new requests are refused with words: quiescing races
     * with the library's own thread over its epoll set (0.9.75), and losing aborts the process. */
    feed_listen(http->app->feed, NULL, NULL);
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
    connections_linger(http, true);
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
    tls_free(http->tls);
    access_free(http->access);
    metrics_end();
    (void)pthread_cond_destroy(&http->changed);
    (void)pthread_mutex_destroy(&http->lock);
    free(http);
}
