#include "server/etag.h"

#include <string.h>

bool etag_listed(const char *header, const char *tag, bool weak)
{
    size_t length = strlen(tag);

    header += strspn(header, " \t");
    if (header[0] == '*')
        return header[1 + strspn(header + 1, " \t")] == '\0';
    while (*header) {
        bool is_weak = strncmp(header, "W/", 2) == 0;
        if (is_weak)
            header += 2;
        if (*header != '"')
            return false;
        const char *end = strchr(++header, '"');
        if (!end)
            return false;
        if ((weak || !is_weak) && (size_t)(end - header) == length &&
            memcmp(header, tag, length) == 0)
            return true;
        header = end + 1;
        header += strspn(header, " \t,");
    }
    return false;
}
