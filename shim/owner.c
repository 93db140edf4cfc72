/* bottle-owner.so: loaded into mkfs.erofs (LD_PRELOAD) when it packs what umoci unpacked.
 *
 * umoci runs as an ordinary user, so every file is that user's; whose it is in the image stands in
 * the extended attribute user.rootlesscontainers (two varints of a protobuf message, uid and gid;
 * none means root). lstat() says so in its place. And what umoci made without a time from the image
 * (folders that no layer names) says 0, so that the same image gives the same bytes: everything
 * from BOTTLE_IMPORT_BEGAN (seconds) on. Without that variable files are as they are. */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/xattr.h>

#define ATTRIBUTE "user.rootlesscontainers"

enum { FIELD_UID = 1 << 3, FIELD_GID = 2 << 3, ROOTLESS_NONE = 0x7fffffff };

static bool next_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret)
{
    *ret = 0;
    for (unsigned shift = 0; *at < end && shift < 63; shift += 7) {
        uint8_t byte = *(*at)++;
        *ret |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

static void set_owner(const char *path, struct stat64 *status)
{
    uint8_t bytes[32];
    ssize_t length = lgetxattr(path, ATTRIBUTE, bytes, sizeof bytes);
    const uint8_t *at = bytes, *end = bytes + (length > 0 ? length : 0);
    uint64_t field, value;

    status->st_uid = status->st_gid = 0;
    while (next_varint(&at, end, &field) && next_varint(&at, end, &value)) {
        if (field == FIELD_UID && value < ROOTLESS_NONE)
            status->st_uid = (uid_t)value;
        if (field == FIELD_GID && value < ROOTLESS_NONE)
            status->st_gid = (gid_t)value;
    }
}

/* The names of parameters are the headers', which clang-tidy compares. */
int lstat64(const char *restrict __file, struct stat64 *restrict __buf)
{
    static int (*real)(const char *restrict, struct stat64 *restrict);
    const char *began = getenv("BOTTLE_IMPORT_BEGAN");

    if (!real)
        real = (int (*)(const char *restrict, struct stat64 *restrict))dlsym(RTLD_NEXT, "lstat64");
    if (!real) {
        errno = ENOSYS;
        return -1;
    }
    if (real(__file, __buf) < 0)
        return -1;
    if (!began)
        return 0;
    int saved = errno;
    set_owner(__file, __buf);
    if (__buf->st_mtim.tv_sec >= strtoll(began, NULL, 10))
        __buf->st_mtim = (struct timespec){0};
    errno = saved;
    return 0;
}

/* The image's own time of making. */
int gettimeofday(struct timeval *restrict __tv, void *restrict __tz)
{
    (void)__tz;
    *__tv = (struct timeval){0};
    return 0;
}
