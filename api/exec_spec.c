#include "api/exec_spec.h"

#include <stdlib.h>
#include <string.h>

#include "api/spec_items.h"
#include "base/util.h"

static const struct field rows[] = {
    {.name = "command",
     .type = FIELD_LIST,
     .flags = FIELD_REQUIRED,
     .offset = offsetof(struct exec_spec, command),
     .min = 1,
     .max = 256,
     .total = ARG_STRING_MAX,
     .item = &field_argument,
     .doc = "The program to run and its arguments; no shell takes part."},
    {.name = "env",
     .type = FIELD_MAP,
     .offset = offsetof(struct exec_spec, env),
     .max = 1024,
     .total = 900000,
     .names = &field_env_name,
     .item = &field_env_value,
     .doc = "Variables on top of those of the bottle's command."},
    {.name = "workdir",
     .type = FIELD_STRING,
     .offset = offsetof(struct exec_spec, workdir),
     .min = 1,
     .max = 4095,
     .pattern = WORKDIR_PATTERN,
     .check = workdir_check,
     .doc = "The directory that it starts in, made when it is missing; without it the bottle's."},
    {.name = "stdin",
     .type = FIELD_STRING,
     .offset = offsetof(struct exec_spec, input),
     .max = 1048576,
     .doc = "What it reads; without it the input is empty."},
    {.name = "timeout_seconds",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct exec_spec, timeout_seconds),
     .min = 1,
     .max = 604800,
     .fallback_number = 86400,
     .doc = "After that its process group is killed: exit_code 124 and timed_out."},
    {.name = "max_output_bytes",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct exec_spec, max_output_bytes),
     .min = 0,
     .max = 8388608,
     .fallback_number = 1048576,
     .doc = "Of each stream in an answer that is not streamed; the rest is thrown away."},
    {.name = "detach",
     .type = FIELD_BOOLEAN,
     .offset = offsetof(struct exec_spec, detach),
     .doc = "True: answer at once, and let it run whoever leaves; its output is thrown away."},
    {.name = "stdin_open",
     .type = FIELD_BOOLEAN,
     .offset = offsetof(struct exec_spec, stdin_open),
     .doc = "True: after `stdin` its input stays open for POST …/execs/{id}/stdin."},
    {.name = "tty",
     .type = FIELD_BOOLEAN,
     .offset = offsetof(struct exec_spec, tty),
     .doc = "True: it has a terminal, and one stream of output, stdout."},
    {.name = "rows",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct exec_spec, rows),
     .min = 1,
     .max = 65535,
     .fallback_number = 24,
     .doc = "Lines of the terminal."},
    {.name = "cols",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct exec_spec, cols),
     .min = 1,
     .max = 65535,
     .fallback_number = 80,
     .doc = "Columns of the terminal."},
};

static const struct field size_rows[] = {
    {.name = "rows",
     .type = FIELD_INTEGER,
     .flags = FIELD_REQUIRED,
     .offset = offsetof(struct exec_size, rows),
     .min = 1,
     .max = 65535},
    {.name = "cols",
     .type = FIELD_INTEGER,
     .flags = FIELD_REQUIRED,
     .offset = offsetof(struct exec_size, cols),
     .min = 1,
     .max = 65535},
};

static const char *const signal_names[] = {"HUP",  "INT",  "QUIT", "KILL", "USR1",  "USR2", "ALRM",
                                           "TERM", "CONT", "STOP", "TSTP", "WINCH", NULL};
static const int signal_numbers[] = {1, 2, 3, 9, 10, 12, 14, 15, 18, 19, 20, 28};

struct signal_body {
    char *name;
};

static const struct field signal_rows[] = {
    {.name = "signal",
     .type = FIELD_STRING,
     .flags = FIELD_REQUIRED,
     .offset = offsetof(struct signal_body, name),
     .max = 5,
     .values = signal_names},
};

const struct field *exec_spec_rows(size_t *ret_count)
{
    *ret_count = COUNT_OF(rows);
    return rows;
}

int exec_spec_decode(const json_t *body, struct exec_spec *ret, struct problem *problem)
{
    struct exec_spec spec = {0};

    field_decode(body, rows, COUNT_OF(rows), &spec, problem);
    if (!problem->type && spec.command.items[0][0] == '\0')
        problem_add_fault(problem, "/command/0", "too-short",
                          "the program's name may not be empty");
    if (spec.detach && spec.stdin_open)
        problem_add_fault(problem, "/stdin_open", "unsupported",
                          "an exec that is detached takes no input but \"stdin\"");
    if (problem->type) {
        problem->type = problem_type("invalid-exec");
        exec_spec_free(&spec);
        return -1;
    }
    *ret = spec;
    return 0;
}

void exec_spec_free(struct exec_spec *spec)
{
    string_list_free(&spec->command);
    string_map_free(&spec->env);
    free(spec->workdir);
    free(spec->input);
    *spec = (struct exec_spec){0};
}

const char *exec_signal_name(size_t i, int *ret_number)
{
    if (i >= COUNT_OF(signal_numbers))
        return NULL;
    *ret_number = signal_numbers[i];
    return signal_names[i];
}

int exec_signal_decode(const json_t *body, struct exec_signal *ret, struct problem *problem)
{
    struct signal_body sent = {0};

    field_decode(body, signal_rows, COUNT_OF(signal_rows), &sent, problem);
    CLEANUP_FREE char *name = sent.name;
    for (size_t i = 0; !problem->type && i < COUNT_OF(signal_numbers); i++)
        if (strcmp(name, signal_names[i]) == 0)
            ret->number = signal_numbers[i];
    if (problem->type)
        problem->type = problem_type("invalid-exec");
    return problem->type ? -1 : 0;
}

int exec_size_decode(const json_t *body, struct exec_size *ret, struct problem *problem)
{
    struct exec_size size = {0};

    field_decode(body, size_rows, COUNT_OF(size_rows), &size, problem);
    if (problem->type) {
        problem->type = problem_type("invalid-exec");
        return -1;
    }
    *ret = size;
    return 0;
}
