/* Tells bottled what a bottle tried to reach, in packets that are few and bounded
 * (shim/protocol.h). While nobody listens, notes go on being put together. */
#pragma once

#include "shim/control.h"
#include "shim/egress_log.h"

struct egress_tell;

struct egress_tell *egress_tell_new(struct loop *loop, struct control *control, struct error *err);
void egress_tell_free(struct egress_tell *tell);
/* `context` is the struct egress_tell. */
void egress_tell_note(void *context, const struct egress_note *note);
/* Sends what there is now: the bottle is at its end. */
void egress_tell_flush(struct egress_tell *tell);
