/* Log sinks: what a child program prints, read from a pipe and kept in a bounded, rotating file.
 *
 * NAME.log grows to the bound, then becomes NAME.log.1 (the previous one is dropped), so that a
 * chatty program costs at most twice the bound. The guest and the programs it may own never hold a
 * descriptor of the file itself. */
#pragma once

#include <sys/types.h>

#include "base/loop.h"

struct sink {
    struct loop *loop;
    struct loop_source source; /* the pipe's read end, while open */
    int directory, file;
    char name[32];
    off_t size, bound;
    char last[120]; /* the last line that had something in it, cut and made printable */
    bool line_ended;
    /* A line that has these words is kept and reported, once; NULL: none is waited for. */
    const char *awaited;
    void (*on_seen)(void *context); /* or NULL */
    void *context;
    char seen[120];
};

/* Opens (appends to) NAME.log in the directory, which must outlive the sink. Directory -1: nothing
 * is kept but the last line. */
int sink_open(struct sink *sink, struct loop *loop, int directory, const char *name, off_t bound,
              struct error *err);
/* Makes a pipe that feeds the sink and gives its write end, for the child; the caller closes it. An
 * earlier pipe is let go. */
int sink_pipe(struct sink *sink, int *ret_write_end, struct error *err);
/* Reports the next whole line that has the words (static) within what is kept of a line. NULL:
 * none any more. */
void sink_await(struct sink *sink, const char *words, void (*on_seen)(void *context),
                void *context);
/* Appends bytes that came another way. A full disk loses log lines, never the bottle. */
void sink_write(struct sink *sink, const char *bytes, size_t length);
/* Takes what is in the pipe now. */
void sink_drain(struct sink *sink);
/* The same, and closes all. */
void sink_close(struct sink *sink);
