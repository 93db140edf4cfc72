/* readers SOCKET COUNT STALLED: so many readers of GET /events as a stream, the last STALLED of
 * which stop reading once they have begun.
 *
 * Prints "ready" when all have begun; then reads from stdin the id of the last event. When every
 * live reader has got to that, the stalled ones read again (one that was cut off meanwhile comes
 * back with its last id, as a browser would). Prints {"whole": live readers that got every id once
 * and in order, "gaps": stalled readers that were told of a gap, "stalled_whole": those that missed
 * nothing but what they were told of, "back": those that had been cut off}. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/util.h"

enum { LINE_MAX_BYTES = 8192, EVENTS = 64 };

enum phase { HEAD, SIZE, DATA, DATA_END };

struct reader {
    int fd;
    enum phase phase;
    size_t left; /* of a chunk */
    bool begun, stalled, wrong, gap, back;
    long long last; /* the id of the last event */
    size_t length;
    char line[LINE_MAX_BYTES];
};

static const char *path;
static int epoll_fd;

static void fail(const char *what)
{
    (void)fprintf(stderr, "readers: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static void connect_reader(struct reader *reader, bool resumes)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char head[256];

    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    reader->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (reader->fd < 0 || connect(reader->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    int length = snprintf(head, sizeof head,
                          "GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n");
    if (resumes)
        length += snprintf(head + length, sizeof head - (size_t)length, "Last-Event-ID: %lld\r\n",
                           reader->last);
    length += snprintf(head + length, sizeof head - (size_t)length, "\r\n");
    if (write(reader->fd, head, (size_t)length) != length)
        fail("write");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = reader};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, reader->fd, &event) < 0)
        fail("epoll");
    reader->length = 0;
    reader->phase = HEAD;
}

/* An event has to be the next one; a gap has to begin where this reader is. */
static void take_line(struct reader *reader)
{
    static const char data[] = "data: {\"id\":", gap[] = "data: {\"after\":", id[] = "id: ";
    const char *line = reader->line;

    if (!reader->begun && strncmp(line, id, strlen(id)) == 0) {
        reader->last = strtoll(line + strlen(id), NULL, 10);
        reader->begun = true;
    } else if (strncmp(line, "event: gap", 10) == 0) {
        reader->gap = true;
    } else if (strncmp(line, gap, strlen(gap)) == 0) {
        const char *next = strstr(line, "\"next\":");
        if (strtoll(line + strlen(gap), NULL, 10) != reader->last || !next)
            reader->wrong = true;
        else
            reader->last = strtoll(next + 7, NULL, 10);
    } else if (strncmp(line, data, strlen(data)) == 0) {
        long long got = strtoll(line + strlen(data), NULL, 10);
        reader->wrong = reader->wrong || got != reader->last + 1;
        reader->last = got;
    }
}

/* A byte of a line; true: it is whole. */
static bool add_byte(struct reader *reader, char byte)
{
    if (byte != '\n') {
        if (byte != '\r' && reader->length < LINE_MAX_BYTES - 1)
            reader->line[reader->length++] = byte;
        return false;
    }
    reader->line[reader->length] = '\0';
    reader->length = 0;
    return true;
}

/* What frames the chunks. An event's line may go on in the next chunk: it is kept aside there. */
static void take_frame_byte(struct reader *reader, char byte)
{
    if (reader->phase == DATA_END) {
        reader->phase = byte == '\n' ? SIZE : DATA_END;
        reader->left = 0;
    } else if (reader->phase == HEAD) {
        if (add_byte(reader, byte) && reader->line[0] == '\0')
            reader->phase = SIZE;
    } else if (byte == '\n') {
        reader->phase = DATA;
    } else if (byte != '\r') {
        reader->left =
            reader->left * 16 + (size_t)(byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
    }
}

static void take_bytes(struct reader *reader, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (reader->phase != DATA) {
            take_frame_byte(reader, bytes[i]);
            continue;
        }
        if (add_byte(reader, bytes[i]))
            take_line(reader);
        if (--reader->left == 0)
            reader->phase = DATA_END;
    }
}

/* Lets the readers read until those that are not stalled are done, or stdin has something. */
static void run(struct reader *readers, size_t count,
                bool (*done)(const struct reader *, long long), long long last)
{
    static char bytes[256 * 1024];
    struct epoll_event events[EVENTS];

    for (;;) {
        size_t open = 0;
        for (size_t i = 0; i < count; i++)
            open += !readers[i].stalled && !readers[i].wrong && !done(&readers[i], last);
        if (open == 0)
            return;
        int found = epoll_wait(epoll_fd, events, EVENTS, 30000);
        if (found == 0)
            return; /* what is missing is told */
        for (int i = 0; i < found; i++) {
            struct reader *reader = events[i].data.ptr;
            if (!reader)
                return;
            ssize_t got = read(reader->fd, bytes, sizeof bytes);
            if (got > 0) {
                take_bytes(reader, bytes, (size_t)got);
                continue;
            }
            if (!reader->begun) {
                (void)fprintf(stderr, "readers: the answer ended: %s\n", reader->line);
                exit(EXIT_FAILURE);
            }
            (void)close(reader->fd);
            reader->back = true;
            connect_reader(reader, true);
        }
    }
}

static bool has_begun(const struct reader *reader, long long last)
{
    (void)last;
    return reader->begun;
}

static bool never(const struct reader *reader, long long last)
{
    (void)reader;
    (void)last;
    return false;
}

static bool has_all(const struct reader *reader, long long last)
{
    return reader->last >= last;
}

int main(int argc, char **argv)
{
    size_t count = argc == 4 ? (size_t)strtoul(argv[2], NULL, 10) : 0;
    size_t stalled = argc == 4 ? (size_t)strtoul(argv[3], NULL, 10) : 0;
    struct rlimit files;
    char line[64];
    int whole = 0, gaps = 0, stalled_whole = 0, back = 0;

    if (count == 0 || stalled > count) {
        (void)fprintf(stderr, "usage: readers SOCKET COUNT STALLED\n");
        return 2;
    }
    path = argv[1];
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct reader *readers = calloc(count, sizeof *readers);
    if (epoll_fd < 0 || !readers)
        fail("start");
    for (size_t i = 0; i < count; i++)
        connect_reader(&readers[i], false);
    run(readers, count, has_begun, 0);
    for (size_t i = count - stalled; i < count; i++) {
        readers[i].stalled = true;
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, readers[i].fd, NULL);
    }
    (void)puts("ready");
    (void)fflush(stdout);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &input) < 0)
        fail("epoll");
    run(readers, count, never, 0);
    (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
    if (!fgets(line, sizeof line, stdin))
        return EXIT_FAILURE;
    long long last = strtoll(line, NULL, 10);
    run(readers, count, has_all, last);
    for (size_t i = count - stalled; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &readers[i]};
        readers[i].stalled = false;
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_ADD, readers[i].fd, &event);
    }
    run(readers, count, has_all, last);
    for (size_t i = 0; i < count; i++) {
        bool good = !readers[i].wrong && readers[i].last == last;
        if (i < count - stalled) {
            whole += good && !readers[i].gap && !readers[i].back;
        } else {
            gaps += readers[i].gap;
            stalled_whole += good;
            back += readers[i].back;
        }
    }
    (void)printf("{\"whole\": %d, \"gaps\": %d, \"stalled_whole\": %d, \"back\": %d}\n", whole,
                 gaps, stalled_whole, back);
    free(readers);
    return EXIT_SUCCESS;
}
