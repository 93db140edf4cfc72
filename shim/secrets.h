/* The bottle's secrets on their way through the shim: from bottled's descriptor into memory that is
 * wiped once the guest's channel has taken them. */
#pragma once

#include "base/loop.h"
#include "shim/spec.h"

struct supervisor;
struct frame;

struct secrets {
    int64_t id;     /* of the reload that the guest is asked for; 0: none */
    uint32_t asked; /* what it is called there */
    struct loop_timer deadline;
};

/* Reads those of the launch from a descriptor (SHIM_SECRETS_FD), wipes where they lay and closes
 * it; it is not looked at where there are none. */
int secrets_load(int fd, struct launch *launch, struct error *err);
/* Sends them ahead of START. -1: the channel is closed. */
int secrets_send_first(struct supervisor *sup);
/* A reload; takes the descriptor over. */
void secrets_request(struct supervisor *sup, int64_t id, uint32_t signal, int fd);
/* SECRETS_SET; -1 when the guest broke the protocol. */
int secrets_frame(struct supervisor *sup, const struct frame *frame);
/* Answers a reload that is under way, in words. */
void secrets_end(struct supervisor *sup, const char *why);
