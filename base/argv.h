/* A growing, NULL-terminated argument vector. Strings are borrowed unless made by argv_addf. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct argv {
    const char **items; /* NULL-terminated once something was added */
    char **owned;
    size_t count, room, n_owned;
    bool failed; /* sticky: memory was short */
};

#define ARGV_INIT                                                                                  \
    {                                                                                              \
        NULL, NULL, 0, 0, 0, false                                                                 \
    }

void argv_add(struct argv *argv, const char *argument);
void argv_addf(struct argv *argv, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Adds a NULL-terminated list of strings. */
void argv_add_list(struct argv *argv, const char *const *arguments);
void argv_free(struct argv *argv);

#define CLEANUP_ARGV __attribute__((cleanup(argv_free)))
