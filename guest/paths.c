/* What both ends of a copy check: the host before it asks, the guest once more. */
#include "guest/files.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"

enum { ID_MAX = INT32_MAX };

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

bool files_owner_parse(const char *text, const struct files_owner *fallback,
                       struct files_owner *ret)
{
    char uid[16];
    const char *colon = strchr(text, ':');
    int64_t numbers[2];

    if (!text[0]) {
        *ret = *fallback;
        return true;
    }
    if (!colon || (size_t)(colon - text) >= sizeof uid)
        return false;
    (void)snprintf(uid, sizeof uid, "%.*s", (int)(colon - text), text);
    if (number_parse(uid, 0, ID_MAX, &numbers[0]) < 0 ||
        number_parse(colon + 1, 0, ID_MAX, &numbers[1]) < 0)
        return false;
    *ret = (struct files_owner){.uid = (uid_t)numbers[0], .gid = (gid_t)numbers[1], .wanted = true};
    return true;
}
