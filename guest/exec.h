/* Programs that run beside the command, as the host asks for them (EXEC and what follows it in
 * guest/protocol.h). Nothing here blocks. */
#pragma once

#include <poll.h>
#include <sys/types.h>

#include "guest/agent.h"
#include "guest/protocol.h"
#include "guest/secrets.h"

enum { EXEC_POLL_MAX = 3 * EXECS_MAX };

struct exec;

struct execs {
    struct agent *agent;
    const struct secrets *secrets;
    const struct start_message *start; /* the environment and the work directory that it has */
    struct exec *items[EXECS_MAX];
    size_t count;
    unsigned turn;
};

/* Whether this frame is for an exec. */
bool execs_frame_is_theirs(enum frame_type type);
/* Takes one. -1 when the host broke the protocol. */
int execs_take(struct execs *execs, const struct frame *frame);
/* Fills in what is to be waited for; how many, EXEC_POLL_MAX at most. `idle`: the agent has room.
 */
size_t execs_poll(struct execs *execs, bool idle, struct pollfd *fds);
/* What came of it, in the same order. */
void execs_polled(struct execs *execs, const struct pollfd *fds);
/* Milliseconds until something is to be done anyhow; -1: never. */
int execs_wait_ms(const struct execs *execs);
/* Moves what can be moved, and tells of those that ended. */
void execs_pump(struct execs *execs);
void execs_reaped(struct execs *execs, pid_t pid, int status);
