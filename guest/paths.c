/* What both ends of a copy check: the host before it asks, the guest once more. */
#include "guest/files.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"

enum { ID_DIGITS = 10 };

bool files_path_fits(const char *path)
{
    size_t length = strlen(path);

    if (path[0] != '/' || length > FILES_PATH_MAX)
        return false;
    if (length == 1)
        return true;
    for (const char *at = path; *at;) {
        size_t part = strcspn(++at, "/");
        if (part == 0 || part > FILES_NAME_MAX || (part <= 2 && strncmp(at, "..", part) == 0))
            return false;
        at += part;
    }
    return true;
}

/* What the pattern in openapi.yaml takes: ten digits at most, and below FILES_OWNER_END. */
static bool id_parse(const char *text, size_t length, uint32_t *ret)
{
    char digits[ID_DIGITS + 1];
    int64_t number;

    if (length == 0 || length > ID_DIGITS || strspn(text, "0123456789") != length)
        return false;
    (void)snprintf(digits, sizeof digits, "%.*s", (int)length, text);
    if (number_parse(digits, 0, FILES_OWNER_END - 1, &number) < 0)
        return false;
    *ret = (uint32_t)number;
    return true;
}

bool files_owner_parse(const char *text, const struct files_owner *fallback,
                       struct files_owner *ret)
{
    size_t first = strcspn(text, ":");
    struct files_owner owner = {.wanted = true};

    if (!text[0]) {
        *ret = *fallback;
        return true;
    }
    if (!text[first] || !id_parse(text, first, &owner.uid) ||
        !id_parse(text + first + 1, strlen(text + first + 1), &owner.gid))
        return false;
    *ret = owner;
    return true;
}
