#include "shim/health.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"

enum {
    INTERVAL_MS = 750, /* from one question to the next */
    ANSWER_MS = 450,   /* for the answer; with two misses a wedge is found within 1.7 s */
    WATCH_MS = 50,     /* while a question is open: how we find out that we are late ourselves */
    LATE_MS = 100,
    HELD_MAX = 2,
};

static const char question[] = "GET /cam HTTP/1.0\r\n\r\n";
static const char answer[] = "HTTP/1.0 200 ";

/* A socket as it was when the guest was not there yet. */
struct held {
    const char *name;
    int fd; /* O_PATH; -1: none */
    dev_t device;
    ino_t inode;
};

struct health {
    struct loop *loop;
    struct health_owner owner;
    int directory;
    struct held held[HELD_MAX]; /* the first is the services socket */
    struct loop_source source;  /* fd -1: no question is open */
    struct loop_timer timer;
    bool asking;
    int64_t asked_ms, late_ms; /* of the question that is open */
    unsigned misses, excused;
};

bool health_miss(int64_t late_ms, unsigned *misses, unsigned *excused)
{
    if (late_ms > LATE_MS && *excused < HEALTH_EXCUSED_MAX) {
        (*excused)++;
        return false;
    }
    return ++*misses >= HEALTH_MISSES;
}

static void hang_up(struct health *health)
{
    if (health->source.fd < 0)
        return;
    loop_remove(health->loop, &health->source);
    (void)close(health->source.fd);
    health->source.fd = -1;
}

static void lose(struct health *health, const char *why)
{
    hang_up(health);
    loop_timer_cancel(health->loop, &health->timer);
    health->owner.lost(health->owner.context, why);
}

static void set_timer(struct health *health, int64_t in_ms)
{
    loop_timer_set(health->loop, &health->timer, clock_monotonic_ms() + in_ms);
}

static void ask(struct health *health);

static void on_no_answer(struct health *health, const char *why)
{
    hang_up(health);
    if (health_miss(health->late_ms, &health->misses, &health->excused))
        lose(health, why);
    else
        ask(health);
}

static void on_answer(struct loop_source *source, uint32_t events)
{
    struct health *health = source->data;
    char bytes[sizeof answer - 1];

    (void)events;
    ssize_t got = recv(source->fd, bytes, sizeof bytes, MSG_PEEK);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0 && got < (ssize_t)sizeof bytes)
        return; /* the rest follows, or the deadline */
    bool good = got == (ssize_t)sizeof bytes && memcmp(bytes, answer, sizeof bytes) == 0;
    if (!good) {
        /* What answers with something else, or hangs up, was not slow. */
        health->late_ms = 0;
        on_no_answer(health, "gvproxy does not answer questions about itself any more");
        return;
    }
    hang_up(health);
    health->asking = false;
    health->misses = health->excused = 0;
    set_timer(health, INTERVAL_MS - (clock_monotonic_ms() - health->asked_ms));
}

/* Does the same socket lie at the path still? */
static bool is_in_place(const struct health *health, const struct held *held)
{
    struct stat status;

    return fstatat(health->directory, held->name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           status.st_dev == held->device && status.st_ino == held->inode;
}

static bool are_in_place(struct health *health)
{
    char why[128];

    for (size_t i = 0; i < HELD_MAX; i++) {
        if (is_in_place(health, &health->held[i]))
            continue;
        (void)snprintf(why, sizeof why, "gvproxy's socket %s was replaced: its guest took it over",
                       health->held[i].name);
        lose(health, why);
        return false;
    }
    return true;
}

/* Connects to the inode that is held, by the kernel's own link to it. */
static int dial(const struct held *held)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    (void)snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", held->fd);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) < 0 ||
        send(fd, question, sizeof question - 1, MSG_NOSIGNAL) < 0)
        return -1;
    return steal_fd(&fd);
}

static void ask(struct health *health)
{
    if (!are_in_place(health))
        return;
    health->asking = true;
    health->asked_ms = clock_monotonic_ms();
    health->late_ms = 0;
    health->source = (struct loop_source){
        .fd = dial(&health->held[0]), .events = EPOLLIN, .callback = on_answer, .data = health};
    if (health->source.fd >= 0 && loop_add(health->loop, &health->source, NULL) < 0) {
        (void)close(health->source.fd);
        health->source.fd = -1;
    }
    set_timer(health, WATCH_MS); /* also where it took no question: that is no answer */
}

static void on_timer(struct loop_timer *timer)
{
    struct health *health = timer->data;
    int64_t now = clock_monotonic_ms(), late = now - timer->at_ms;

    if (!health->asking) {
        ask(health);
        return;
    }
    if (late > health->late_ms)
        health->late_ms = late;
    if (now - health->asked_ms >= ANSWER_MS)
        on_no_answer(health, "gvproxy gives no answer any more: it is wedged, or at its limits");
    else
        set_timer(health, WATCH_MS);
}

static int hold(struct health *health, struct held *held, const char *name, struct error *err)
{
    struct stat status;

    *held = (struct held){
        .name = name,
        .fd = openat(health->directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC),
    };
    if (held->fd < 0 || fstat(held->fd, &status) < 0 || !S_ISSOCK(status.st_mode))
        return error_errno(err, NULL, "gvproxy's %s", name);
    held->device = status.st_dev;
    held->inode = status.st_ino;
    return 0;
}

struct health *health_new(struct loop *loop, const char *directory,
                          const struct health_owner *owner, struct error *err)
{
    static const char *const names[HELD_MAX] = {"api.sock", "net.sock"};
    struct health *health = calloc(1, sizeof *health);

    if (!health) {
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    *health = (struct health){.loop = loop, .owner = *owner, .directory = -1, .source = {.fd = -1}};
    for (size_t i = 0; i < HELD_MAX; i++)
        health->held[i].fd = -1;
    health->timer = (struct loop_timer){.callback = on_timer, .data = health};
    health->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < HELD_MAX; i++) {
        if (hold(health, &health->held[i], names[i], err) < 0) {
            health_free(health);
            return NULL;
        }
    }
    set_timer(health, INTERVAL_MS);
    return health;
}

void health_hold(struct health *health, bool hold)
{
    hang_up(health);
    health->asking = false;
    health->misses = health->excused = 0;
    loop_timer_cancel(health->loop, &health->timer);
    if (!hold)
        set_timer(health, INTERVAL_MS);
}

void health_free(struct health *health)
{
    if (!health)
        return;
    hang_up(health);
    loop_timer_cancel(health->loop, &health->timer);
    for (size_t i = 0; i < HELD_MAX; i++)
        if (health->held[i].fd >= 0)
            (void)close(health->held[i].fd);
    if (health->directory >= 0)
        (void)close(health->directory);
    free(health);
}
