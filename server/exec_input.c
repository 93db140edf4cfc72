/* The input of execs that are being streamed, by requests of their own: libmicrohttpd starts no
 * response before a request's body is over, so it can't come with the request that the output goes
 * back on.
 *
 * Such a request is answered once the program has taken its bytes. Until then they wait in it: one
 * request at a time for an exec, so memory is bounded by what a body may have. */
#include "server/exec_stream_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/util.h"

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct exec_stream *listed;
static unsigned n_listed;
static size_t reserved;

/* ── which streams there are ── */

int exec_list(struct exec_stream *stream)
{
    const struct exec_spec *spec = &stream->spec;

    stream->reserved = EXEC_STREAM_BYTES + (spec->input ? strlen(spec->input) : 0) +
                       (stream->form == EXEC_WHOLE ? 2 * (size_t)spec->max_output_bytes : 0);
    (void)pthread_mutex_lock(&list_lock);
    bool fits =
        n_listed < EXEC_STREAMS_MAX && stream->reserved <= EXEC_STREAMS_BYTES_MAX - reserved;
    if (fits) {
        stream->listed = true;
        stream->next = listed;
        listed = stream;
        n_listed++;
        reserved += stream->reserved;
    }
    (void)pthread_mutex_unlock(&list_lock);
    return fits ? 0 : -1;
}

void exec_unlist(struct exec_stream *stream)
{
    struct exec_stream **at = &listed;

    (void)pthread_mutex_lock(&list_lock);
    while (stream->listed && *at != stream)
        at = &(*at)->next;
    if (stream->listed) {
        *at = stream->next;
        n_listed--;
        reserved -= stream->reserved;
    }
    stream->listed = false;
    (void)pthread_mutex_unlock(&list_lock);
}

void exec_name(struct exec_stream *stream, const char *id)
{
    (void)pthread_mutex_lock(&list_lock);
    memcpy(stream->id, id, sizeof stream->id);
    (void)pthread_mutex_unlock(&list_lock);
}

void exec_unref(struct exec_stream *stream)
{
    (void)pthread_mutex_lock(&list_lock);
    bool last = --stream->references == 0;
    (void)pthread_mutex_unlock(&list_lock);
    if (last)
        exec_stream_free(stream);
}

static struct exec_stream *find(const char *slug, const char *id)
{
    (void)pthread_mutex_lock(&list_lock);
    struct exec_stream *stream = listed;
    while (stream && (strcmp(stream->id, id) != 0 || strcmp(stream->slug, slug) != 0))
        stream = stream->next;
    if (stream)
        stream->references++;
    (void)pthread_mutex_unlock(&list_lock);
    return stream;
}

/* ── to the supervisor ── */

void exec_put_input(struct exec_stream *stream)
{
    const char *input = stream->spec.input ? stream->spec.input : "";
    struct exec_feed *feed = stream->feed;

    if (stream->input_ended || (!stream->spec.input && !stream->spec.stdin_open))
        return;
    size_t left = strlen(input + stream->input_at), put = 0;
    put = wire_put_input(&stream->wire, input + stream->input_at, left);
    stream->input_at += put;
    if (put < left)
        return;
    if (feed)
        feed->at += wire_put_input(&stream->wire, feed->bytes.data + feed->at,
                                   feed->bytes.length - feed->at);
    if (stream->spec.stdin_open && !(feed && feed->eof && feed->at == feed->bytes.length))
        return;
    wire_put(&stream->wire, FRAME_EXEC_INPUT, NULL, 0);
    stream->input_ended = true;
}

/* ── a request that brings some ── */

/* Whoever sees it first: the end itself may still wait behind output. */
static bool takes_no_more(const struct exec_stream *stream)
{
    const struct exec_wire *wire = &stream->wire;

    return stream->ended || stream->left || wire->deaf || wire->cut || wire->broken;
}

static bool is_done(const struct exec_feed *feed)
{
    const struct exec_stream *stream = feed->stream;

    return takes_no_more(stream) ||
           (feed->at == feed->bytes.length && (!feed->eof || stream->input_ended));
}

/* Under the stream's lock. */
static void step(struct exec_feed *feed)
{
    struct exec_stream *stream = feed->stream;

    if (is_done(feed))
        return;
    exec_put_input(stream);
    wire_flush(&stream->wire);
    if (!is_done(feed)) {
        exec_receive(stream);
        wire_flush(&stream->wire);
    }
}

static void answer(struct exec_feed *feed)
{
    const struct exec_stream *stream = feed->stream;
    bool open = !stream->input_ended && !takes_no_more(stream);
    CLEANUP_JSON json_t *object =
        json_pack("{s:I, s:b}", "written", (json_int_t)feed->at, "stdin_open", (int)open);
    CLEANUP_FREE char *text = json_text(object);

    text_add(&feed->say, text ? text : "{}");
    text_add(&feed->say, "\n");
    feed->answered = true;
}

static ssize_t next(void *context, char *out, size_t room)
{
    struct exec_feed *feed = context;
    struct exec_stream *stream = feed->stream;

    if (!feed->answered) {
        (void)pthread_mutex_lock(&stream->lock);
        step(feed);
        bool done = is_done(feed);
        if (done) {
            answer(feed);
            stream->feed = NULL; /* who has read the answer may give more at once */
        }
        if (!done && wire_is_full(&stream->wire) && feed->fd >= 0)
            (void)close(steal_fd(&feed->fd)); /* it would wake us for nothing */
        (void)pthread_mutex_unlock(&stream->lock);
        if (!done)
            return 0;
    }
    size_t left = feed->say.length - feed->said, length = left < room ? left : room;
    if (length == 0)
        return -1;
    memcpy(out, feed->say.data + feed->said, length);
    feed->said += length;
    return (ssize_t)length;
}

static void feed_free(struct exec_feed *feed)
{
    if (feed->fd >= 0)
        (void)close(feed->fd);
    if (feed->bytes.data)
        explicit_bzero(feed->bytes.data, feed->bytes.length);
    text_free(&feed->bytes);
    text_free(&feed->say);
    free(feed);
}

static void done(void *context)
{
    struct exec_feed *feed = context;
    struct exec_stream *stream = feed->stream;

    (void)pthread_mutex_lock(&stream->lock);
    if (stream->feed == feed)
        stream->feed = NULL;
    (void)pthread_mutex_unlock(&stream->lock);
    exec_unref(stream);
    feed_free(feed);
}

/* Under the stream's lock: why it can't be given any, or NULL. */
static const char *refusal(const struct exec_stream *stream)
{
    if (!stream->spec.stdin_open)
        return "it was not started with \"stdin_open\": true";
    if (takes_no_more(stream))
        return "it has ended";
    if (stream->input_ended)
        return "its input was ended";
    return stream->feed ? "another request is giving it input: one at a time" : NULL;
}

static int attach(struct exec_stream *stream, struct exec_feed *feed, struct problem *problem)
{
    (void)pthread_mutex_lock(&stream->lock);
    const char *why = refusal(stream);
    if (!why) {
        feed->stream = stream;
        feed->fd = fcntl(stream->wire.fd, F_DUPFD_CLOEXEC, 3);
        stream->feed = feed;
    }
    (void)pthread_mutex_unlock(&stream->lock);
    if (why)
        problem_set(problem, "input-closed", "exec %s: %s", stream->id, why);
    return why ? -1 : 0;
}

int exec_feed_new(const char *slug, const char *id, const char *bytes, size_t length, bool eof,
                  struct stream *ret, struct problem *problem)
{
    struct exec_feed *feed = calloc(1, sizeof *feed);
    struct exec_stream *stream = find(slug, id);

    if (!feed || !stream) {
        problem_set(problem, feed ? "not-found" : "internal", "%s",
                    feed ? "no exec of that name is being streamed or waited for here"
                         : "memory is short");
    } else {
        feed->fd = -1;
        feed->eof = eof;
        text_add_bytes(&feed->bytes, bytes, length);
        if (feed->bytes.failed)
            problem_set(problem, "internal", "memory is short");
        else if (attach(stream, feed, problem) == 0) {
            *ret = (struct stream){
                .next = next, .done = done, .context = feed, .fd = &feed->fd, .whole = true};
            return 0;
        }
    }
    if (stream)
        exec_unref(stream);
    if (feed) {
        feed->fd = -1;
        feed_free(feed);
    }
    return -1;
}
