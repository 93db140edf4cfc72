#include "guest/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"

enum {
    OPEN_WAIT_MS = 10 * 1000,
    STEP_MS = 4,
    READ_SIZE = 32 * 1024,
};

/* Does this port of /sys/class/virtio-ports have our name? */
static bool port_is_ours(const char *port)
{
    char path[300], name[64];
    int length = snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port);

    if (length < 0 || (size_t)length >= sizeof path)
        return false;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, name, sizeof name - 1);
    if (got < 0)
        return false;
    name[got] = '\0';
    name[strcspn(name, "\n")] = '\0';
    return strcmp(name, AGENT_PORT_NAME) == 0;
}

/* -1 while there is no such port. */
static int open_port(void)
{
    DIR *ports = opendir("/sys/class/virtio-ports");
    char path[300];
    int fd = -1;

    if (!ports)
        return -1;
    for (struct dirent *entry; fd < 0 && (entry = readdir(ports));) {
        if (entry->d_name[0] == '.' || !port_is_ours(entry->d_name))
            continue;
        int length = snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        if (length > 0 && (size_t)length < sizeof path)
            fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    }
    (void)closedir(ports);
    return fd;
}

static bool hung_up(int fd)
{
    struct pollfd port = {.fd = fd, .events = POLLOUT};

    return poll(&port, 1, 0) < 0 || (port.revents & (POLLHUP | POLLERR | POLLNVAL));
}

int agent_open(struct agent *agent, struct error *err)
{
    int64_t until = clock_monotonic_ms() + OPEN_WAIT_MS;

    agent->in_max = START_PAYLOAD_MAX;
    /* The name comes with a message of the host after the device, and the host's presence with
     * another. */
    while ((agent->fd < 0 && (agent->fd = open_port()) < 0) || hung_up(agent->fd)) {
        if (clock_monotonic_ms() >= until)
            return error_set(err, NULL, "%s the virtio port %s for %d s",
                             agent->fd < 0 ? "there was no" : "nobody was at the other end of",
                             AGENT_PORT_NAME, OPEN_WAIT_MS / 1000);
        (void)poll(NULL, 0, STEP_MS);
    }
    agent->closed = false;
    return 0;
}

/* Appends to the buffer when there is room. */
static int put(struct agent *agent, const void *bytes, size_t length)
{
    if (length > sizeof agent->out - agent->out_end)
        return -1;
    if (length)
        memcpy(agent->out + agent->out_end, bytes, length);
    agent->out_end += length;
    return 0;
}

int agent_put(struct agent *agent, enum frame_type type, const void *payload, size_t length)
{
    uint8_t header[FRAME_HEADER_SIZE];
    size_t cut = length < AGENT_SMALL_MAX ? length : AGENT_SMALL_MAX;

    if (sizeof agent->out - agent->out_end < sizeof header + cut)
        return -1;
    frame_header(header, type, (uint32_t)cut);
    return put(agent, header, sizeof header) < 0 ? -1 : put(agent, payload, cut);
}

uint8_t *agent_room(struct agent *agent)
{
    return agent_idle(agent) ? agent->out + FRAME_HEADER_SIZE : NULL;
}

void agent_frame(struct agent *agent, enum frame_type type, size_t length)
{
    frame_header(agent->out, type, (uint32_t)length);
    agent->out_at = 0;
    agent->out_end = FRAME_HEADER_SIZE + length;
}

bool agent_idle(const struct agent *agent)
{
    return agent->out_at == agent->out_end;
}

void agent_write(struct agent *agent)
{
    while (!agent->closed && !agent_idle(agent)) {
        ssize_t put_bytes =
            write(agent->fd, agent->out + agent->out_at, agent->out_end - agent->out_at);
        if (put_bytes < 0 && errno == EINTR)
            continue;
        if (put_bytes < 0 && errno == EAGAIN)
            return;
        if (put_bytes < 0) {
            agent->closed = true;
            return;
        }
        agent->out_at += (size_t)put_bytes;
    }
    if (agent_idle(agent))
        agent->out_at = agent->out_end = 0;
}

/* Reads what is there, once. */
static enum agent_result fill(struct agent *agent)
{
    uint8_t bytes[READ_SIZE];
    ssize_t got = read(agent->fd, bytes, sizeof bytes);

    if (got > 0)
        text_add_bytes(&agent->in, bytes, (size_t)got);
    else if (got == 0 || (errno != EAGAIN && errno != EINTR))
        agent->closed = true;
    if (agent->closed)
        return AGENT_CLOSED;
    return got > 0 && !agent->in.failed ? AGENT_FRAME : AGENT_NOTHING;
}

enum agent_result agent_read(struct agent *agent, struct frame *ret)
{
    struct text *in = &agent->in;

    if (agent->closed)
        return AGENT_CLOSED;
    if (agent->in_used) {
        memmove(in->data, in->data + agent->in_used, in->length - agent->in_used);
        in->length -= agent->in_used;
        agent->in_used = 0;
    }
    for (;;) {
        int64_t size =
            in->length ? frame_parse((const uint8_t *)in->data, in->length, agent->in_max, ret) : 0;
        if (size < 0 || in->failed)
            return AGENT_MALFORMED;
        if (size > 0) {
            agent->in_used = (size_t)size;
            return AGENT_FRAME;
        }
        enum agent_result result = fill(agent);
        if (result != AGENT_FRAME)
            return result;
    }
}

void agent_wait(struct agent *agent, int timeout_ms)
{
    struct pollfd port = {.fd = agent->fd,
                          .events = (short)(POLLIN | (agent_idle(agent) ? 0 : POLLOUT))};

    if (poll(&port, 1, timeout_ms) <= 0)
        return;
    if (port.revents & (POLLHUP | POLLERR | POLLNVAL))
        agent->closed = true;
    agent_write(agent);
}
