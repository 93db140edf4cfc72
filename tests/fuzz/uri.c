/* A request's target as it comes off the wire. */
#include "server/uri.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char *raw = malloc(length + 1);
    const char *why = NULL;
    struct uri uri;

    MUST(raw);
    memcpy(raw, bytes, length);
    raw[length] = '\0';
    if (uri_parse(raw, &uri, &why) == 0) {
        MUST(uri.n_segments <= SEGMENTS_MAX && uri.n_query <= QUERY_MAX);
        for (size_t i = 0; i < uri.n_segments; i++)
            MUST(strlen(uri.segments[i]) <= length);
        uri_free(&uri);
    } else {
        MUST(why);
    }
    free(raw);
    return 0;
}
