/* QEMU's monitor (QMP: JSON, an object a line), for what templates need (saving a machine's
 * devices, and restoring them) and for pausing one. The other end is a machine's process, and is
 * not trusted: what it says is bounded, and only looked at for "did it work". */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

enum { QMP_SAID_MAX = 64 * 1024 };

/* Saves the machine's devices to `state`, a file, and leaves the machine stopped. `fd`: our end of
 * the monitor; until `until_ms` (monotonic). */
int qmp_save(int fd, int state, int64_t until_ms, struct error *err);
/* Asks a machine that waits (-incoming defer) to restore them from its descriptor `state`. Never
 * blocks: the monitor need not be read yet. */
int qmp_restore(int fd, int state, struct error *err);
/* Makes a monitor ready for the two that follow. Never blocks. */
int qmp_begin(int fd, struct error *err);
/* Asks for the machine's processors to be stopped, or to go on: it says so by the event STOP or
 * RESUME. Never blocks: -1 when the monitor takes no more. */
int qmp_halt(int fd, bool halt, struct error *err);
/* As qmp_take_line; `ret_event` is the event's name that the line tells of, or "". */
enum { QMP_EVENT_SIZE = 32 };
int qmp_take_event(struct text *said, char ret_event[QMP_EVENT_SIZE], struct error *err);
/* Takes the first whole line out of what was said. 1: it was an error, whose words are in err; 0:
 * something else; -1: there is none. */
int qmp_take_line(struct text *said, struct error *err);
