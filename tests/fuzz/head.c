/* The head of an HTTP request as it comes off the wire, before libmicrohttpd sees it
 * (server/head.h). However little of it is there, what was decided on a part stays decided; a head
 * that is let through has one Host, at most one way to say how long its body is, and neither a bare
 * line feed nor a control character. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/head.h"
#include "tests/fuzz/fuzz.h"

/* How many lines of the head begin with this name and a colon. */
static unsigned count_of(const char *head, size_t length, const char *name)
{
    size_t size = strlen(name);
    unsigned count = 0;

    for (size_t i = 0; i + size < length; i++)
        count += (i > 0 && head[i - 1] == '\n') && strncasecmp(head + i, name, size) == 0 &&
                 head[i + size] == ':';
    return count;
}

static void passed(const char *bytes, const struct head *head)
{
    MUST(head->length <= HEAD_BYTES_MAX && head->length >= 4);
    MUST(memcmp(bytes + head->length - 4, "\r\n\r\n", 4) == 0);
    for (size_t i = 0; i < head->length; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        MUST(byte != '\n' || (i > 0 && bytes[i - 1] == '\r'));
        MUST(byte >= 0x20 || byte == '\r' || byte == '\n' || byte == '\t');
    }
    MUST(count_of(bytes, head->length, "Host") == 1);
    MUST(count_of(bytes, head->length, "Content-Length") +
             count_of(bytes, head->length, "Transfer-Encoding") <=
         1);
    MUST(head->chunked == (count_of(bytes, head->length, "Transfer-Encoding") == 1));
    MUST(!head->chunked || head->body_length == 0);
    MUST(head->origin_at + head->origin_length <= head->length);
}

/* Of a copy of exactly that size, so that a read behind it is seen. */
static enum head_verdict read_part(const uint8_t *bytes, size_t length, struct head *ret)
{
    char *copy = malloc(length ? length : 1);

    MUST(copy);
    if (length)
        memcpy(copy, bytes, length);
    enum head_verdict verdict = head_read(copy, length, false, ret);
    if (verdict == HEAD_WHOLE)
        passed(copy, ret);
    free(copy);
    return verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct head whole = {0}, part = {0};
    uint64_t size;
    enum head_verdict late = read_part(bytes, length, &whole);
    enum head_verdict early = read_part(bytes, length / 2, &part);

    MUST(early == HEAD_MORE || early == late);
    MUST(early != HEAD_WHOLE || part.length == whole.length);
    MUST(late != HEAD_REFUSED || head_faults[whole.fault].type);
    if (head_chunk_size((const char *)bytes, length, &size) == 0)
        MUST(length > 0);
    (void)head_line_valid((const char *)bytes, length);
    return 0;
}
