/* Entity tags of HTTP (RFC 9110, 8.8.3): is one in an If-Match or If-None-Match header? */
#pragma once

#include <stdbool.h>

/* `tag` without quotes. "*" is any. `weak`: W/"…" counts too (If-None-Match). */
bool etag_listed(const char *header, const char *tag, bool weak);
