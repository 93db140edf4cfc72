/* The guest's end of the agent channel (guest/protocol.h): the virtio port, frames in and frames
 * out.
 *
 * Nothing here blocks after agent_open. Out goes one bounded buffer: a frame of output is read from
 * the command straight into it, and no more is read before it is empty; room is kept for the few
 * small frames beside it. In comes one frame at a time, in a buffer that grows with what has really
 * arrived. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"
#include "guest/protocol.h"

enum {
    /* A frame is one write: the kernel's driver takes at most 32 KiB in one. */
    AGENT_FRAME_MAX = 32 * 1024 - FRAME_HEADER_SIZE,
    AGENT_SMALL_MAX = 1024,
    AGENT_ROOM = 32 * 1024 + 4 * (AGENT_SMALL_MAX + FRAME_HEADER_SIZE),
};

struct agent {
    int fd;
    uint8_t out[AGENT_ROOM];
    size_t out_at, out_end;
    struct text in;
    size_t in_used;  /* bytes of `in` that the last frame took */
    uint32_t in_max; /* the largest payload that is taken */
    bool closed;     /* the port is not open yet, or the host is gone */
};

enum agent_result {
    AGENT_NOTHING,
    AGENT_FRAME,
    AGENT_CLOSED,
    AGENT_MALFORMED,
};

#define AGENT_INIT                                                                                 \
    {                                                                                              \
        .fd = -1, .closed = true                                                                   \
    }

/* Waits until the port is there and the host holds its other end, for 10 s at most. */
int agent_open(struct agent *agent, struct error *err);
/* Queues a frame of at most AGENT_SMALL_MAX bytes; longer payloads are cut. -1 when the buffer has
 * no room. */
int agent_put(struct agent *agent, enum frame_type type, const void *payload, size_t length);
/* Where the payload of the next large frame goes, AGENT_FRAME_MAX bytes, or NULL while something is
 * under way. */
uint8_t *agent_room(struct agent *agent);
/* Queues the frame of the payload that was put there. */
void agent_frame(struct agent *agent, enum frame_type type, size_t length);
/* Writes what the port takes. */
void agent_write(struct agent *agent);
bool agent_idle(const struct agent *agent);
/* The next frame that has arrived. Its payload lives until the next call. */
enum agent_result agent_read(struct agent *agent, struct frame *ret);
/* Waits until the host sent something, left, or took some of what is queued; for `timeout_ms` at
 * most (-1: any). */
void agent_wait(struct agent *agent, int timeout_ms);
