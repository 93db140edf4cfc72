/* Words of a guest, for clients and logs. */
#include <stdbool.h>
#include <string.h>

#include "server/egress.h"

void egress_words(char *ret, size_t size, const char *words)
{
    size_t length = strnlen(words, size);

    if (length == size) {
        length--;
        while (length > 0 && ((unsigned char)words[length] & 0xc0) == 0x80)
            length--;
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)words[i];
        bool latin = c == 0xc2 && i + 1 < length && (unsigned char)words[i + 1] < 0xa0;
        ret[i] = (char)(c < 0x20 || c == 0x7f || latin ? '?' : words[i]);
        if (latin)
            ret[++i] = '?';
    }
    ret[length] = '\0';
}
