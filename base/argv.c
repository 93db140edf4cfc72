#include "base/argv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void argv_add(struct argv *argv, const char *argument)
{
    if (argv->failed)
        return;
    if (argv->count + 2 > argv->room) {
        size_t room = argv->room ? 2 * argv->room : 64;
        const char **items = realloc(argv->items, room * sizeof *items);
        char **owned = realloc(argv->owned, room * sizeof *owned);
        if (items)
            argv->items = items;
        if (owned)
            argv->owned = owned;
        if (!items || !owned) {
            argv->failed = true;
            return;
        }
        argv->room = room;
    }
    argv->items[argv->count++] = argument;
    argv->items[argv->count] = NULL;
}

void argv_addf(struct argv *argv, const char *format, ...)
{
    char *text;
    va_list args;

    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0) {
        argv->failed = true;
        return;
    }
    argv_add(argv, text);
    if (argv->failed)
        free(text);
    else
        argv->owned[argv->n_owned++] = text;
}

void argv_add_list(struct argv *argv, const char *const *arguments)
{
    for (; *arguments; arguments++)
        argv_add(argv, *arguments);
}

void argv_free(struct argv *argv)
{
    for (size_t i = 0; i < argv->n_owned; i++)
        free(argv->owned[i]);
    free(argv->owned);
    free(argv->items);
    *argv = (struct argv)ARGV_INIT;
}
