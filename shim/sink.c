#include "shim/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static int open_file(struct sink *sink)
{
    char name[sizeof sink->name + 8];
    struct stat status;

    (void)snprintf(name, sizeof name, "%s.log", sink->name);
    sink->file =
        openat(sink->directory, name, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (sink->file < 0)
        return -1;
    sink->size = fstat(sink->file, &status) == 0 ? status.st_size : 0;
    return 0;
}

static void rotate(struct sink *sink)
{
    char name[sizeof sink->name + 8], old[sizeof sink->name + 8];

    (void)snprintf(name, sizeof name, "%s.log", sink->name);
    (void)snprintf(old, sizeof old, "%s.log.1", sink->name);
    (void)close(sink->file);
    sink->file = -1;
    if (renameat(sink->directory, name, sink->directory, old) == 0)
        (void)open_file(sink);
}

static void report_seen(struct sink *sink)
{
    memcpy(sink->seen, sink->last, sizeof sink->seen);
    sink->awaited = NULL;
    if (sink->on_seen)
        sink->on_seen(sink->context);
}

void sink_await(struct sink *sink, const char *words, void (*on_seen)(void *context), void *context)
{
    sink->awaited = words;
    sink->on_seen = on_seen;
    sink->context = context;
    sink->seen[0] = '\0';
}

/* Keeps the beginning of the last line: what a program that failed said last. */
static void note_last(struct sink *sink, const char *bytes, size_t length)
{
    size_t used = strlen(sink->last);

    for (size_t i = 0; i < length; i++) {
        if (bytes[i] == '\n') {
            if (!sink->line_ended && sink->awaited && strstr(sink->last, sink->awaited))
                report_seen(sink);
            sink->line_ended = true;
            continue;
        }
        if (sink->line_ended)
            used = 0;
        sink->line_ended = false;
        if (used < sizeof sink->last - 1)
            sink->last[used++] = (char)(bytes[i] >= ' ' && bytes[i] <= '~' ? bytes[i] : '?');
        sink->last[used] = '\0';
    }
}

void sink_write(struct sink *sink, const char *bytes, size_t length)
{
    note_last(sink, bytes, length);
    if (sink->size + (off_t)length > sink->bound && sink->size > 0 && sink->file >= 0)
        rotate(sink);
    if (sink->directory < 0 || (sink->file < 0 && open_file(sink) < 0))
        return;
    if (write_all(sink->file, bytes, length) == 0)
        sink->size += (off_t)length;
}

static void drop_pipe(struct sink *sink)
{
    if (sink->source.fd < 0)
        return;
    loop_remove(sink->loop, &sink->source);
    (void)close(sink->source.fd);
    sink->source.fd = -1;
}

static void on_readable(struct loop_source *source, uint32_t events)
{
    struct sink *sink = source->data;
    char bytes[16384];

    (void)events;
    ssize_t got = read(source->fd, bytes, sizeof bytes);
    if (got > 0)
        sink_write(sink, bytes, (size_t)got);
    else if (got == 0 || (errno != EAGAIN && errno != EINTR))
        drop_pipe(sink);
}

int sink_open(struct sink *sink, struct loop *loop, int directory, const char *name, off_t bound,
              struct error *err)
{
    *sink = (struct sink){.loop = loop, .directory = directory, .file = -1, .bound = bound};
    sink->source.fd = -1;
    (void)snprintf(sink->name, sizeof sink->name, "%s", name);
    if (directory >= 0 && open_file(sink) < 0)
        return error_errno(err, "launch-failed", "opening the log of %s", name);
    return 0;
}

int sink_pipe(struct sink *sink, int *ret_write_end, struct error *err)
{
    int ends[2];

    drop_pipe(sink);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_errno(err, "launch-failed", "pipe");
    (void)fcntl(ends[0], F_SETFL, O_NONBLOCK);
    sink->source = (struct loop_source){
        .fd = ends[0], .events = EPOLLIN, .callback = on_readable, .data = sink};
    if (loop_add(sink->loop, &sink->source, err) < 0) {
        (void)close(ends[0]);
        (void)close(ends[1]);
        sink->source.fd = -1;
        return -1;
    }
    *ret_write_end = ends[1];
    return 0;
}

void sink_drain(struct sink *sink)
{
    char bytes[16384];

    /* Not for ever: a writer that is still alive could go on without end. */
    for (int i = 0; i < 64 && sink->source.fd >= 0; i++) {
        ssize_t got = read(sink->source.fd, bytes, sizeof bytes);
        if (got <= 0)
            break;
        sink_write(sink, bytes, (size_t)got);
    }
}

void sink_close(struct sink *sink)
{
    sink_drain(sink);
    drop_pipe(sink);
    if (sink->file >= 0)
        (void)close(sink->file);
    sink->file = -1;
}
