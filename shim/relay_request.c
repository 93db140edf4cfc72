#include "shim/relay_request.h"

#include <string.h>
#include <strings.h>

#include "base/number.h"

struct span {
    const char *at;
    size_t length;
};

#define SPAN(text) ((struct span){(text), sizeof(text) - 1})

/* --- Bytes ------------------------------------------------------------------------------------ */

/* tchar of RFC 9110, 5.6.2 */
static bool is_token(struct span span)
{
    static const char others[] = "!#$%&'*+-.^_`|~";

    for (size_t i = 0; i < span.length; i++) {
        char c = span.at[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && (c == '\0' || !strchr(others, c)))
            return false;
    }
    return span.length > 0;
}

static bool is_printable(struct span span)
{
    for (size_t i = 0; i < span.length; i++)
        if (span.at[i] <= ' ' || span.at[i] >= 0x7f)
            return false;
    return true;
}

static bool equal(struct span a, struct span b)
{
    return a.length == b.length && strncasecmp(a.at, b.at, a.length) == 0;
}

static struct span trim(struct span span)
{
    while (span.length > 0 && (*span.at == ' ' || *span.at == '\t')) {
        span.at++;
        span.length--;
    }
    while (span.length > 0 && (span.at[span.length - 1] == ' ' || span.at[span.length - 1] == '\t'))
        span.length--;
    return span;
}

static struct span before(struct span span, char end)
{
    const char *found = memchr(span.at, end, span.length);

    return (struct span){span.at, found ? (size_t)(found - span.at) : span.length};
}

static struct span after(struct span span, size_t length)
{
    return (struct span){span.at + length, span.length - length};
}

/* Takes a line off the front, without its CR LF. */
static struct span take_line(struct span *rest)
{
    struct span line = before(*rest, '\r');

    *rest = after(*rest, line.length + 2);
    return line;
}

int head_length(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)bytes[i];
        bool control = (c < ' ' && c != '\t' && c != '\r' && c != '\n') || c == 0x7f;
        if (control || (c == '\n' && (i == 0 || bytes[i - 1] != '\r')) ||
            (c == '\r' && i + 1 < length && bytes[i + 1] != '\n'))
            return -1;
        if (c == '\n' && i >= 3 && bytes[i - 2] == '\n')
            return (int)i + 1;
    }
    return 0;
}

/* --- The target ------------------------------------------------------------------------------- */

/* "host", "host:port", "[…]:port"; `fallback` 0: the port must be there. */
static const char *read_authority(struct span text, uint16_t fallback, struct proxy_request *ret)
{
    bool brackets = text.length > 0 && text.at[0] == '[';
    struct span host = brackets ? before(after(text, 1), ']') : before(text, ':');
    struct span rest = after(text, host.length + (brackets ? 1 : 0));
    char number[6] = {0};
    int64_t port = fallback;

    if (memchr(text.at, '@', text.length))
        return "has a user's name in its target";
    if (brackets) {
        if (rest.length == 0)
            return "has a '[' without its ']' in its target";
        rest = after(rest, 1);
    }
    if (host.length == 0)
        return "has no host in its target";
    if (rest.length > 0) {
        struct span digits = after(rest, 1);
        if (rest.at[0] != ':' || digits.length == 0 || digits.length > 5 || digits.at[0] == '0')
            return "has a port in its target that is none";
        memcpy(number, digits.at, digits.length);
        if (number_parse(number, 1, 65535, &port) < 0)
            return "has a port in its target that is none";
    }
    if (port == 0)
        return "has no port in its target";
    size_t length = host.length < REQUEST_HOST_MAX ? host.length : REQUEST_HOST_MAX;
    memcpy(ret->host, host.at, length);
    ret->host[length] = '\0';
    ret->port = (uint16_t)port;
    return NULL;
}

/* The authority of "scheme://authority/…". */
static struct span authority_of(struct span url)
{
    size_t length = 0;

    while (length < url.length && !strchr("/?#\\", url.at[length]))
        length++;
    return (struct span){url.at, length};
}

static const char *read_target(struct span method, struct span target, struct proxy_request *ret)
{
    static const struct span http = SPAN("http://");

    if (method.length == 7 && memcmp(method.at, "CONNECT", 7) == 0) {
        ret->kind = REQUEST_CONNECT;
        return read_authority(target, 0, ret);
    }
    if (target.length > http.length && equal((struct span){target.at, http.length}, http)) {
        struct span url = after(target, http.length), authority = authority_of(url);
        ret->kind = REQUEST_HTTP;
        if (authority.length < url.length && url.at[authority.length] == '\\')
            return "has a '\\' in its target";
        return read_authority(authority, 80, ret);
    }
    struct span scheme = before(target, ':');
    if (!is_token(scheme) || target.length < scheme.length + 3 ||
        memcmp(target.at + scheme.length, "://", 3) != 0)
        return "is not one to a proxy: its target is neither host:port nor a URL";
    struct span authority = authority_of(after(target, scheme.length + 3));
    size_t length = authority.length < REQUEST_HOST_MAX ? authority.length : REQUEST_HOST_MAX;
    ret->kind = REQUEST_OTHER;
    memcpy(ret->host, authority.at, length);
    ret->host[length] = '\0';
    return NULL;
}

/* --- The fields ------------------------------------------------------------------------------- */

struct fields {
    bool http_1_0;
    bool has_host, has_length, chunked;
    uint64_t length;
    struct span host;
};

static const char *read_length(struct span value, struct fields *ret)
{
    if (ret->has_length)
        return "has two lengths";
    if (value.length == 0 || value.length > 18)
        return "has a length that is no number";
    for (size_t i = 0; i < value.length; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return "has a length that is no number";
        ret->length = ret->length * 10 + (uint64_t)(value.at[i] - '0');
    }
    ret->has_length = true;
    return NULL;
}

static const char *read_field(struct span line, struct fields *ret)
{
    struct span name = before(line, ':');

    if (name.length == line.length || !is_token(name))
        return "has a field that is not well-formed";
    struct span value = trim(after(line, name.length + 1));
    if (equal(name, SPAN("Host"))) {
        if (ret->has_host)
            return "has two Host fields";
        ret->has_host = true;
        ret->host = value;
    } else if (equal(name, SPAN("Content-Length"))) {
        return read_length(value, ret);
    } else if (equal(name, SPAN("Transfer-Encoding"))) {
        if (ret->chunked || !equal(value, SPAN("chunked")) || ret->http_1_0)
            return "has a transfer encoding that is not just \"chunked\"";
        ret->chunked = true;
    }
    return NULL;
}

/* The Host field says the same as an http:// target. */
static const char *check_host(const struct fields *fields, const struct proxy_request *request)
{
    struct proxy_request named = {0};

    if (!fields->has_host)
        return fields->http_1_0 || request->kind != REQUEST_HTTP ? NULL : "has no Host field";
    if (!is_printable(fields->host))
        return "has a Host field that is not well-formed";
    if (request->kind != REQUEST_HTTP)
        return NULL;
    if (read_authority(fields->host, 80, &named) || named.port != request->port ||
        (!rule_host_equal(named.host, request->host) && strcasecmp(named.host, request->host) != 0))
        return "has a Host field that is not its target's";
    return NULL;
}

static const char *check_body(const struct fields *fields, const struct proxy_request *request)
{
    if (fields->chunked && fields->has_length)
        return "has both a length and a transfer encoding";
    if (request->kind == REQUEST_CONNECT && (fields->chunked || fields->length))
        return "is a CONNECT with a body";
    return NULL;
}

const char *request_read(const char *head, size_t length, struct proxy_request *ret)
{
    struct span rest = {head, length}, line = take_line(&rest);
    struct span method = before(line, ' ');
    struct fields fields = {0};
    struct proxy_request request = {0};
    const char *wrong = NULL;

    if (method.length == line.length || method.length > 32 || !is_token(method))
        return "has a first line that is not well-formed";
    struct span target = before(after(line, method.length + 1), ' ');
    struct span version = after(line, method.length + 1 + target.length);
    fields.http_1_0 = equal(version, SPAN(" HTTP/1.0"));
    if (!fields.http_1_0 && (version.length != 9 || memcmp(version.at, " HTTP/1.1", 9) != 0))
        return "is not of HTTP/1.1 or 1.0";
    if (target.length == 0 || !is_printable(target))
        return "has a target that is not printable ASCII";
    wrong = read_target(method, target, &request);
    while (!wrong && rest.length > 2)
        wrong = read_field(take_line(&rest), &fields);
    if (!wrong)
        wrong = check_host(&fields, &request);
    if (!wrong)
        wrong = check_body(&fields, &request);
    if (wrong)
        return wrong;
    request.body = fields.chunked ? UINT64_MAX : fields.length;
    *ret = request;
    return NULL;
}

size_t request_close(const char *head, size_t length, char *ret)
{
    static const struct span dropped[] = {SPAN("Connection"), SPAN("Proxy-Connection"),
                                          SPAN("Keep-Alive")};
    static const struct span closing = SPAN("Connection: close\r\n\r\n");
    struct span rest = {head, length};
    size_t written = 0;

    for (bool first = true; rest.length > 2; first = false) {
        struct span line = take_line(&rest), name = before(line, ':');
        bool drop = false;
        for (size_t i = 0; i < sizeof dropped / sizeof dropped[0]; i++)
            drop = drop || (!first && equal(name, dropped[i]));
        if (drop)
            continue;
        memcpy(ret + written, line.at, line.length + 2);
        written += line.length + 2;
    }
    memcpy(ret + written, closing.at, closing.length);
    return written + closing.length;
}

int answer_status(const char *head, size_t length)
{
    if (length < 13 || memcmp(head, "HTTP/1.", 7) != 0 || head[8] != ' ')
        return -1;
    for (size_t i = 9; i < 12; i++)
        if (head[i] < '0' || head[i] > '9')
            return -1;
    return (head[9] - '0') * 100 + (head[10] - '0') * 10 + (head[11] - '0');
}
