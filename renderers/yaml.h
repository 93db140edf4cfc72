/* A YAML writer on libyaml: strings double-quoted, keys plain, integers bare, lists indented below
 * their key.
 *
 * Errors are sticky: after one, additions do nothing and yaml_finish() says so. Every string is
 * quoted, since yes, no, 1e3, ~, null, 012 and 12:30 mean something else without. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <yaml.h>

#include "base/error.h"
#include "base/text.h"

struct yaml_writer {
    yaml_emitter_t emitter;
    struct text raw; /* what libyaml wrote, before the lists are indented */
    bool failed;
};

/* Starts a stream with one document. `writer` must not be moved until yaml_finish(). */
void yaml_begin(struct yaml_writer *writer);
/* Block (one entry a line) or flow ({…}, […]) collections; empty ones are best written as flow. */
void yaml_map(struct yaml_writer *writer, bool flow);
void yaml_map_end(struct yaml_writer *writer);
void yaml_list(struct yaml_writer *writer, bool flow);
void yaml_list_end(struct yaml_writer *writer);
void yaml_key(struct yaml_writer *writer, const char *name);
void yaml_string(struct yaml_writer *writer, const char *value);
void yaml_integer(struct yaml_writer *writer, int64_t value);
void yaml_boolean(struct yaml_writer *writer, bool value);
/* Ends the document, adds it to *out and releases the writer, whatever happened before. */
int yaml_finish(struct yaml_writer *writer, struct text *out, struct error *err);
