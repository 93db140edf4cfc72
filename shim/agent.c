#include "shim/agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OUT_LEAST = 64 * 1024, OUT_KEPT = 512 * 1024 };

static void release_out(struct agent *agent)
{
    if (agent->out)
        explicit_bzero(agent->out, agent->out_room);
    free(agent->out);
    agent->out = NULL;
    agent->out_room = 0;
}

/* Room for so many more bytes; the old buffer is wiped. */
static int make_room(struct agent *agent, size_t length)
{
    size_t wanted = agent->out_length + length, room = OUT_LEAST;

    if (wanted <= agent->out_room)
        return 0;
    while (room < wanted)
        room *= 2;
    uint8_t *out = malloc(room);
    if (!out)
        return -1;
    if (agent->out_length)
        memcpy(out, agent->out, agent->out_length);
    release_out(agent);
    agent->out = out;
    agent->out_room = room;
    return 0;
}

void agent_close(struct agent *agent)
{
    if (agent->source.fd < 0)
        return;
    loop_remove(agent->loop, &agent->source);
    (void)close(agent->source.fd);
    agent->source.fd = -1;
    release_out(agent);
    agent->in_length = agent->out_length = 0;
}

static void end(struct agent *agent, const char *why)
{
    agent_close(agent);
    agent->on_end(agent->context, why);
}

/* 0, or -1 when the guest's end is gone. */
static int flush(struct agent *agent)
{
    while (agent->out_length > 0) {
        ssize_t done = send(agent->source.fd, agent->out, agent->out_length, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && errno != EAGAIN)
            return -1;
        if (done < 0)
            break;
        agent->out_length -= (size_t)done;
        memmove(agent->out, agent->out + done, agent->out_length);
        explicit_bzero(agent->out + agent->out_length, (size_t)done);
    }
    if (agent->out_length == 0 && agent->out_room > OUT_KEPT)
        release_out(agent);
    return loop_modify(agent->loop, &agent->source,
                       EPOLLIN | (agent->out_length > 0 ? (uint32_t)EPOLLOUT : 0));
}

static void take_frames(struct agent *agent)
{
    struct frame frame;
    size_t at = 0;

    while (agent->source.fd >= 0) {
        int64_t size =
            frame_parse(agent->in + at, agent->in_length - at, GUEST_PAYLOAD_MAX, &frame);
        if (size < 0) {
            end(agent, "the guest's agent broke the protocol");
            return;
        }
        if (size == 0)
            break;
        at += (size_t)size;
        agent->on_frame(agent->context, &frame);
    }
    if (agent->source.fd < 0) /* a callback closed us */
        return;
    agent->in_length -= at;
    memmove(agent->in, agent->in + at, agent->in_length);
}

static void on_event(struct loop_source *source, uint32_t events)
{
    struct agent *agent = source->data;

    if ((events & EPOLLOUT) && flush(agent) < 0) {
        end(agent, "the agent's channel was closed");
        return;
    }
    if ((events & EPOLLOUT) && agent->out_length == 0 && agent->on_room)
        agent->on_room(agent->context);
    if (agent->source.fd < 0) /* the callback closed us */
        return;
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    ssize_t got =
        recv(source->fd, agent->in + agent->in_length, sizeof agent->in - agent->in_length, 0);
    if (got > 0) {
        agent->in_length += (size_t)got;
        take_frames(agent);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        end(agent, "the agent's channel was closed");
    }
}

int agent_open(struct agent *agent, struct loop *loop, int *ret_guest_end, struct error *err)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return error_errno(err, "launch-failed", "socketpair");
    agent->loop = loop;
    agent->in_length = agent->out_length = 0;
    agent->out = NULL;
    agent->out_room = 0;
    agent->source =
        (struct loop_source){.fd = ends[0], .events = EPOLLIN, .callback = on_event, .data = agent};
    if (loop_add(loop, &agent->source, err) < 0) {
        (void)close(ends[0]);
        (void)close(ends[1]);
        agent->source.fd = -1;
        return -1;
    }
    *ret_guest_end = ends[1];
    return 0;
}

int agent_send(struct agent *agent, const uint8_t *bytes, size_t length)
{
    if (agent->source.fd < 0)
        return -1;
    if (make_room(agent, length) < 0)
        return -1;
    bool waited = agent->out_length > 0;
    memcpy(agent->out + agent->out_length, bytes, length);
    agent->out_length += length;
    if (flush(agent) < 0)
        return -1;
    if (waited && agent->out_length == 0 && agent->on_room)
        agent->on_room(agent->context);
    return 0;
}

int agent_send_u32(struct agent *agent, enum frame_type type, uint32_t value)
{
    uint8_t bytes[FRAME_HEADER_SIZE + 4];

    frame_header(bytes, type, 4);
    put_u32(bytes + FRAME_HEADER_SIZE, value);
    return agent_send(agent, bytes, sizeof bytes);
}

int agent_send_empty(struct agent *agent, enum frame_type type)
{
    uint8_t bytes[FRAME_HEADER_SIZE];

    frame_header(bytes, type, 0);
    return agent_send(agent, bytes, sizeof bytes);
}
