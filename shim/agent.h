/* The host's end of the agent channel (guest/protocol.h). The guest is not trusted: whatever breaks
 * the rules ends the channel, and nothing that it sends makes us hold more than one frame. What was
 * sent to it may be a secret: no copy stays here. */
#pragma once

#include "base/loop.h"
#include "guest/protocol.h"

struct agent {
    struct loop *loop;
    struct loop_source source;
    uint8_t in[FRAME_HEADER_SIZE + GUEST_PAYLOAD_MAX];
    size_t in_length;
    uint8_t *out; /* queued for the guest */
    size_t out_length, out_room;
    void (*on_frame)(void *context, const struct frame *frame);
    /* The channel is closed by then; `why` is in words, for the bottle's reason. */
    void (*on_end)(void *context, const char *why);
    void (*on_room)(void *context); /* what was queued has been sent; NULL: nobody cares */
    void *context;
};

/* Makes the channel: *ret_guest_end is for the VM (the caller closes it). Callbacks must be set
 * before. */
int agent_open(struct agent *agent, struct loop *loop, int *ret_guest_end, struct error *err);
/* Queues bytes of whole frames. -1 when memory is short or the channel is closed. */
int agent_send(struct agent *agent, const uint8_t *bytes, size_t length);
/* A frame with a u32 payload (SIGNAL), or none (POWEROFF). */
int agent_send_u32(struct agent *agent, enum frame_type type, uint32_t value);
int agent_send_empty(struct agent *agent, enum frame_type type);
void agent_close(struct agent *agent);
