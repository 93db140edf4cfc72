/* A growing byte buffer that every renderer and encoder writes to.
 *
 * Invariants: `data` is NULL or NUL-terminated at data[length]; once memory was short, `failed` is
 * set, later additions do nothing, and text_take() gives NULL: callers check once, at the end. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct text {
    char *data;
    size_t length, room;
    bool failed;
};

#define TEXT_INIT                                                                                  \
    {                                                                                              \
        NULL, 0, 0, false                                                                          \
    }

void text_add(struct text *text, const char *string);
void text_add_bytes(struct text *text, const void *bytes, size_t length);
void text_addf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_addv(struct text *text, const char *format, va_list values)
    __attribute__((format(printf, 2, 0)));
/* Gives the contents (never NULL unless memory was short) to the caller, who frees them. */
char *text_take(struct text *text);
void text_free(struct text *text);

#define CLEANUP_TEXT __attribute__((cleanup(text_free)))
