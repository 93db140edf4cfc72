/* Responses that are made once and sent often.
 *
 * libmicrohttpd copies each header into three blocks of its own for each response: more work than
 * all else that a look at a bottle takes. The same bytes always go out with the same headers but
 * for X-Request-Id; so each thread keeps the responses that it made last, with the bytes that they
 * are of, and names the request anew each time. One that is being sent is with its request, and no
 * other request has it. */
#pragma once

#include <microhttpd.h>
#include <stddef.h>

struct shared_bytes;

enum {
    MADE_BYTES_MAX = 8 * 1024, /* more are not kept alive for it */
    MADE_ID_SIZE = 65,
};

struct made {
    struct shared_bytes *bytes; /* holds a reference, so that no others come to have its address */
    struct MHD_Response *response;
    char id[MADE_ID_SIZE]; /* of the request that it names */
};

/* What this thread has of these bytes, now for the request of that name; NULL: nothing. */
struct made *made_take(const struct shared_bytes *bytes, const char *id);
/* Takes the response over, which is what is sent with these bytes to the request of that name.
 * NULL: no memory; the response is still the caller's. */
struct made *made_new(struct shared_bytes *bytes, struct MHD_Response *response, const char *id);
/* It was sent, or will not be; NULL: nothing happens. In the thread that took or made it. */
void made_give(struct made *made);
