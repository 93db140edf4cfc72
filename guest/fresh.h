/* What a machine restored from a template has in common with every other of it, made its own: the
 * kernel's random generator and the clock. */
#pragma once

#include "base/error.h"
#include "guest/protocol.h"

/* Before anything else is done for START: nothing random may be drawn before. A machine that booted
 * by itself is none the worse for it. */
int fresh_apply(const struct start_message *start, struct error *err);
/* Sets the wall clock. */
int fresh_time(uint64_t wall_ms, struct error *err);
