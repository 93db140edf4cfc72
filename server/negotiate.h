/* Content negotiation: which media types a route answers with, and whether its bytes are packed.
 *
 * A route without a row here answers with JSON. Refusals are application/problem+json whatever a
 * client accepts. Packed (gzip, where the client takes it) are whole answers of text from
 * PACK_BYTES_MIN on: not streams, nor what has an ETag, which names these very bytes. Answers hold
 * no secret, so that their length tells none (BREACH); one that does is not to be packed. */
#pragma once

#include "server/request.h"
#include "server/routes.h"

enum { MEDIA_MAX = 4, PACK_BYTES_MIN = 1024 };

/* What the route's answers may be, in order of preference; ends at NULL. NULL: the handler
 * chooses. */
const char *const *route_media(const struct route *route);
/* 0, or -1 with kind "not-acceptable": the header takes none of them. NULL takes all. */
int negotiate_media(const struct route *route, const char *accept, struct error *err);
/* The bytes in gzip, a new reference, with the headers that say so; NULL: they are to go as they
 * are. */
struct shared_bytes *negotiate_pack(struct request *request, const char *content_type,
                                    const char *bytes, size_t length);
