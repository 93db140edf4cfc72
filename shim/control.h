/* The control socket (shim/protocol.h): who may speak to the shim, and what it tells them. */
#pragma once

#include <jansson.h>

#include "base/loop.h"
#include "shim/protocol.h"
#include "shim/spec.h"

struct control;

/* What the owner of the socket answers with and is asked for. */
struct control_owner {
    json_t *(*status)(void *context); /* a fresh status object */
    void (*stop)(void *context, int64_t grace_ms);
    /* Of its machine's processors, or (false) their going on; to be answered by control_send. */
    void (*pause)(void *context, int64_t id, bool pause);
    void (*report)(void *context, int64_t id); /* to be answered by control_send */
    /* Takes the descriptor over; to be answered by control_answer to that client. */
    void (*egress)(void *context, uint64_t client, int64_t id, int fd);
    /* Takes the descriptor over; to be answered by control_send. */
    void (*secrets)(void *context, int64_t id, uint32_t signal, int fd);
    void (*exec)(void *context, const char *id, int fd); /* takes the descriptor over */
    json_t *(*exec_result)(void *context, const char *id);
    void (*exec_tell)(void *context, const char *id, const struct exec_note *note);
    void *context;
};

/* Listens on shim.sock in the working directory. */
struct control *control_new(struct loop *loop, const struct launch *launch,
                            const struct control_owner *owner, struct error *err);
/* Sends the status to everyone who said hello. */
void control_broadcast(struct control *control);
/* Sends a packet to everyone who said hello, and takes it over (NULL: no memory, nothing is sent).
 */
void control_send(struct control *control, json_t *packet);
/* The same to one client only, if it is still there: its number is never given twice. */
void control_answer(struct control *control, uint64_t client, json_t *packet);
/* Whether anybody who said hello is there. */
bool control_heard(const struct control *control);
/* The same, and they take more: a packet that does not fit costs them the connection. */
bool control_has_room(const struct control *control);
void control_free(struct control *control);
