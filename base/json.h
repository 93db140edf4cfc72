/* JSON as we take it: strict on the way in, stable on the way out. On top of jansson. */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "base/error.h"

enum { JSON_DEPTH_MAX = 32 };

/* Parses exactly one value. Refuses duplicate keys, trailing data, NUL, invalid UTF-8 and nesting
 * deeper than JSON_DEPTH_MAX (checked before a tree is built: jansson recurses).
 * NULL with err->kind "malformed-json" otherwise. The caller owns the result. */
json_t *json_parse(const char *bytes, size_t length, struct error *err);
/* The same for the body of a request, where a string value may hold an escaped NUL: its decoder
 * must look at every string's length, and can then name the field (a parser could only name a
 * column). */
json_t *json_parse_request(const char *bytes, size_t length, struct error *err);
/* Compact text with keys in the order they were set; NULL when memory is short. Caller frees. */
char *json_text(const json_t *value);
/* String member of an object, or NULL when absent or of another type. Borrowed. */
const char *json_member_string(const json_t *object, const char *key);
/* Integer member, or `fallback` when absent or of another type. */
json_int_t json_member_integer(const json_t *object, const char *key, json_int_t fallback);

/* What `target` (NULL: nothing) becomes by the merge patch (RFC 7396): a new value that shares
 * nothing with either. NULL when memory is short, or when nothing is left (a patch of null). */
json_t *json_merge_patch(const json_t *target, const json_t *patch);

/* A JSON string of any bytes: what is no UTF-8 becomes U+FFFD. NULL when memory is short. */
json_t *json_string_lossy(const char *bytes);

static inline void cleanup_json(json_t **value)
{
    json_decref(*value);
}
#define CLEANUP_JSON __attribute__((cleanup(cleanup_json)))
