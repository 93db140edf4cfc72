/* What exec_stream.c (output, and the end) and exec_input.c (input, and which streams there are)
 * share.
 *
 * A stream is used by the thread of its own connection and by those that give it input; `lock` is
 * held for every step. */
#pragma once

#include <pthread.h>

#include "api/spec.h"
#include "base/text.h"
#include "server/exec_stream.h"
#include "server/exec_wire.h"
#include "server/output_line.h"

struct exec_output {
    struct text text; /* of a whole answer */
    int64_t bytes;    /* in all */
    struct carry carry;
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
    struct exec_wire wire;
    char id[EXEC_ID_SIZE];
    size_t input_at; /* bytes of spec.input that were sent */
    bool input_ended;
    struct exec_feed *feed; /* the one that comes after spec.input; NULL: none now */
    struct text say;        /* to the client */
    size_t said;
    struct exec_output outputs[2];
    unsigned rendering; /* of a whole answer: which part comes next */
    bool over;          /* nothing comes after `say`, and the outputs of a whole answer */
    bool ended;         /* the program has */
    bool left;          /* the client has, or has got all */
};

/* exec_stream.c */
/* Reads what is there; input goes on at once, whatever output is before the windows. */
void exec_receive(struct exec_stream *stream);
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
