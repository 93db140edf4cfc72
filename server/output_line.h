/* What a program prints, as lines of NDJSON: {"stream": …, "data": …} where it is UTF-8, else
 * {"stream": …, "base64": …}. */
#pragma once

#include "base/text.h"

/* The begin of a UTF-8 sequence, whose rest is still to come. */
struct carry {
    char bytes[4];
    size_t count;
};

/* How many bytes at the end are such a begin. */
size_t utf8_cut(const char *bytes, size_t length);
/* Adds a line with what was carried and these bytes; a sequence that they begin is carried. */
void output_say(struct text *out, const char *stream, struct carry *carry, const char *bytes,
                size_t length);
/* Adds a line with what is carried, if anything is: its rest does not come. */
void output_flush(struct text *out, const char *stream, struct carry *carry);
