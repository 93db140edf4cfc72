/* The one error type: made where the fault is, wrapped with context on the way up, shown once at
 * the edge. It owns nothing, so it can be made when memory is short and needs no release. */
#pragma once

#include <stddef.h>

struct error {
    const char *kind; /* a row of api/problem.c's table, by name; static; NULL means "internal" */
    char text[640];   /* a sentence for a person, UTF-8, cut rather than overflowed */
    /* JSON Pointer to the field of a plan that is missing; static; NULL: it is about none. */
    const char *pointer;
};

#define ERROR_INIT                                                                                 \
    {                                                                                              \
        NULL, {0}, NULL                                                                            \
    }

/* Sets *err (NULL is allowed). Each returns -1, so that `return error_set(…)` reads well. */
int error_set(struct error *err, const char *kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same, followed by ": " and the words for the current errno. */
int error_errno(struct error *err, const char *kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "context: " before the text that is there; the kind stays. */
int error_wrap(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
