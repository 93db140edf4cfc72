/* Starting the bottle's command: exactly the arguments and the environment of START, nothing else
 * inherited. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "guest/protocol.h"

struct command {
    pid_t pid;          /* leader of its own session and process group */
    int pipes[2];       /* what it prints on stdout and stderr; non-blocking; the caller closes */
    uint32_t exit_code; /* when refused: 127 not found, 126 otherwise, as a shell has it */
};

enum command_result {
    COMMAND_RUNS,    /* exec succeeded */
    COMMAND_REFUSED, /* the plan's command can not be run: the error says why */
    COMMAND_FAULT,   /* the guest itself failed */
};

enum command_result command_start(const struct start_message *start, struct command *ret,
                                  struct error *err);
