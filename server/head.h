/* The head of an HTTP request (RFC 9112), checked byte by byte before libmicrohttpd sees it: that
 * accepts what proxies and clients would read in two ways (bare line feeds, two lengths, folded
 * lines, spaces before a colon), and answers by itself, in HTML, what it does not accept.
 *
 * Pure: bytes in, verdict out. What is refused is a row of a table, so that an answer is named by a
 * number (see front.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HEAD_BYTES_MAX = 16 * 1024,
    HEAD_LINES_MAX = 100, /* headers */
    HEAD_METHOD_MAX = 20,
};

/* The rows of head_faults. */
enum head_fault_row {
    HEAD_OK,
    HEAD_BARE_LF,
    HEAD_CONTROL,
    HEAD_LINE,
    HEAD_METHOD,
    HEAD_TARGET,
    HEAD_TARGET_BYTE,
    HEAD_OTHER_HOST,
    HEAD_URI_TOO_LONG,
    HEAD_PARAMETERS,
    HEAD_VERSION_BAD,
    HEAD_VERSION,
    HEAD_FOLD,
    HEAD_NAME,
    HEAD_HOSTS,
    HEAD_HOST_BAD,
    HEAD_TWICE,
    HEAD_LENGTH,
    HEAD_LENGTHS,
    HEAD_ENCODING,
    HEAD_TOO_LARGE,
    HEAD_TOO_MANY,
    HEAD_ENDS,
    HEAD_LATE,
    HEAD_CROWDED,
    BODY_CHUNK,
    BODY_TRAILER,
    BODY_ENDS,
    BODY_LATE,
    N_HEAD_FAULTS
};

struct head_fault {
    const char *type; /* of a problem; NULL: HEAD_OK */
    const char *words;
};
extern const struct head_fault head_faults[N_HEAD_FAULTS];

enum head_verdict {
    HEAD_MORE, /* it does not end yet */
    HEAD_WHOLE,
    HEAD_REFUSED, /* `fault` says why; nothing behind it may be read as a request */
};

struct head {
    enum head_fault_row fault;
    bool is_head;  /* HEAD: its answer has no body. Of a refused one as far as it could be read */
    size_t length; /* up to and with the empty line */
    /* "http://host" of a target in absolute form, which names the Host: to be left out, with a "/"
     * in its place where no path follows. */
    size_t origin_at, origin_length;
    bool bare_origin;
    size_t cookie_at; /* where the name "Cookie" stands; 0: nowhere */
    bool chunked;
    uint64_t body_length; /* of Content-Length; 0 without one */
};

/* What begins at `bytes`. `ended`: nothing more will come. */
enum head_verdict head_read(const char *bytes, size_t length, bool ended, struct head *ret);

/* The size in a chunk's first line, "1a;extension" without its line end; -1 when it is none. */
int head_chunk_size(const char *line, size_t length, uint64_t *ret);
/* Is it a header's line, as a trailer may hold? */
bool head_line_valid(const char *line, size_t length);
