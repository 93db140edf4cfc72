/* What bottled has run beside the command, between bottled (shim/protocol.h, "exec") and the guest
 * (guest/protocol.h, EXEC).
 *
 * Frames are passed on, each checked: whatever the guest sends beyond a window or of an exec that
 * there is none of breaks the protocol. Of an exec whose bottled is gone the output is thrown away
 * and the result kept. Memory is bounded by the windows. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "base/loop.h"
#include "guest/protocol.h"
#include "shim/protocol.h"

struct supervisor;
struct exec;

enum {
    EXEC_ID_LENGTH = 16, /* hexadecimal digits, chosen by bottled */
    EXEC_RESULTS_MAX = 128,
    EXEC_REASON_SIZE = 256,
};

struct exec_result {
    char id[EXEC_ID_LENGTH + 1];
    uint32_t code, signal_number; /* code EXEC_LOST: its end is not known */
    bool timed_out;
    char reason[EXEC_REASON_SIZE];
};

struct execs {
    struct exec *first;
    unsigned count;
    uint32_t last_number;
    struct exec_result results[EXEC_RESULTS_MAX]; /* a ring of those that ended */
    size_t n_results;                             /* ever */
};

/* {"op":"exec"}: takes the descriptor over. */
void exec_request(struct supervisor *sup, const char *id, int fd);
/* {"op":"exec-result"}: the answer. NULL: no memory. */
json_t *exec_result_encode(const struct supervisor *sup, const char *id);
/* {"op":"exec-tell"}. */
void exec_tell(struct supervisor *sup, const char *id, const struct exec_note *note);
/* A frame EXEC_… of the guest. -1: it breaks the protocol. */
int exec_frame(struct supervisor *sup, const struct frame *frame);
/* The guest has taken what waited for it: bottled is read again. */
void execs_go_on(struct supervisor *sup);
/* None of them will be heard of again. */
void execs_lost(struct supervisor *sup, const char *why);
void execs_free(struct supervisor *sup);
