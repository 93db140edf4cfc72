#include "server/negotiate.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

#include "base/text.h"
#include "base/util.h"
#include "server/accept.h"

enum { GZIP_WINDOW = 15 + 16, GZIP_LEVEL = 1, GZIP_MEMORY = 8 };

static const struct {
    handler *handle;
    const char *media[MEDIA_MAX + 1]; /* none: as the thing is */
} rows[] = {
    {handle_openapi, {"application/yaml"}},
    {handle_metrics, {"text/plain"}},
    {handle_docs, {"text/html"}},
    {handle_docs_file, {NULL}},
    {handle_bottle_create, {"application/json", "application/x-ndjson"}},
    {handle_bottle_start, {"application/json", "application/x-ndjson"}},
    {handle_bottle_plan, {"application/json", "text/plain"}},
    {handle_plan_file, {NULL}},
    {handle_bottle_logs, {"text/plain"}},
    {handle_exec, {"application/json", "application/x-ndjson"}},
    {handle_file_get, {"application/octet-stream"}},
    {handle_archive_get, {"application/x-tar"}},
    {handle_events, {"application/json", "text/event-stream"}},
};

const char *const *route_media(const struct route *route)
{
    static const char *const json[] = {"application/json", NULL};

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (rows[i].handle == route->handle)
            return rows[i].media[0] ? rows[i].media : NULL;
    return json;
}

int negotiate_media(const struct route *route, const char *accept, struct error *err)
{
    const char *const *media = route_media(route);
    CLEANUP_TEXT struct text names = TEXT_INIT;
    size_t count = 0;

    if (!media)
        return 0;
    while (media[count])
        count++;
    if (accept_choose(accept, media, count) >= 0)
        return 0;
    for (size_t i = 0; i < count; i++)
        text_addf(&names, "%s%s", i ? " or " : "", media[i]);
    return error_set(err, "not-acceptable", "this is to be had as %s",
                     names.failed ? media[0] : names.data);
}

static bool is_text(const char *type)
{
    static const char *const packed[] = {"application/json", "application/yaml", "application/toml",
                                         "text/"};

    for (size_t i = 0; type && i < COUNT_OF(packed); i++)
        if (strncasecmp(type, packed[i], strlen(packed[i])) == 0)
            return true;
    return false;
}

/* gzip of the bytes; NULL: no memory, or it is no shorter. */
static char *pack(const char *bytes, size_t length, size_t *ret_length)
{
    z_stream stream = {.next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)length};
    char *out = malloc(length);

    if (!out || deflateInit2(&stream, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY,
                             Z_DEFAULT_STRATEGY) != Z_OK) {
        free(out);
        return NULL;
    }
    stream.next_out = (Bytef *)out;
    stream.avail_out = (uInt)length;
    const bool whole = deflate(&stream, Z_FINISH) == Z_STREAM_END;
    *ret_length = stream.total_out;
    (void)deflateEnd(&stream);
    if (whole)
        return out;
    free(out);
    return NULL;
}

struct shared_bytes *negotiate_pack(struct request *request, const char *content_type,
                                    const char *bytes, size_t length)
{
    static const char *const gzip[] = {"gzip"};
    const char *accepted = request_header(request, "Accept-Encoding");
    size_t packed_length;

    if (!is_text(content_type) || length < PACK_BYTES_MIN || length > UINT32_MAX ||
        reply_has_header(request, "ETag"))
        return NULL;
    reply_header(request, "Vary", "Accept-Encoding");
    if (!accepted || !accepted[strspn(accepted, ", \t")] ||
        accept_choose(accepted, gzip, COUNT_OF(gzip)) < 0)
        return NULL;
    char *packed = pack(bytes, length, &packed_length);
    struct shared_bytes *ret = packed ? shared_bytes_new(packed, packed_length) : NULL;
    if (ret)
        reply_header(request, "Content-Encoding", "gzip");
    return ret;
}
