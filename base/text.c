#include "base/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for `more` bytes and the final NUL. */
static bool grow(struct text *text, size_t more)
{
    if (text->failed || more > SIZE_MAX / 4 - text->length) {
        text->failed = true;
        return false;
    }
    size_t need = text->length + more + 1;
    if (need <= text->room)
        return true;
    size_t room = text->room ? text->room : 256;
    while (room < need)
        room *= 2;
    char *data = realloc(text->data, room);
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->room = room;
    return true;
}

void text_add_bytes(struct text *text, const void *bytes, size_t length)
{
    if (!grow(text, length))
        return;
    if (length)
        memcpy(text->data + text->length, bytes, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void text_add(struct text *text, const char *string)
{
    text_add_bytes(text, string, strlen(string));
}

void text_addv(struct text *text, const char *format, va_list values)
{
    va_list again;

    if (!grow(text, 0))
        return;
    va_copy(again, values);
    size_t room = text->room - text->length;
    int length = vsnprintf(text->data + text->length, room, format, values);
    if (length < 0)
        text->failed = true;
    else if ((size_t)length >= room && grow(text, (size_t)length))
        (void)vsnprintf(text->data + text->length, (size_t)length + 1, format, again);
    if (!text->failed)
        text->length += (size_t)length;
    text->data[text->length] = '\0'; /* where that failed, what was half added is none */
    va_end(again);
}

void text_addf(struct text *text, const char *format, ...)
{
    va_list values;

    va_start(values, format);
    text_addv(text, format, values);
    va_end(values);
}

char *text_take(struct text *text)
{
    char *data = NULL;

    if (grow(text, 0)) {
        text->data[text->length] = '\0';
        data = text->data;
        text->data = NULL;
    }
    text_free(text);
    return data;
}

void text_free(struct text *text)
{
    free(text->data);
    *text = (struct text)TEXT_INIT;
}
