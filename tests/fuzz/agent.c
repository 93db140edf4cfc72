/* The agent's channel, from either end: frames, one after the other, and the payloads that are
 * parsed further. */
#include "guest/protocol.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

/* A payload in memory of exactly its size, so that a read behind it is seen. */
static void payload(const struct frame *frame)
{
    uint8_t *copy = malloc(frame->length ? frame->length : 1);
    struct start_message start;
    struct exec_message exec;
    struct secrets_message secrets;

    MUST(copy);
    if (frame->length)
        memcpy(copy, frame->payload, frame->length);
    if (frame->type == FRAME_START && start_message_parse(copy, frame->length, &start) == 0)
        start_message_free(&start);
    if (frame->type == FRAME_EXEC && exec_message_parse(copy, frame->length, &exec) == 0)
        exec_message_free(&exec);
    if (frame->type == FRAME_SECRETS && secrets_message_parse(copy, frame->length, &secrets) == 0)
        secrets_message_free(&secrets);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    uint32_t most = length && bytes[0] & 1 ? START_PAYLOAD_MAX : GUEST_PAYLOAD_MAX;

    for (size_t at = length ? 1 : 0; at < length;) {
        struct frame frame;
        int64_t size = frame_parse(bytes + at, length - at, most, &frame);
        MUST(size >= -1 && size <= (int64_t)(length - at));
        if (size <= 0)
            break;
        MUST(size == FRAME_HEADER_SIZE + (int64_t)frame.length && frame.length <= most);
        payload(&frame);
        at += (size_t)size;
    }
    return 0;
}
