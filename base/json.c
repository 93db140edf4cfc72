#include "base/json.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/text.h"

/* Depth by brackets outside strings; a tree is built only when this says yes. */
static bool too_deep(const char *bytes, size_t length)
{
    size_t depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < length; i++) {
        char c = bytes[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH_MAX)
                return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

static json_t *parse(const char *bytes, size_t length, size_t flags, struct error *err)
{
    json_error_t fault;

    if (length == 0) {
        error_set(err, "malformed-json", "the body is empty; send one JSON object");
        return NULL;
    }
    if (too_deep(bytes, length)) {
        error_set(err, "malformed-json", "nested deeper than %d levels", JSON_DEPTH_MAX);
        return NULL;
    }
    json_t *value =
        json_loadb(bytes, length, flags | JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &fault);
    if (!value)
        error_set(err, "malformed-json", "line %d, column %d: %s", fault.line, fault.column,
                  fault.text);
    return value;
}

json_t *json_parse(const char *bytes, size_t length, struct error *err)
{
    return parse(bytes, length, 0, err);
}

json_t *json_parse_request(const char *bytes, size_t length, struct error *err)
{
    return parse(bytes, length, JSON_ALLOW_NUL, err);
}

char *json_text(const json_t *value)
{
    return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
}

const char *json_member_string(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

json_int_t json_member_integer(const json_t *object, const char *key, json_int_t fallback)
{
    const json_t *value = json_object_get(object, key);

    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

/* Recurses as deep as the patch, which a parser has bounded. */
json_t *json_merge_patch(const json_t *target, const json_t *patch)
{
    const char *key;
    json_t *value;

    if (!json_is_object(patch))
        return json_is_null(patch) ? NULL : json_deep_copy(patch);
    json_t *ret = json_is_object(target) ? json_deep_copy(target) : json_object();
    json_object_foreach((json_t *)(uintptr_t)patch, key, value)
    {
        if (json_is_null(value)) {
            (void)json_object_del(ret, key);
            continue;
        }
        if (json_object_set_new(ret, key, json_merge_patch(json_object_get(ret, key), value)) < 0) {
            json_decref(ret);
            return NULL;
        }
    }
    return ret;
}

/* Bytes of the well-formed UTF-8 sequence (RFC 3629) at `c`, which ends in NUL; 0 when it is none.
 */
static size_t utf8_sequence(const unsigned char *c)
{
    static const struct {
        unsigned char first, last, low, high, length; /* first byte's range, second byte's range */
    } rows[] = {
        {0x01, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (*c < rows[i].first || *c > rows[i].last)
            continue;
        if (rows[i].length > 1 && (c[1] < rows[i].low || c[1] > rows[i].high))
            return 0;
        for (size_t k = 2; k < rows[i].length; k++)
            if ((c[k] & 0xc0) != 0x80)
                return 0;
        return rows[i].length;
    }
    return 0;
}

json_t *json_string_lossy(const char *bytes)
{
    CLEANUP_TEXT struct text text = TEXT_INIT;
    json_t *value = json_string(bytes);

    if (value)
        return value;
    for (const char *c = bytes; *c;) {
        size_t length = utf8_sequence((const unsigned char *)c);
        text_add_bytes(&text, length ? c : "\xef\xbf\xbd", length ? length : 3);
        c += length ? length : 1;
    }
    return text.failed ? NULL : json_string(text.data ? text.data : "");
}
