/* The socket to a bottle's supervisor that an exec has (shim/protocol.h, "exec"): frames and
 * windows both ways, without waiting. What waits in memory is bounded by the windows. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"
#include "guest/protocol.h"

struct exec_wire {
    int fd;                 /* -1: not yet */
    struct text in, out;    /* from and to the supervisor */
    size_t in_at;           /* bytes of `in` that were taken */
    size_t in_scanned;      /* and those whose windows were */
    bool deaf, cut, broken; /* the supervisor takes no more; says no more; broke the protocol */
    bool failed;            /* it lives, but we could not go on */
    uint32_t input_window;  /* how much input the guest takes */
    uint32_t owed;          /* how much of the output's window is to be given again */
};

/* Queues a frame; the number 0 goes before the payload. */
void wire_put(struct exec_wire *wire, enum frame_type type, const void *payload, size_t length);
void wire_put_number(struct exec_wire *wire, enum frame_type type, uint32_t number);
/* Queues as much input as the window takes; how much. */
size_t wire_put_input(struct exec_wire *wire, const char *bytes, size_t length);
/* Gives the window of output, at the begin. */
void wire_open_window(struct exec_wire *wire);
/* Gives again what was taken of it, when that is worth a frame. */
void wire_grant(struct exec_wire *wire);
/* Sends what is queued. */
void wire_flush(struct exec_wire *wire);
/* Reads what is there; windows count at once, whatever output is before them. */
void wire_receive(struct exec_wire *wire);
/* Whether there is no room to read more. */
bool wire_is_full(const struct exec_wire *wire);
/* 1: *ret, valid until the next call; 0: there is none now; -1: the supervisor is gone, or broke
 * the protocol. Windows do not come out here. */
int wire_take(struct exec_wire *wire, struct frame *ret);
void wire_close(struct exec_wire *wire);
