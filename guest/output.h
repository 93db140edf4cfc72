/* What a program of the bottle prints, on its way to the host.
 *
 * The program's end is known from its wait status, never from its pipes: a process that it left
 * behind may hold them. Then what the pipes hold is owed to the host, however slow it takes it;
 * what comes later is passed on until both are at their end, for a second at most. */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/agent.h"

struct output {
    int fds[2];     /* stdout, stderr; -1 at their end */
    size_t owed[2]; /* bytes that were in it when the program ended */
    bool ready[2];
    bool ended;
    int64_t drain_until;
    unsigned turn; /* which one is read first: each gets its turn */
};

/* The frames that it goes in: `label` comes before the stream's number. `window`: how many bytes
 * the host still takes (NULL: any number). */
struct output_way {
    struct agent *agent;
    enum frame_type type;
    const uint8_t *label;
    size_t label_size;
    uint32_t *window;
};

/* Descriptors to be waited for, two of them; none while there is no room for what they give. */
void output_poll(const struct output *output, bool room, struct pollfd fds[2]);
void output_polled(struct output *output, const struct pollfd fds[2]);
/* Passes on what is ready and fits. */
void output_pump(struct output *output, const struct output_way *way);
/* The program has ended. */
void output_note_end(struct output *output);
/* Nothing more of it is to be passed on. */
bool output_drained(const struct output *output);
/* Milliseconds until that changes by itself; -1: it does not. */
int output_wait_ms(const struct output *output);
void output_close(struct output *output);
