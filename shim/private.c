/* bottle-private.so: loaded into the QEMU that restores a bottle from a template (LD_PRELOAD).
 *
 * The template's memory is a file that all its bottles map privately, which needs no right to write
 * to it; but QEMU opens a file of memory for reading and writing, or else takes it for a ROM (a
 * third way, "rom=off", is not there before version 8.2). So that one path is opened for reading.
 * The path is the jail's: TEMPLATE_RAM of backends/qemu_template.h. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

#define TEMPLATE_RAM "/vm/ram"

typedef int opener(const char *path, int flags, ...);

static int open_as(const char *name, const char *path, int flags, mode_t mode)
{
    opener *real = (opener *)dlsym(RTLD_NEXT, name);

    if (!real) {
        errno = ENOSYS;
        return -1;
    }
    if (strcmp(path, TEMPLATE_RAM) == 0)
        flags = (flags & ~O_ACCMODE) | O_RDONLY;
    return real(path, flags, mode);
}

static mode_t mode_of(int flags, va_list args)
{
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, mode_t) : 0;
}

/* The names of parameters are the headers', which clang-tidy compares. */
int open64(const char *__file, int __oflag, ...)
{
    va_list args;

    va_start(args, __oflag);
    mode_t mode = mode_of(__oflag, args);
    va_end(args);
    return open_as("open64", __file, __oflag, mode);
}

/* What a fortified open() without a mode becomes. */
int __open64_2(const char *__path, int __oflag);
int __open64_2(const char *__path, int __oflag)
{
    return open_as("open64", __path, __oflag, 0);
}
