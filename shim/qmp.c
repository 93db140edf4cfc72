#include "shim/qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"

/* Memory that lies in a shared file is not saved: the file is it. */
static const char capabilities[] = "{\"execute\":\"qmp_capabilities\"}\n";
static const char ignore_shared[] =
    "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
    "[{\"capability\":\"x-ignore-shared\",\"state\":true}]}}\n";

enum { LOOK_MS = 10 };

struct monitor {
    int fd;
    int64_t until_ms;
    struct text said;
    struct error *err;
};

/* With a descriptor when `pass` is one. */
static int say(int fd, const char *text, int pass, struct error *err)
{
    char control[CMSG_SPACE(sizeof pass)] = {0};
    struct iovec data = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

    if (pass >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof pass);
        memcpy(CMSG_DATA(header), &pass, sizeof pass);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)strlen(text)
               ? 0
               : error_errno(err, NULL, "speaking to QEMU's monitor");
}

static json_t *take_object(struct text *said)
{
    char *end = said->data ? memchr(said->data, '\n', said->length) : NULL;

    if (!end)
        return NULL;
    size_t length = (size_t)(end + 1 - said->data);
    json_t *object = json_parse(said->data, length, NULL);
    said->length -= length;
    memmove(said->data, end + 1, said->length + 1);
    return object ? object : json_null();
}

static int error_of(const json_t *object, struct error *err)
{
    const json_t *error = json_object_get(object, "error");
    const char *words = json_member_string(error, "desc");

    if (!error)
        return 0;
    (void)error_set(err, NULL, "QEMU: %.200s", words ? words : "an error without words");
    return 1;
}

int qmp_take_event(struct text *said, char ret_event[QMP_EVENT_SIZE], struct error *err)
{
    CLEANUP_JSON json_t *object = take_object(said);
    const char *event = json_member_string(object, "event");

    (void)snprintf(ret_event, QMP_EVENT_SIZE, "%s", event ? event : "");
    return object ? error_of(object, err) : -1;
}

int qmp_take_line(struct text *said, struct error *err)
{
    char event[QMP_EVENT_SIZE];

    return qmp_take_event(said, event, err);
}

/* The answer to the last command, or NULL. */
static json_t *answer(struct monitor *monitor)
{
    char bytes[4096];

    for (;;) {
        json_t *object = take_object(&monitor->said);
        if (object && error_of(object, monitor->err)) {
            json_decref(object);
            return NULL;
        }
        if (json_object_get(object, "return"))
            return object;
        if (object) { /* the greeting, or an event */
            json_decref(object);
            continue;
        }
        int64_t left = monitor->until_ms - clock_monotonic_ms();
        struct pollfd ready = {.fd = monitor->fd, .events = POLLIN};
        int n = left <= 0 ? 0 : poll(&ready, 1, (int)left);
        if (n < 0 && errno == EINTR)
            continue;
        ssize_t got = n <= 0 ? 0 : recv(monitor->fd, bytes, sizeof bytes, 0);
        if (got <= 0 || monitor->said.length > QMP_SAID_MAX) {
            (void)error_set(monitor->err, NULL, "QEMU's monitor gave no answer");
            return NULL;
        }
        text_add_bytes(&monitor->said, bytes, (size_t)got);
    }
}

static int command(struct monitor *monitor, const char *text, int pass)
{
    CLEANUP_JSON json_t *got =
        say(monitor->fd, text, pass, monitor->err) < 0 ? NULL : answer(monitor);

    return got ? 0 : -1;
}

/* 1: saved, 0: not yet, -1. */
static int look(struct monitor *monitor)
{
    CLEANUP_JSON json_t *got =
        say(monitor->fd, "{\"execute\":\"query-migrate\"}\n", -1, monitor->err) < 0
            ? NULL
            : answer(monitor);
    const char *status = json_member_string(json_object_get(got, "return"), "status");

    if (!got)
        return -1;
    if (status && strcmp(status, "failed") == 0)
        return error_set(monitor->err, NULL, "QEMU could not save the machine");
    return status && strcmp(status, "completed") == 0;
}

int qmp_save(int fd, int state, int64_t until_ms, struct error *err)
{
    struct monitor monitor = {.fd = fd, .until_ms = until_ms, .said = TEXT_INIT, .err = err};
    int result = -1;

    if (command(&monitor, capabilities, -1) < 0 || command(&monitor, ignore_shared, -1) < 0 ||
        command(&monitor, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"state\"}}\n", state) <
            0 ||
        command(&monitor, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:state\"}}\n", -1) <
            0)
        goto out;
    while ((result = look(&monitor)) == 0)
        (void)poll(NULL, 0, LOOK_MS);
out:
    text_free(&monitor.said);
    return result < 0 ? error_wrap(err, "saving the machine") : 0;
}

int qmp_begin(int fd, struct error *err)
{
    return say(fd, capabilities, -1, err);
}

int qmp_halt(int fd, bool halt, struct error *err)
{
    return say(fd, halt ? "{\"execute\":\"stop\"}\n" : "{\"execute\":\"cont\"}\n", -1, err);
}

int qmp_restore(int fd, int state, struct error *err)
{
    char incoming[128];

    (void)snprintf(incoming, sizeof incoming,
                   "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:%d\"}}\n", state);
    return say(fd, capabilities, -1, err) < 0 || say(fd, ignore_shared, -1, err) < 0
               ? -1
               : say(fd, incoming, -1, err);
}
