#include "base/secret.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

int secret_make(struct secret *ret, size_t room, struct error *err)
{
    void *bytes =
        mmap(NULL, room ? room : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (bytes == MAP_FAILED)
        return error_errno(err, NULL, "memory for a secret");
    (void)madvise(bytes, room, MADV_DONTDUMP);
    (void)mlock2(bytes, room, MLOCK_ONFAULT); /* as far as the limit goes */
    *ret = (struct secret){.bytes = bytes, .room = room};
    return 0;
}

int secret_add(struct secret *secret, const void *bytes, size_t length)
{
    if (length > secret->room - secret->length)
        return -1;
    if (length)
        memcpy(secret->bytes + secret->length, bytes, length);
    secret->length += length;
    return 0;
}

int secret_read(struct secret *secret, int fd, size_t most)
{
    size_t begin = secret->length;
    uint8_t beyond;

    for (;;) {
        size_t room = secret->room - secret->length, left = most - (secret->length - begin);
        bool full = room == 0 || left == 0;
        ssize_t got = full ? read(fd, &beyond, 1)
                           : read(fd, secret->bytes + secret->length, room < left ? room : left);
        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0)
            return 0;
        if (got > 0 && !full) {
            secret->length += (size_t)got;
            continue;
        }
        if (got > 0)
            errno = EFBIG;
        explicit_bzero(&beyond, sizeof beyond);
        return -1;
    }
}

void secret_wipe(struct secret *secret)
{
    if (secret->bytes)
        explicit_bzero(secret->bytes, secret->length);
    secret->length = 0;
}

void secret_free(struct secret *secret)
{
    if (secret->bytes) {
        explicit_bzero(secret->bytes, secret->room);
        (void)munmap(secret->bytes, secret->room ? secret->room : 1);
    }
    *secret = (struct secret){0};
}

void secret_no_dumps(void)
{
    /* 1 rather than 0: a program behind core_pattern is not asked for the limit, but for 1. */
    const struct rlimit none = {1, 1};

    (void)setrlimit(RLIMIT_CORE, &none);
}
