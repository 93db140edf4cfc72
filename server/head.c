#include "server/head.h"

#include <string.h>
#include <strings.h>

#include "base/util.h"
#include "server/uri.h"

const struct head_fault head_faults[N_HEAD_FAULTS] = {
    [HEAD_OK] = {NULL, ""},
    [HEAD_BARE_LF] = {"bad-request", "a line has to end in CR LF, with no CR or LF by itself"},
    [HEAD_CONTROL] = {"bad-request", "the request's head holds a NUL or another control character"},
    [HEAD_LINE] = {"bad-request", "the first line has to be METHOD TARGET HTTP/1.1, with one "
                                  "space between"},
    [HEAD_METHOD] = {"bad-request", "the method has to be a word of at most 20 characters"},
    [HEAD_TARGET] = {"bad-request", "the address has to be a path, starting with a slash"},
    [HEAD_TARGET_BYTE] = {"bad-request", "the address holds a byte that has to be percent-encoded"},
    [HEAD_OTHER_HOST] = {"bad-request", "the address names another host than the Host header"},
    [HEAD_URI_TOO_LONG] = {"uri-too-long", "the address may have 8192 bytes"},
    [HEAD_PARAMETERS] = {"bad-request", "the query string has too many parameters"},
    [HEAD_VERSION_BAD] = {"bad-request", "the first line has to end in HTTP/1.1"},
    [HEAD_VERSION] = {"http-version", "speak HTTP/1.1 (nginx: proxy_http_version 1.1)"},
    [HEAD_FOLD] = {"bad-request", "a header may not go on in the next line"},
    [HEAD_NAME] = {"bad-request", "each header is NAME: VALUE, with no space before the colon"},
    [HEAD_HOSTS] = {"bad-request", "there has to be exactly one Host header"},
    [HEAD_HOST_BAD] = {"bad-request", "the Host header has to be a name or an address, and a port "
                                      "at most"},
    [HEAD_TWICE] = {"bad-request", "a header is there twice that may be there once only"},
    [HEAD_LENGTH] = {"bad-request", "the Content-Length is no number"},
    [HEAD_LENGTHS] = {"bad-request", "a body has either one Content-Length or a Transfer-Encoding"},
    [HEAD_ENCODING] = {"bad-request", "the only Transfer-Encoding is chunked"},
    [HEAD_TOO_LARGE] = {"headers-too-large", "the first line and the headers may have 16384 bytes"},
    [HEAD_TOO_MANY] = {"headers-too-large", "a request may have 100 headers"},
    [HEAD_ENDS] = {"bad-request", "the request ended in the middle of its head"},
    [HEAD_LATE] = {"request-timeout", "the request's head did not come in time (head_timeout)"},
    [HEAD_CROWDED] = {"too-many-connections",
                      "there are as many connections as this listener may have "
                      "(max_connections); try again in a moment"},
    [BODY_CHUNK] = {"bad-request", "a chunk of the body does not begin or end as it has to"},
    [BODY_TRAILER] = {"bad-request", "what follows the body's last chunk are no headers, or too "
                                     "many"},
    [BODY_ENDS] = {"bad-request", "the request ended in the middle of its body"},
    [BODY_LATE] = {"request-timeout", "the request's body did not come in time (body_timeout)"},
};

enum { HOST, LENGTH, ENCODING, FIRST_ONCE, COOKIE = FIRST_ONCE, FIRST_OTHER };

#define COUNTED(name)                                                                              \
    {                                                                                              \
        (name), sizeof(name) - 1                                                                   \
    }

/* The headers that are counted. */
static const struct counted {
    const char *name;
    size_t length;
} counted[] = {
    [HOST] = COUNTED("Host"),
    [LENGTH] = COUNTED("Content-Length"),
    [ENCODING] = COUNTED("Transfer-Encoding"),
    /* From here on those whose second would be read by some as the first and by others as the
     * last. */
    [COOKIE] = COUNTED("Cookie"),
    [FIRST_OTHER] = COUNTED("Content-Type"),
    COUNTED("Content-Encoding"),
    COUNTED("Authorization"),
    COUNTED("Expect"),
    COUNTED("Idempotency-Key"),
    COUNTED("If-Match"),
    COUNTED("If-None-Match"),
    COUNTED("Last-Event-ID"),
    COUNTED("Origin"),
    COUNTED("X-Request-Id"),
};

enum { N_COUNTED = COUNT_OF(counted) };

/* What is known of a head while it is read. */
struct reading {
    struct head *head;
    unsigned counts[N_COUNTED];
    const char *host, *authority, *cookie;
    size_t host_length, authority_length;
};

/* What a method or a header's name is made of (RFC 9110, 5.6.2). */
static const bool token_bytes[256] = {
    ['!'] = true,         ['#' ... '\''] = true, ['*'] = true,         ['+'] = true,
    ['-'] = true,         ['.'] = true,          ['0' ... '9'] = true, ['A' ... 'Z'] = true,
    ['^' ... 'z'] = true, ['|'] = true,          ['~'] = true};

/* What may be in a line: no control character but a tab. */
static const bool line_bytes[256] = {['\t'] = true, [0x20 ... 0x7e] = true, [0x80 ... 0xff] = true};

static size_t token_length(const char *bytes, size_t length)
{
    size_t n = 0;

    while (n < length && token_bytes[(unsigned char)bytes[n]])
        n++;
    return n;
}

/* Is it "name", "name:port", "[v6]:port"? */
static bool host_valid(const char *host, size_t length)
{
    size_t at = 0;
    const bool literal = length > 0 && host[0] == '[';

    if (literal) {
        while (++at < length && host[at] != ']')
            if (!strchr("0123456789abcdefABCDEF:.", host[at]))
                return false;
        if (at++ >= length)
            return false;
    } else {
        while (at < length &&
               ((host[at] >= 'a' && host[at] <= 'z') || (host[at] >= 'A' && host[at] <= 'Z') ||
                (host[at] && strchr("0123456789-._~", host[at]))))
            at++;
    }
    if (at == 0 || at == length)
        return at > 0;
    size_t digits = length - at - 1;
    if (host[at] != ':' || digits == 0 || digits > 5)
        return false;
    while (++at < length)
        if (host[at] < '0' || host[at] > '9')
            return false;
    return true;
}

/* --- The first line ------------------------------------------------------------------------ */

static enum head_fault_row check_version(const char *version, size_t length)
{
    if (length != 8 || memcmp(version, "HTTP/", 5) != 0 || version[5] < '0' || version[5] > '9' ||
        version[6] != '.' || version[7] < '0' || version[7] > '9')
        return HEAD_VERSION_BAD;
    return memcmp(version + 5, "1.1", 3) == 0 ? HEAD_OK : HEAD_VERSION;
}

/* "http://host/path": notes the host, which is compared once the headers are read. */
static enum head_fault_row read_absolute(struct reading *reading, const char *start,
                                         const char *target, size_t length)
{
    size_t scheme = length > 7 && strncasecmp(target, "http://", 7) == 0    ? 7
                    : length > 8 && strncasecmp(target, "https://", 8) == 0 ? 8
                                                                            : 0;
    size_t end = scheme;

    if (!scheme)
        return HEAD_TARGET;
    while (end < length && target[end] != '/' && target[end] != '?')
        end++;
    reading->authority = target + scheme;
    reading->authority_length = end - scheme;
    reading->head->origin_at = (size_t)(target - start);
    reading->head->origin_length = end;
    reading->head->bare_origin = end == length || target[end] == '?';
    return HEAD_OK;
}

/* More than any call takes, and more than the library has room for: it would not answer then. Empty
 * ones are taken, so there may be twice as many. */
static bool too_many_parameters(const char *target, size_t length)
{
    const char *next = memchr(target, '?', length), *end = target + length;
    unsigned count = 0;

    for (; next; next = memchr(next, '&', (size_t)(end - next)), count++)
        next++;
    return count > 2 * QUERY_MAX;
}

static enum head_fault_row check_target(struct reading *reading, const char *start,
                                        const char *target, size_t length, bool options)
{
    if (length > URI_LENGTH_MAX)
        return HEAD_URI_TOO_LONG;
    for (size_t i = 0; i < length; i++)
        if (target[i] <= 0x20 || target[i] >= 0x7f || target[i] == '#')
            return HEAD_TARGET_BYTE;
    if (too_many_parameters(target, length))
        return HEAD_PARAMETERS;
    if (length > 0 && target[0] == '/')
        return HEAD_OK;
    if (length == 1 && target[0] == '*' && options)
        return HEAD_OK;
    return read_absolute(reading, start, target, length);
}

static enum head_fault_row read_first_line(struct reading *reading, const char *line, size_t length)
{
    size_t method = token_length(line, length);

    if (method == 0 || method == length || line[method] != ' ')
        return HEAD_LINE;
    if (method > HEAD_METHOD_MAX)
        return HEAD_METHOD;
    reading->head->is_head = method == 4 && memcmp(line, "HEAD", 4) == 0;
    const char *target = line + method + 1;
    const char *end = line + length;
    const char *space = memchr(target, ' ', (size_t)(end - target));
    if (!space || space == target || memchr(space + 1, ' ', (size_t)(end - space - 1)))
        return HEAD_LINE;
    enum head_fault_row fault = check_version(space + 1, (size_t)(end - space - 1));
    if (fault)
        return fault;
    return check_target(reading, line, target, (size_t)(space - target),
                        method == 7 && memcmp(line, "OPTIONS", 7) == 0);
}

/* --- Headers ------------------------------------------------------------------------------- */

/* Does the header's name end after so many bytes, at its colon? */
static bool name_ends(const char *line, size_t length, size_t name)
{
    return name > 0 && name < length && line[name] == ':';
}

bool head_line_valid(const char *line, size_t length)
{
    size_t at = token_length(line, length);

    if (!name_ends(line, length, at))
        return false;
    while (at < length && line_bytes[(unsigned char)line[at]])
        at++;
    return at == length;
}

/* Which of the headers that are counted; N_COUNTED: none. */
static size_t find_counted(const char *name, size_t length)
{
    size_t row = 0;

    while (row < N_COUNTED &&
           (counted[row].length != length || strncasecmp(counted[row].name, name, length) != 0))
        row++;
    return row;
}

static enum head_fault_row read_length(struct head *head, const char *value, size_t length)
{
    uint64_t number = 0;

    if (length == 0 || length > 18)
        return HEAD_LENGTH;
    for (size_t i = 0; i < length; i++) {
        if (value[i] < '0' || value[i] > '9')
            return HEAD_LENGTH;
        number = number * 10 + (uint64_t)(value[i] - '0');
    }
    head->body_length = number;
    return HEAD_OK;
}

static enum head_fault_row read_header(struct reading *reading, const char *line, size_t length)
{
    const size_t name = token_length(line, length), which = find_counted(line, name);

    if (line[0] == ' ' || line[0] == '\t')
        return HEAD_FOLD;
    if (!name_ends(line, length, name))
        return HEAD_NAME;
    if (which == N_COUNTED)
        return HEAD_OK;
    const char *value = line + name + 1, *end = line + length;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (value < end && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    const size_t size = (size_t)(end - value);
    if (reading->counts[which]++ && which >= FIRST_ONCE)
        return HEAD_TWICE;
    if (which == COOKIE)
        reading->cookie = line;
    if (which == HOST) {
        reading->host = value;
        reading->host_length = size;
        return host_valid(value, size) ? HEAD_OK : HEAD_HOST_BAD;
    }
    if (which == LENGTH)
        return read_length(reading->head, value, size);
    if (which == ENCODING) {
        reading->head->chunked = true;
        return size == 7 && strncasecmp(value, "chunked", 7) == 0 ? HEAD_OK : HEAD_ENCODING;
    }
    return HEAD_OK;
}

/* What only all headers together tell. */
static enum head_fault_row check_framing(const struct reading *reading)
{
    const unsigned *counts = reading->counts;

    if (counts[HOST] != 1)
        return HEAD_HOSTS;
    if (counts[LENGTH] > 1 || (counts[LENGTH] && counts[ENCODING]))
        return HEAD_LENGTHS;
    if (counts[ENCODING] > 1)
        return HEAD_ENCODING;
    if (reading->authority &&
        (reading->authority_length != reading->host_length ||
         strncasecmp(reading->authority, reading->host, reading->host_length) != 0))
        return HEAD_OTHER_HOST;
    return HEAD_OK;
}

/* --- The whole ----------------------------------------------------------------------------- */

/* Where the line ends, before its CR LF. NULL: not there yet, or *fault says what is wrong in it.
 */
static const char *line_end(const char *line, const char *end, enum head_fault_row *fault)
{
    const char *c = line;

    while (c < end && line_bytes[(unsigned char)*c])
        c++;
    if (c == end || (*c == '\r' && c + 1 == end))
        return NULL;
    if (*c == '\r' && c[1] == '\n')
        return c;
    *fault = *c == '\r' || *c == '\n' ? HEAD_BARE_LF : HEAD_CONTROL;
    return NULL;
}

/* Of a head that does not end within what is there. */
static enum head_fault_row check_unended(size_t length, bool first_line, bool ended)
{
    if (first_line && length > URI_LENGTH_MAX + HEAD_METHOD_MAX + 16)
        return HEAD_URI_TOO_LONG;
    if (length >= HEAD_BYTES_MAX)
        return HEAD_TOO_LARGE;
    return ended ? HEAD_ENDS : HEAD_OK;
}

static enum head_fault_row read_lines(struct reading *reading, const char *bytes, size_t length,
                                      bool ended)
{
    const char *line = bytes, *end = bytes + length;
    enum head_fault_row fault = HEAD_OK;

    for (unsigned lines = 0;; lines++) {
        const char *stop = line_end(line, end, &fault);
        if (fault)
            return fault;
        if (!stop)
            return check_unended(length, lines == 0, ended);
        if (stop == line && lines > 0) {
            reading->head->length = (size_t)(stop + 2 - bytes);
            if (reading->head->length > HEAD_BYTES_MAX)
                return HEAD_TOO_LARGE;
            return check_framing(reading);
        }
        if (lines > HEAD_LINES_MAX)
            return HEAD_TOO_MANY;
        fault = lines == 0 ? read_first_line(reading, line, (size_t)(stop - line))
                           : read_header(reading, line, (size_t)(stop - line));
        if (fault)
            return fault;
        line = stop + 2;
    }
}

enum head_verdict head_read(const char *bytes, size_t length, bool ended, struct head *ret)
{
    struct reading reading = {.head = ret};

    *ret = (struct head){0};
    ret->fault = read_lines(&reading, bytes, length, ended);
    if (ret->fault)
        return HEAD_REFUSED;
    if (reading.cookie)
        ret->cookie_at = (size_t)(reading.cookie - bytes);
    return ret->length ? HEAD_WHOLE : HEAD_MORE;
}

int head_chunk_size(const char *line, size_t length, uint64_t *ret)
{
    uint64_t size = 0;
    size_t digits = 0;

    for (; digits < length; digits++) {
        const char c = line[digits];
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                                : 16;
        if (digit == 16)
            break;
        size = size * 16 + digit;
    }
    if (digits == 0 || digits > 15)
        return -1;
    /* An extension means nothing here, and is left out. */
    if (digits < length && line[digits] != ';')
        return -1;
    for (size_t i = digits; i < length; i++)
        if (((unsigned char)line[i] < 0x20 && line[i] != '\t') || line[i] == 0x7f)
            return -1;
    *ret = size;
    return 0;
}
