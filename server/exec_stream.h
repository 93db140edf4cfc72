/* An exec as a response: frames with the supervisor on one side, what the client gets on the other.
 */
#pragma once

#include "api/exec_spec.h"
#include "server/engine.h"
#include "server/request.h"

enum exec_form {
    EXEC_WHOLE,    /* one JSON object at its end */
    EXEC_LINES,    /* a JSON object a line, as it happens (application/x-ndjson) */
    EXEC_DETACHED, /* one JSON object as soon as it is on its way */
};

struct exec_stream;

/* Speaks over `fd`; takes both over. NULL: no memory, both are released. */
struct exec_stream *exec_stream_new(struct exec_spec *spec, enum exec_form form, int fd,
                                    const char *id);
/* The body; the stream is freed at its end. A client that leaves before ends the program, unless it
 * is detached. */
struct stream exec_stream_body(struct exec_stream *stream);
