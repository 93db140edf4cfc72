/* Starting a program of the bottle: exactly the arguments and the environment that are given,
 * nothing else inherited. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "guest/protocol.h"

struct command_plan {
    char *const *args, *const *env; /* NULL-terminated */
    const char *workdir;
    const char *user; /* as an image's USER; "": root */
    uint32_t flags;   /* EXEC_TERMINAL, EXEC_STDIN, EXEC_FILES */
    uint16_t rows, columns;
};

struct command {
    pid_t pid; /* leader of its own session and process group */
    /* Ours of its stdin, stdout and stderr, non-blocking; the caller closes. -1: there is none: of
     * stdin without EXEC_STDIN, of stderr on a terminal. */
    int ends[3];
    uint32_t exit_code; /* when refused: 127 not found, 126 otherwise, as a shell has it */
};

enum command_result {
    COMMAND_RUNS,    /* exec succeeded */
    COMMAND_REFUSED, /* that can not be run: the error says why */
    COMMAND_FAULT,   /* the guest itself failed */
};

enum command_result command_start(const struct command_plan *plan, struct command *ret,
                                  struct error *err);
