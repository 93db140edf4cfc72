/* What a client asks to be run beside a bottle's command: decoded by a table, as a plan is. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/field.h"

struct exec_spec {
    struct string_list command;
    struct string_map env;
    char *workdir; /* NULL: the bottle's own */
    char *input;   /* NULL: none */
    int64_t timeout_seconds;
    int64_t max_output_bytes; /* of each stream */
    bool detach;
    bool stdin_open; /* more input may come after `input` */
    bool tty;
    int64_t rows, cols; /* of the terminal */
};

/* A signal for one that runs, and its terminal's new size. */
struct exec_signal {
    int number;
};
struct exec_size {
    int64_t rows, cols;
};

/* As spec_decode; release with exec_spec_free. */
int exec_spec_decode(const json_t *body, struct exec_spec *ret, struct problem *problem);
void exec_spec_free(struct exec_spec *spec);
const struct field *exec_spec_rows(size_t *ret_count);
/* The same of the other two; they own nothing. */
int exec_signal_decode(const json_t *body, struct exec_signal *ret, struct problem *problem);
int exec_size_decode(const json_t *body, struct exec_size *ret, struct problem *problem);
/* The names that a signal may have, in order, and their numbers in the guest (Linux on amd64); NULL
 * at the end. */
const char *exec_signal_name(size_t i, int *ret_number);
