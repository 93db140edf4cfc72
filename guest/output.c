#include "guest/output.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

enum { DRAIN_MS = 1000 };

/* A process that the program left behind may print for ever: after the drain time only what is owed
 * is read. */
static bool may_read(const struct output *output, unsigned i)
{
    return output->fds[i] >= 0 &&
           (!output->ended || output->owed[i] || clock_monotonic_ms() < output->drain_until);
}

void output_poll(const struct output *output, bool room, struct pollfd fds[2])
{
    for (unsigned i = 0; i < 2; i++)
        fds[i] = (struct pollfd){.fd = room && may_read(output, i) ? output->fds[i] : -1,
                                 .events = POLLIN};
}

void output_polled(struct output *output, const struct pollfd fds[2])
{
    for (unsigned i = 0; i < 2; i++)
        output->ready[i] = fds[i].fd >= 0 && fds[i].revents;
}

static void end(struct output *output, unsigned i)
{
    (void)close(output->fds[i]);
    output->fds[i] = -1;
    output->owed[i] = 0;
}

static void pump_one(struct output *output, unsigned i, const struct output_way *way)
{
    size_t before = way->label_size + 1, most = AGENT_FRAME_MAX - before;
    uint8_t *room = output->ready[i] && may_read(output, i) ? agent_room(way->agent) : NULL;

    if (way->window && *way->window < most)
        most = *way->window;
    if (!room || most == 0)
        return;
    output->ready[i] = false;
    ssize_t got = read(output->fds[i], room + before, most);
    if (got > 0) {
        if (way->label_size)
            memcpy(room, way->label, way->label_size);
        room[way->label_size] = (uint8_t)(i + 1);
        agent_frame(way->agent, way->type, before + (size_t)got);
        agent_write(way->agent);
        output->owed[i] -= (size_t)got < output->owed[i] ? (size_t)got : output->owed[i];
        if (way->window)
            *way->window -= (uint32_t)got;
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        end(output, i); /* a terminal says EIO */
    }
}

void output_pump(struct output *output, const struct output_way *way)
{
    /* Whichever has nothing does not take the other's turn. */
    output->turn = !output->turn;
    pump_one(output, output->turn, way);
    pump_one(output, !output->turn, way);
}

void output_note_end(struct output *output)
{
    output->ended = true;
    output->drain_until = clock_monotonic_ms() + DRAIN_MS;
    for (unsigned i = 0; i < 2; i++) {
        int waiting = 0;
        if (output->fds[i] >= 0 && ioctl(output->fds[i], FIONREAD, &waiting) == 0)
            output->owed[i] = (size_t)waiting;
    }
}

bool output_drained(const struct output *output)
{
    if (!output->ended || output->owed[0] || output->owed[1])
        return false;
    return (output->fds[0] < 0 && output->fds[1] < 0) ||
           clock_monotonic_ms() >= output->drain_until;
}

int output_wait_ms(const struct output *output)
{
    int64_t left = output->ended ? output->drain_until - clock_monotonic_ms() : -1;

    return left > 0 ? (int)left : -1;
}

void output_close(struct output *output)
{
    for (unsigned i = 0; i < 2; i++)
        if (output->fds[i] >= 0)
            end(output, i);
}
