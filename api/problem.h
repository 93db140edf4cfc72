/* Problems (RFC 9457): one table of types, and the faults of a request by JSON Pointer (RFC 6901).
 */
#pragma once

#include <jansson.h>
#include <stdarg.h>
#include <stddef.h>

#include "base/error.h"

struct problem_type {
    const char *name; /* the last part of the type URI, and an error's kind */
    const char *title;
    int status;
};

extern const struct problem_type problem_types[];
extern const size_t n_problem_types;
/* The row of that name; the row "internal" for NULL and for unknown names. */
const struct problem_type *problem_type(const char *name);

/* A problem's type URI is this, followed by the row's name. */
#define PROBLEM_URI_PREFIX "urn:bottled:problem:"

enum { PROBLEM_FAULTS_MAX = 64 };

/* Everything that is wrong with one request. Zero-initialise; problem_free() releases. */
struct problem {
    const struct problem_type *type; /* NULL: nothing is wrong */
    char detail[768]; /* what happened and what to do next; empty: made from the faults */
    json_t *errors;   /* [{pointer, code, detail}], or NULL */
    size_t n_faults;  /* all of them, also those past PROBLEM_FAULTS_MAX */
    json_t *extra;    /* further members (e.g. "state", "tools"), or NULL */
};

#define PROBLEM_INIT                                                                               \
    {                                                                                              \
        0                                                                                          \
    }

/* Sets type and detail; faults and members that are there stay. */
void problem_set(struct problem *problem, const char *type, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void problem_vset(struct problem *problem, const char *type, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
/* Takes kind and text of an error. */
void problem_from_error(struct problem *problem, const struct error *err);
/* Adds one fault of the body; sets the type to "invalid-plan" when none is set. Keeps the first
 * PROBLEM_FAULTS_MAX and counts the others. */
void problem_add_fault(struct problem *problem, const char *pointer, const char *code,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Adds a member to the problem object; steals `value`. Names that RFC 9457 defines are not taken.
 */
void problem_add_member(struct problem *problem, const char *name, json_t *value);
/* Leaves it as PROBLEM_INIT. */
/* Another owner of the same contents: both are released with problem_free(). */
struct problem problem_ref(const struct problem *problem);
void problem_free(struct problem *problem);
/* The application/problem+json object; the caller owns it; NULL when memory is short. `instance`
 * may be NULL. Bytes that are no UTF-8 (a path, a cut sentence) come out as U+FFFD. */
json_t *problem_encode(const struct problem *problem, const char *instance);
