/* GET /bottles/{slug}/logs: a bottle's log, whole, its last lines, or as it grows. */
#include "server/handlers.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "base/text.h"
#include "base/util.h"
#include "server/app.h"
#include "server/log_reader.h"
#include "server/registry.h"
#include "server/stage.h"

enum { TAIL_MAX = 1000000 };

/* Logs of a bottle's own parts; each sidecar has one more, by its name. */
static const char *const own_streams[] = {"command", "console", "gvproxy", "vmm", "shim"};

struct log_query {
    const char *stream;
    int64_t tail; /* -1: whole */
    bool follow;
};

static const char *stream_name(size_t i)
{
    if (i < COUNT_OF(own_streams))
        return own_streams[i];
    return i - COUNT_OF(own_streams) < N_SIDECARS ? sidecars[i - COUNT_OF(own_streams)].name : NULL;
}

static int read_stream_name(const char *sent, struct log_query *query, struct error *err)
{
    CLEANUP_TEXT struct text names = TEXT_INIT;
    const char *name;

    query->stream = own_streams[0];
    for (size_t i = 0; sent && (name = stream_name(i)); i++) {
        text_addf(&names, "%s%s", i ? ", " : "", name);
        if (strcmp(name, sent) == 0) {
            query->stream = name;
            return 0;
        }
    }
    return sent ? error_set(err, "invalid-query", "stream has to be one of %s",
                            names.failed ? "" : names.data)
                : 0;
}

static int read_query(const struct request *request, struct log_query *query, struct error *err)
{
    const char *tail = request_query(request, "tail"), *follow = request_query(request, "follow");

    query->tail = -1;
    if (tail && number_parse(tail, 0, TAIL_MAX, &query->tail) < 0)
        return error_set(err, "invalid-query", "tail has to be a number of lines, at most %d",
                         TAIL_MAX);
    if (follow && strcmp(follow, "true") != 0 && strcmp(follow, "false") != 0)
        return error_set(err, "invalid-query", "follow has to be true or false");
    query->follow = follow && strcmp(follow, "true") == 0;
    return read_stream_name(request_query(request, "stream"), query, err);
}

struct log_stream {
    struct log_reader *reader;
    struct registry *registry;
    bool follow;
    uint64_t sequence; /* of the bottle: another one may get its slug */
    char slug[SLUG_MAX + 1];
};

static bool is_live(const struct log_stream *stream)
{
    struct snapshot *snapshot = registry_get(stream->registry, stream->slug);

    if (!snapshot)
        return false;
    const enum bottle_state state = snapshot->bottle.state;
    bool live =
        snapshot->sequence == stream->sequence && (states[state].live || state == STATE_RESTARTING);
    snapshot_release(snapshot);
    return live;
}

static ssize_t next_bytes(void *context, char *out, size_t room)
{
    struct log_stream *stream = context;

    if (!stream->follow) {
        ssize_t got = log_reader_present(stream->reader, out, room);
        return got > 0 ? got : -1;
    }
    /* In this order: what a bottle wrote before it ended is read after its end was seen. */
    bool live = is_live(stream);
    ssize_t got = log_reader_follow(stream->reader, out, room);
    return got > 0 || live ? got : -1;
}

static void end_stream(void *context)
{
    struct log_stream *stream = context;

    log_reader_free(stream->reader);
    free(stream);
}

static struct log_stream *open_stream(const struct app *app, const struct snapshot *snapshot,
                                      const struct log_query *query)
{
    CLEANUP_FREE char *stage = stage_path(&app->host, snapshot->bottle.slug);
    struct log_stream *stream = calloc(1, sizeof *stream);
    char folder[PATH_MAX];

    if (!stream || !stage ||
        snprintf(folder, sizeof folder, "%s/logs", stage) >= (int)sizeof folder) {
        free(stream);
        return NULL;
    }
    stream->registry = app->registry;
    stream->follow = query->follow;
    stream->sequence = snapshot->sequence;
    (void)snprintf(stream->slug, sizeof stream->slug, "%s", snapshot->bottle.slug);
    stream->reader = log_reader_new(folder, query->stream, query->tail);
    if (stream->reader)
        return stream;
    free(stream);
    return NULL;
}

void handle_bottle_logs(struct request *request)
{
    const struct app *app = request_app(request);
    const char *slug = request_param(request, "slug");
    struct error err = ERROR_INIT;
    struct log_query query;

    struct snapshot *snapshot = registry_get(app->registry, slug);
    if (!snapshot) {
        reply_fault(request, "not-found", "there is no bottle %s", slug);
        return;
    }
    struct log_stream *stream = NULL;
    if (read_query(request, &query, &err) == 0 && !(stream = open_stream(app, snapshot, &query)))
        error_set(&err, NULL, "out of memory");
    snapshot_release(snapshot);
    if (!stream)
        reply_error(request, &err);
    else
        reply_stream(request, 200, "text/plain; charset=utf-8",
                     (struct stream){
                         .next = next_bytes, .done = end_stream, .context = stream, .whole = true});
}
