/* The request target (RFC 9112, 3.2) as bytes that are safe to match: taken apart before anything
 * is decoded.
 *
 * libmicrohttpd hands paths over decoded and cut at %00, so the raw target is parsed here. Segments
 * are split at
 * "/" first and decoded each for itself: an encoded slash never makes a segment. Whatever is not
 * plainly right is refused: bytes outside visible ASCII, a bad escape, NUL, an encoded slash, text
 * that is not UTF-8. "*" stands for the server as a whole (OPTIONS) and has no segment.
 */
#pragma once

#include <stddef.h>

enum { URI_LENGTH_MAX = 8 * 1024, SEGMENTS_MAX = 8, QUERY_MAX = 32 };

struct query_pair {
    const char *name, *value; /* decoded */
};

struct uri {
    char *storage;                      /* owns what the rest points to */
    const char *path;                   /* as sent, without the query */
    const char *segments[SEGMENTS_MAX]; /* decoded */
    size_t n_segments;
    struct query_pair query[QUERY_MAX];
    size_t n_query;
};

/* 0 and *ret (release with uri_free), or -1, an empty *ret, and the words of what is wrong with it
 * in *ret_why (static). */
int uri_parse(const char *raw, struct uri *ret, const char **ret_why);
void uri_free(struct uri *uri);
