/* The head of a request to the proxy, and of an answer. What is passed on has to be a head that
 * says the same. */
#include "shim/relay_request.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static void passed_on(const char *head, size_t length, const struct proxy_request *request)
{
    char *closed = malloc(length + REQUEST_CLOSE_MORE);
    struct proxy_request again;

    MUST(closed);
    size_t size = request_close(head, length, closed);
    MUST(size <= length + REQUEST_CLOSE_MORE && head_length(closed, size) == (int)size);
    MUST(!request_read(closed, size, &again));
    MUST(again.kind == request->kind && again.port == request->port &&
         again.body == request->body && strcmp(again.host, request->host) == 0);
    free(closed);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char *copy = malloc(length ? length : 1);
    struct proxy_request request;

    MUST(copy);
    if (length)
        memcpy(copy, bytes, length);
    int head = head_length(copy, length);
    MUST(head <= (int)length);
    if (head > 0) {
        (void)answer_status(copy, (size_t)head);
        if (!request_read(copy, (size_t)head, &request)) {
            MUST(strlen(request.host) <= REQUEST_HOST_MAX);
            if (request.kind == REQUEST_HTTP)
                passed_on(copy, (size_t)head, &request);
        }
    }
    free(copy);
    return 0;
}
