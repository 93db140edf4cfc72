#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, const char *kind, const char *format, ...)
{
    va_list args;

    if (!err)
        return -1;
    err->kind = kind;
    err->pointer = NULL;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return -1;
}

int error_errno(struct error *err, const char *kind, const char *format, ...)
{
    int saved = errno;
    char why[128];
    va_list args;

    if (!err)
        return -1;
    err->kind = kind;
    err->pointer = NULL;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t length = strlen(err->text);
    (void)snprintf(err->text + length, sizeof err->text - length, ": %s",
                   strerror_r(saved, why, sizeof why));
    errno = saved;
    return -1;
}

int error_wrap(struct error *err, const char *format, ...)
{
    char context[sizeof err->text];
    va_list args;

    if (!err)
        return -1;
    va_start(args, format);
    (void)vsnprintf(context, sizeof context - 2, format, args);
    va_end(args);
    size_t length = strlen(context);
    memcpy(context + length, ": ", 2);
    length += 2;
    memmove(err->text + length, err->text, sizeof err->text - length);
    memcpy(err->text, context, length);
    err->text[sizeof err->text - 1] = '\0';
    return -1;
}
