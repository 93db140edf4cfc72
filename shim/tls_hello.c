#include "shim/tls_hello.h"

#include <stdbool.h>
#include <string.h>

enum {
    RECORD_HEADER = 5,
    RECORD_MAX = 16 * 1024,
    HANDSHAKE = 22,
    HANDSHAKE_HEADER = 4,
    CLIENT_HELLO = 1,
    SERVER_NAME = 0, /* extension */
    HOST_NAME = 0,   /* kind of name */
};

/* What is left of a message. A read beyond its end fails and stays failed. */
struct reader {
    const uint8_t *at;
    size_t left;
    bool failed;
};

static const uint8_t *take(struct reader *reader, size_t length)
{
    const uint8_t *bytes = reader->at;

    if (reader->failed || length > reader->left) {
        reader->failed = true;
        return NULL;
    }
    reader->at += length;
    reader->left -= length;
    return bytes;
}

static size_t number(struct reader *reader, size_t width)
{
    const uint8_t *bytes = take(reader, width);
    size_t value = 0;

    for (size_t i = 0; bytes && i < width; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* A vector: its length in `width` bytes, then that many. */
static struct reader vector(struct reader *reader, size_t width)
{
    size_t length = number(reader, width);
    const uint8_t *bytes = take(reader, length);

    return (struct reader){.at = bytes, .left = bytes ? length : 0, .failed = !bytes};
}

/* The records' contents, put together. */
struct handshake {
    uint8_t bytes[TLS_HELLO_MAX];
    size_t length;
};

/* 1: the message is whole; 0: more is to come; -1: broken. */
static int whole(const struct handshake *message, size_t *ret_length)
{
    if (message->length < HANDSHAKE_HEADER)
        return message->length > 0 && message->bytes[0] != CLIENT_HELLO ? -1 : 0;
    struct reader header = {.at = message->bytes, .left = HANDSHAKE_HEADER};
    if (number(&header, 1) != CLIENT_HELLO)
        return -1;
    size_t length = number(&header, 3);
    if (length > TLS_HELLO_MAX - HANDSHAKE_HEADER)
        return -1;
    *ret_length = length;
    return message->length >= length + HANDSHAKE_HEADER;
}

static int gather(struct reader input, struct handshake *ret, size_t *ret_length)
{
    for (;;) {
        int state = whole(ret, ret_length);
        if (state != 0)
            return state;
        if (input.left < RECORD_HEADER)
            return input.left > 0 && input.at[0] != HANDSHAKE ? -1 : 0;
        bool handshake = number(&input, 1) == HANDSHAKE;
        size_t version = number(&input, 2), length = number(&input, 2);
        if (!handshake || version >> 8 != 3 || length == 0 || length > RECORD_MAX)
            return -1;
        size_t here = length < input.left ? length : input.left;
        if (here > sizeof ret->bytes - ret->length)
            return -1;
        memcpy(ret->bytes + ret->length, take(&input, here), here);
        ret->length += here;
        if (here < length) /* the last record is not whole yet: what it has may be enough */
            return whole(ret, ret_length);
    }
}

static enum tls_hello read_names(struct reader extension, char ret_name[TLS_NAME_MAX + 1])
{
    struct reader list = vector(&extension, 2);
    bool alone = !list.failed && extension.left == 0;
    size_t kind = number(&list, 1);
    struct reader name = vector(&list, 2);

    /* One name: RFC 6066 has one kind only, and no kind twice. */
    if (!alone || list.failed || list.left > 0 || kind != HOST_NAME || name.left == 0 ||
        name.left > TLS_NAME_MAX || memchr(name.at, 0, name.left))
        return TLS_HELLO_BROKEN;
    memcpy(ret_name, name.at, name.left);
    ret_name[name.left] = '\0';
    return TLS_HELLO_NAME;
}

static enum tls_hello read_hello(struct reader hello, char ret_name[TLS_NAME_MAX + 1])
{
    enum tls_hello found = TLS_HELLO_NO_NAME;

    (void)take(&hello, 2 + 32); /* version, random */
    struct reader session = vector(&hello, 1), ciphers = vector(&hello, 2);
    struct reader compressions = vector(&hello, 1);
    if (hello.failed || session.left > 32 || ciphers.left < 2 || ciphers.left % 2 ||
        compressions.left < 1)
        return TLS_HELLO_BROKEN;
    if (hello.left == 0)
        return found;
    struct reader extensions = vector(&hello, 2);
    if (extensions.failed || hello.left > 0)
        return TLS_HELLO_BROKEN;
    while (extensions.left > 0) {
        size_t type = number(&extensions, 2);
        struct reader extension = vector(&extensions, 2);
        if (extensions.failed)
            return TLS_HELLO_BROKEN;
        if (type != SERVER_NAME)
            continue;
        if (found != TLS_HELLO_NO_NAME) /* twice */
            return TLS_HELLO_BROKEN;
        found = read_names(extension, ret_name);
        if (found != TLS_HELLO_NAME)
            return found;
    }
    return found;
}

enum tls_hello tls_hello_read(const uint8_t *bytes, size_t length, char ret_name[TLS_NAME_MAX + 1])
{
    struct handshake message;
    char name[TLS_NAME_MAX + 1];
    size_t body;

    /* Content type and major version: what the other protocols do not begin with. */
    if ((length > 0 && bytes[0] != HANDSHAKE) || (length > 1 && bytes[1] != 3))
        return TLS_HELLO_NONE;
    message.length = 0;
    int state = gather((struct reader){.at = bytes, .left = length}, &message, &body);
    if (state == 0)
        return length < TLS_HELLO_MAX ? TLS_HELLO_MORE : TLS_HELLO_BROKEN;
    if (state < 0)
        return TLS_HELLO_BROKEN;
    enum tls_hello found =
        read_hello((struct reader){.at = message.bytes + HANDSHAKE_HEADER, .left = body}, name);
    if (found == TLS_HELLO_NAME)
        memcpy(ret_name, name, strlen(name) + 1);
    return found;
}
