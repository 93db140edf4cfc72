/* What exec_stream.c (output, and the end) and exec_input.c (input, and which streams there are)
 * share.
 *
 * A stream is used by the thread of its own connection and by those that give it input; `lock` is
 * held for every step. */
#pragma once

#include <pthread.h>

#include "api/spec.h"
#include "base/text.h"
#include "guest/protocol.h"
#include "server/exec_stream.h"

struct exec_output {
    struct text text; /* of a whole answer */
    int64_t bytes;    /* in all */
    char carry[4];    /* the begin of a UTF-8 sequence */
    size_t carried;
    bool is_text;
    size_t rendered;
};

/* The input of one request, on its way. */
struct exec_feed {
    struct exec_stream *stream;
    struct text bytes;
    size_t at; /* what the program has taken */
    bool eof;  /* its input ends with that */
    int fd;    /* the stream's once more, for the waker; -1: not to be waited for */
    bool answered;
    struct text say;
    size_t said;
};

struct exec_stream {
    pthread_mutex_t lock;
    unsigned references; /* this and the next three: under exec_input.c's lock */
    struct exec_stream *next;
    bool listed;
    size_t reserved;
    char slug[SLUG_MAX + 1];
    struct app *app;
    struct exec_spec spec;
    enum exec_form form;
    int fd;
    char id[EXEC_ID_SIZE];
    struct text in, out;    /* from and to the supervisor */
    size_t in_at;           /* bytes of `in` that were taken */
    size_t in_scanned;      /* and those whose windows were */
    bool deaf, cut, broken; /* the supervisor takes no more; says no more; broke the protocol */
    uint32_t input_window;  /* how much the program takes */
    size_t input_at;        /* bytes of spec.input that were sent */
    bool input_ended;
    struct exec_feed *feed; /* the one that comes after spec.input; NULL: none now */
    uint32_t owed;          /* how much of the window is to be given again */
    struct text say;        /* to the client */
    size_t said;
    struct exec_output outputs[2];
    unsigned rendering; /* of a whole answer: which part comes next */
    bool over;          /* nothing comes after `say`, and the outputs of a whole answer */
    bool ended;         /* the program has */
    bool left;          /* the client has, or has got all */
};

/* exec_stream.c */
void exec_put_frame(struct text *out, enum frame_type type, const void *payload, size_t length);
void exec_flush(struct exec_stream *stream);
/* Reads what is there; windows count at once, whatever output is before them. */
void exec_receive(struct exec_stream *stream);
/* Whether there is no room to read more. */
bool exec_is_full(const struct exec_stream *stream);
void exec_stream_free(struct exec_stream *stream);

/* exec_input.c */
/* -1: too many, or too much memory. */
int exec_list(struct exec_stream *stream);
/* From now on it is found by that. */
void exec_name(struct exec_stream *stream, const char *id);
void exec_unlist(struct exec_stream *stream);
void exec_unref(struct exec_stream *stream);
/* As much input as the program takes, and its end. */
void exec_put_input(struct exec_stream *stream);
