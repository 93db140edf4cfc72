/* The first thing that a TLS client says. What was decided on a part of it stays decided. */
#include "shim/tls_hello.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char name[TLS_NAME_MAX + 1], part_name[TLS_NAME_MAX + 1];
    size_t part = length / 2;
    uint8_t *copy = malloc(part ? part : 1);

    MUST(copy);
    if (part)
        memcpy(copy, bytes, part);
    enum tls_hello whole = tls_hello_read(bytes, length, name);
    enum tls_hello early = tls_hello_read(copy, part, part_name);
    MUST(early == TLS_HELLO_MORE || early == whole);
    MUST(early != TLS_HELLO_NAME || strcmp(name, part_name) == 0);
    free(copy);
    return 0;
}
