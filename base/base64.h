/* Base64 with padding (RFC 4648, 4). */
#pragma once

#include "base/text.h"

void base64_add(struct text *text, const void *bytes, size_t length);
