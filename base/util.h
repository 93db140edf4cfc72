/* Small things that every layer needs. */
#pragma once

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static inline void cleanup_pointer(void *pointer)
{
    free(*(void **)pointer);
}

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

#define CLEANUP_FREE __attribute__((cleanup(cleanup_pointer)))
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close)))

/* The value of *fd, which the caller now owns; *fd becomes -1. */
static inline int steal_fd(int *fd)
{
    int value = *fd;
    *fd = -1;
    return value;
}
