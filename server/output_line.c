#include "server/output_line.h"

#include <jansson.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/util.h"

enum { CARRY_MAX = 3 };

size_t utf8_cut(const char *bytes, size_t length)
{
    for (size_t back = 1; back <= CARRY_MAX && back <= length; back++) {
        unsigned char c = (unsigned char)bytes[length - back];
        if ((c & 0xc0) == 0x80)
            continue;
        size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return back < whole ? back : 0;
    }
    return 0;
}

static void say(struct text *out, const char *stream, const char *bytes, size_t length)
{
    CLEANUP_JSON json_t *line = json_pack("{s:s}", "stream", stream);
    json_t *text = json_stringn(bytes, length);

    if (text) {
        (void)json_object_set_new(line, "data", text);
    } else {
        CLEANUP_TEXT struct text encoded = TEXT_INIT;
        base64_add(&encoded, bytes, length);
        (void)json_object_set_new(line, "base64", json_string(encoded.failed ? "" : encoded.data));
    }
    CLEANUP_FREE char *words = json_text(line);
    text_add(out, words ? words : "{\"error\": \"out of memory\"}");
    text_add(out, "\n");
}

void output_say(struct text *out, const char *stream, struct carry *carry, const char *bytes,
                size_t length)
{
    CLEANUP_TEXT struct text whole = TEXT_INIT;

    text_add_bytes(&whole, carry->bytes, carry->count);
    text_add_bytes(&whole, bytes, length);
    if (whole.failed)
        return;
    carry->count = utf8_cut(whole.data, whole.length);
    memcpy(carry->bytes, whole.data + whole.length - carry->count, carry->count);
    if (whole.length > carry->count)
        say(out, stream, whole.data, whole.length - carry->count);
}

void output_flush(struct text *out, const char *stream, struct carry *carry)
{
    if (carry->count)
        say(out, stream, carry->bytes, carry->count);
    carry->count = 0;
}
