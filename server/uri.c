#include "server/uri.h"

#include <stdlib.h>
#include <string.h>

#include "renderers/check.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decodes in place; NULL, or what is wrong. `plus` makes "+" a space, as forms do. */
static const char *decode(char *text, int plus)
{
    char *out = text;

    /* What was not escaped is visible ASCII, as uri_parse() has seen. */
    if (!strchr(text, '%') && !(plus && strchr(text, '+')))
        return NULL;
    for (const char *in = text; *in; in++) {
        if (*in == '%') {
            int high = hex_digit(in[1]), low = high < 0 ? -1 : hex_digit(in[2]);
            if (low < 0)
                return "a percent sign in the address is not followed by two hex digits";
            if (high == 0 && low == 0)
                return "the address holds an encoded NUL";
            *out++ = (char)(high * 16 + low);
            in += 2;
        } else {
            *out++ = (char)(plus && *in == '+' ? ' ' : *in);
        }
    }
    *out = '\0';
    return check_utf8(text) ? NULL : "the address is not UTF-8";
}

/* Splits "/a/b" at its slashes and decodes the parts. The root has no segment; an empty segment
 * stays. */
static const char *split_path(char *path, struct uri *uri)
{
    char *next = path + 1;

    if (*next == '\0')
        return NULL;
    while (next) {
        char *segment = next;
        next = strchr(segment, '/');
        if (next)
            *next++ = '\0';
        if (uri->n_segments == SEGMENTS_MAX)
            return NULL; /* deeper than any route: the router sees that it fits none */
        const char *why = decode(segment, 0);
        if (!why && strchr(segment, '/'))
            why = "the address holds an encoded slash";
        if (why)
            return why;
        uri->segments[uri->n_segments++] = segment;
    }
    return NULL;
}

static const char *split_query(char *query, struct uri *uri)
{
    while (query && *query) {
        char *name = query;
        query = strchr(name, '&');
        if (query)
            *query++ = '\0';
        if (*name == '\0')
            continue;
        char *value = strchr(name, '=');
        if (value)
            *value++ = '\0';
        else
            value = name + strlen(name);
        if (uri->n_query == QUERY_MAX)
            return "the query string has too many parameters";
        const char *why = decode(name, 1);
        if (!why)
            why = decode(value, 1);
        if (why)
            return why;
        uri->query[uri->n_query++] = (struct query_pair){name, value};
    }
    return NULL;
}

/* Cuts up what lies in storage twice: the path as sent, and the copy that is decoded. */
static const char *split(struct uri *uri, char *copy)
{
    char *query = strchr(copy, '?');

    if (query)
        *query++ = '\0';
    const char *why = split_path(copy, uri);
    return why ? why : split_query(query, uri);
}

/* The arrays are filled as far as they are counted. */
static void clear(struct uri *uri)
{
    uri->storage = NULL;
    uri->path = NULL;
    uri->n_segments = uri->n_query = 0;
}

int uri_parse(const char *raw, struct uri *ret, const char **ret_why)
{
    const size_t length = strlen(raw);
    const char *why = NULL;

    clear(ret);
    if (raw[0] != '/' && strcmp(raw, "*") != 0)
        why = "the address has to be a path, starting with a slash";
    for (const char *c = raw; *c && !why; c++)
        if (*c <= 0x20 || *c >= 0x7f || *c == '#')
            why = "the address holds a byte that has to be percent-encoded";
    if (!why && !(ret->storage = malloc(2 * (length + 1))))
        why = "out of memory";
    if (!why) {
        char *path = ret->storage, *copy = path + length + 1;
        memcpy(path, raw, length + 1);
        memcpy(copy, raw, length + 1);
        path[strcspn(path, "?")] = '\0';
        ret->path = path;
        why = split(ret, copy);
    }
    if (!why)
        return 0;
    uri_free(ret);
    *ret_why = why;
    return -1;
}

void uri_free(struct uri *uri)
{
    free(uri->storage);
    clear(uri);
}
