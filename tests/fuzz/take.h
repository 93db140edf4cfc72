/* Values out of a target's input, one after the other: what a target that is made of several
 * fields takes them from. Once the input is over, all that comes is 0 and "". */
#pragma once

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

struct input {
    const uint8_t *at, *end;
};

static inline uint8_t take_byte(struct input *input)
{
    return input->at < input->end ? *input->at++ : 0;
}

static inline bool take_bool(struct input *input)
{
    return take_byte(input) & 1;
}

static inline uint16_t take_u16(struct input *input)
{
    uint16_t low = take_byte(input);

    return (uint16_t)(low | take_byte(input) << 8);
}

/* What comes before the next byte `end` (0: a NUL), which is skipped, as a string of its own; it
 * may hold NULs unless that is the end. The caller frees. */
static inline char *take_line(struct input *input, char end, size_t *ret_length)
{
    size_t room = (size_t)(input->end - input->at);
    const uint8_t *found = room ? memchr(input->at, end, room) : NULL;
    size_t length = found ? (size_t)(found - input->at) : room;
    char *line = malloc(length + 1);

    MUST(line);
    if (length)
        memcpy(line, input->at, length);
    line[length] = '\0';
    input->at += length + (found != NULL);
    if (ret_length)
        *ret_length = length;
    return line;
}

static inline char *take_string(struct input *input)
{
    return take_line(input, '\0', NULL);
}
