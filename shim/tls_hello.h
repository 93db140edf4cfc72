/* The first thing that a TLS client says, read only as far as the name of the server that it asks
 * for (RFC 8446, 4.1.2 and 5.1; RFC 6066, 3). Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum tls_hello {
    TLS_HELLO_MORE,    /* so far it may become one */
    TLS_HELLO_NONE,    /* another protocol */
    TLS_HELLO_NO_NAME, /* whole, and names nobody */
    TLS_HELLO_NAME,
    TLS_HELLO_BROKEN, /* begins as TLS and goes on as nothing that a server would take */
};

enum {
    TLS_HELLO_MAX = 16 * 1024, /* of all that is read for it, records' headers included */
    TLS_NAME_MAX = 255,
};

/* Reads what came so far, from its first byte on. The name is written (as it was sent, without a
 * NUL in it) only with TLS_HELLO_NAME. */
enum tls_hello tls_hello_read(const uint8_t *bytes, size_t length, char ret_name[TLS_NAME_MAX + 1]);
