/* An exec as a response: frames with the supervisor on one side, what the client gets on the other.
 */
#pragma once

#include "api/exec_spec.h"
#include "server/engine.h"
#include "server/request.h"

enum {
    /* Of all bottles together. */
    EXEC_STREAMS_MAX = 1024,
    EXEC_STREAMS_BYTES_MAX = 512 * 1024 * 1024, /* each counts what it may come to hold */
    EXEC_STREAM_BYTES = 256 * 1024,             /* without input and output */
};

enum exec_form {
    EXEC_WHOLE,    /* one JSON object at its end */
    EXEC_LINES,    /* a JSON object a line, as it happens (application/x-ndjson) */
    EXEC_DETACHED, /* one JSON object as soon as it is on its way */
};

struct exec_stream;

/* For `spec` (taken over). NULL with a problem: there are too many, or memory is short. */
struct exec_stream *exec_stream_new(struct app *app, const char *slug, struct exec_spec *spec,
                                    enum exec_form form, struct problem *problem);
void exec_stream_unref(struct exec_stream *stream);
/* It is that exec; speaks over `fd`, which is taken over. */
void exec_stream_open(struct exec_stream *stream, int fd, const char *id);
/* The body, once it is open; the reference goes with it. A client that leaves before the end ends
 * the program, unless it is detached. */
struct stream exec_stream_body(struct exec_stream *stream);

/* The body of a request that gives input (copied) to one that is open: {"written", "stdin_open"},
 * when the program has taken all of it or takes no more. -1 with a problem. */
int exec_feed_new(const char *slug, const char *id, const char *bytes, size_t length, bool eof,
                  struct stream *ret, struct problem *problem);
