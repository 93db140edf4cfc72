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
};

/* As spec_decode; release with exec_spec_free. */
int exec_spec_decode(const json_t *body, struct exec_spec *ret, struct problem *problem);
void exec_spec_free(struct exec_spec *spec);
const struct field *exec_spec_rows(size_t *ret_count);
