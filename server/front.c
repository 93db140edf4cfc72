#include "server/front.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/util.h"
#include "server/spare.h"
#include "server/uri.h"

enum {
    FDS_MAX = 1 << 20,
    RAW_SIZE = HEAD_BYTES_MAX,
    CHUNK_LINE_MAX = 256,
    TRAILER_MAX = 8 * 1024,
    SPARE_READS = 32, /* of what nobody wants any more, in one call */
};

enum state { IN_HEAD, IN_BODY, AT_CHUNK, IN_CHUNK, AFTER_CHUNK, IN_TRAILER, IN_NOTHING };
/* What front_tick() has to know of it: of a body either the client's next bytes are waited for, or
 * there are some that http.c has not taken yet. */
enum phase { PHASE_IDLE, PHASE_HEAD, PHASE_BODY, PHASE_OURS, PHASE_OVER };

struct front {
    int fd;
    bool tls, crowded, streams, stripped;
    enum state state;
    char *raw; /* RAW_SIZE bytes, of which [start, end) were read and not passed on; NULL: none */
    size_t start, end;
    size_t scanned;  /* of a head, from start on */
    size_t ready;    /* from start on: to be passed on as they are */
    char insert[96]; /* to be passed on before those */
    size_t insert_at, insert_length;
    uint64_t left; /* of a body or chunk */
    size_t trailer;
    bool ended; /* nothing more will come */
    unsigned seen;

    atomic_uint heads, done;
    atomic_int broken; /* enum head_fault_row of the last request's body */
    atomic_int phase;
    atomic_llong since_ms;
    atomic_bool late;
};

static _Atomic(struct front *) fronts[FDS_MAX];

struct front *front_open(int fd, bool tls, bool crowded)
{
    struct front *front = fd >= 0 && fd < FDS_MAX ? calloc(1, sizeof *front) : NULL;

    if (!front)
        return NULL;
    front->fd = fd;
    front->tls = tls;
    front->crowded = crowded;
    atomic_init(&front->since_ms, clock_coarse_ms());
    atomic_store(&fronts[fd], front);
    return front;
}

void front_close(struct front *front)
{
    if (!front)
        return;
    atomic_store(&fronts[front->fd], NULL);
    spare_give(SPARE_READ, front->raw);
    free(front);
}

/* --- What is passed on ---------------------------------------------------------------------- */

static size_t available(const struct front *front)
{
    return front->end - front->start;
}

static void insert(struct front *front, const char *words)
{
    front->insert_at = 0;
    front->insert_length = (size_t)snprintf(front->insert, sizeof front->insert, "%s", words);
}

/* Is there something decided that was not passed on yet? */
static bool pending(const struct front *front)
{
    return front->ready > 0 || front->insert_at < front->insert_length;
}

/* Copies what is decided already; the number of bytes. */
static size_t emit(struct front *front, char *out, size_t room)
{
    size_t length = front->insert_length - front->insert_at;

    if (length > 0) {
        length = length < room ? length : room;
        memcpy(out, front->insert + front->insert_at, length);
        front->insert_at += length;
        return length;
    }
    length = front->ready < room ? front->ready : room;
    if (length > 0)
        memcpy(out, front->raw + front->start, length);
    front->start += length;
    front->ready -= length;
    return length;
}

/* In place of the head: a request that http.c knows as refused. */
static void refuse(struct front *front, enum head_fault_row fault, bool is_head)
{
    char words[sizeof front->insert];

    (void)snprintf(words, sizeof words, "%s !%d HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n",
                   is_head ? "HEAD" : "GET", (int)fault);
    insert(front, words);
    front->start = front->end = 0;
    front->state = IN_NOTHING;
    atomic_fetch_add(&front->heads, 1);
}

/* The body goes on no further: one byte of it that was none, for http.c to be called. */
static bool break_off(struct front *front, enum head_fault_row fault)
{
    const bool inside = front->state == IN_BODY || front->state == IN_CHUNK;

    insert(front, inside ? "x" : front->state == AFTER_CHUNK ? "\r\n1\r\nx" : "1\r\nx");
    front->start = front->end = 0;
    front->state = IN_NOTHING;
    atomic_store(&front->broken, (int)fault);
    return true;
}

/* --- The states ----------------------------------------------------------------------------- */

/* A whole head: passed on, without an absolute target's origin and with its cookie renamed. */
static void begin(struct front *front, const struct head *head)
{
    size_t cut = head->origin_length - (head->bare_origin ? 1 : 0);
    char *start = front->raw + front->start;

    if (head->cookie_at)
        start[head->cookie_at] = FRONT_COOKIE[0];
    if (head->origin_length) {
        memmove(start + cut, start, head->origin_at);
        if (head->bare_origin)
            start[cut + head->origin_at] = '/';
        front->start += cut;
    }
    front->ready = head->length - cut;
    front->left = head->body_length;
    front->state = head->chunked ? AT_CHUNK : head->body_length ? IN_BODY : IN_HEAD;
    front->streams = front->stripped = false;
    front->scanned = front->trailer = 0;
    atomic_fetch_add(&front->heads, 1);
}

/* Is there something new to be seen: a line's end, what may be in no head, or a limit reached? Most
 * heads come whole, and are read at once. */
static bool worth_reading(const struct front *front)
{
    const char *bytes = front->raw + front->start;
    const size_t length = available(front), limit = URI_LENGTH_MAX + 64;

    if (front->ended || front->scanned == 0 || length == RAW_SIZE ||
        (front->scanned < limit && length >= limit))
        return true;
    for (size_t i = front->scanned; i < length; i++)
        if ((unsigned char)bytes[i] < 0x20 && bytes[i] != '\r' && bytes[i] != '\t')
            return true;
    return false;
}

static bool read_head(struct front *front)
{
    struct head head;

    if (available(front) == 0)
        return false;
    const char *bytes = front->raw + front->start;
    /* One empty line before a request is some clients' habit after a body (RFC 9112, 2.2). */
    if (!front->stripped && bytes[0] == '\r') {
        if (available(front) == 1 && !front->ended)
            return false;
        front->stripped = true;
        if (available(front) > 1 && bytes[1] == '\n') {
            front->start += 2;
            return true;
        }
    }
    if (!worth_reading(front))
        return false;
    front->scanned = available(front);
    enum head_verdict verdict = head_read(bytes, available(front), front->ended, &head);
    if (verdict == HEAD_MORE)
        return false;
    if (front->crowded)
        refuse(front, HEAD_CROWDED, head.is_head);
    else if (verdict == HEAD_REFUSED)
        refuse(front, head.fault, head.is_head);
    else
        begin(front, &head);
    return true;
}

/* What is there of a body or chunk. */
static bool pass(struct front *front, enum state next)
{
    size_t length = available(front) < front->left ? available(front) : (size_t)front->left;

    if (front->left == 0) {
        front->state = next;
        return true;
    }
    front->ready = length;
    front->left -= length;
    return length > 0;
}

/* The length of a line that is there, without its CR LF; -1: it is not there yet; -2: it is none
 * that may be here. */
static ssize_t line_length(const struct front *front, size_t most)
{
    const size_t length = available(front) < most + 2 ? available(front) : most + 2;

    if (length == 0)
        return -1;
    const char *bytes = front->raw + front->start;
    const char *feed = memchr(bytes, '\n', length);
    if (feed)
        return feed > bytes && feed[-1] == '\r' && !memchr(bytes, '\r', (size_t)(feed - bytes - 1))
                   ? feed - bytes - 1
                   : -2;
    return length == most + 2 ? -2 : -1;
}

static bool read_chunk_line(struct front *front)
{
    ssize_t length = line_length(front, CHUNK_LINE_MAX);
    char line[32];

    if (length == -1)
        return false;
    if (length < 0 || head_chunk_size(front->raw + front->start, (size_t)length, &front->left) < 0)
        return break_off(front, BODY_CHUNK);
    front->start += (size_t)length + 2;
    front->state = front->left ? IN_CHUNK : IN_TRAILER;
    if (front->left) {
        (void)snprintf(line, sizeof line, "%llx\r\n", (unsigned long long)front->left);
        insert(front, line);
    }
    return true;
}

static bool end_chunk(struct front *front)
{
    ssize_t length = line_length(front, 0);

    if (length == -1)
        return false;
    if (length != 0)
        return break_off(front, BODY_CHUNK);
    front->start += 2;
    front->state = AT_CHUNK;
    insert(front, "\r\n");
    return true;
}

/* Trailers are read and left out. */
static bool read_trailer(struct front *front)
{
    ssize_t length = line_length(front, TRAILER_MAX);

    if (length == -1)
        return false;
    if (length < 0 || (front->trailer += (size_t)length) > TRAILER_MAX ||
        (length > 0 && !head_line_valid(front->raw + front->start, (size_t)length)))
        return break_off(front, BODY_TRAILER);
    front->start += (size_t)length + 2;
    if (length == 0) {
        front->state = IN_HEAD;
        insert(front, "0\r\n\r\n");
    }
    return true;
}

/* One step on; false: nothing can be decided without more bytes. */
static bool step(struct front *front)
{
    switch (front->state) {
    case IN_HEAD:
        return read_head(front);
    case IN_BODY:
        return pass(front, IN_HEAD);
    case AT_CHUNK:
        return read_chunk_line(front);
    case IN_CHUNK:
        return pass(front, AFTER_CHUNK);
    case AFTER_CHUNK:
        return end_chunk(front);
    case IN_TRAILER:
        return read_trailer(front);
    case IN_NOTHING:
        front->start = front->end = 0;
        return false;
    }
    return false;
}

/* --- Reading -------------------------------------------------------------------------------- */

/* Is a request only there in part? Then its client's end has to be seen now: the edge that told of
 * the bytes before it may have told of that as well. */
static bool in_between(const struct front *front)
{
    return front->state != IN_NOTHING && (front->state != IN_HEAD || available(front) > 0);
}

/* The client was too slow, or has ended it: what there is of a request is answered. */
static bool give_up(struct front *front, bool late)
{
    if (!in_between(front))
        return false;
    if (front->state != IN_HEAD)
        return break_off(front, late ? BODY_LATE : BODY_ENDS);
    refuse(front, front->crowded ? HEAD_CROWDED : late ? HEAD_LATE : HEAD_ENDS, false);
    return true;
}

/* Reads more behind what is there. */
static ssize_t fill(struct front *front, front_source *read, void *context, bool *drained)
{
    if (!front->raw && !(front->raw = spare_take(SPARE_READ, RAW_SIZE))) {
        errno = ENOMEM;
        return -1;
    }
    if (front->start > 0) {
        memmove(front->raw, front->raw + front->start, available(front));
        front->end -= front->start;
        front->start = 0;
    }
    const size_t room = RAW_SIZE - front->end;
    ssize_t got = read(context, front->raw + front->end, room);
    if (got > 0)
        front->end += (size_t)got;
    *drained = got < 0 || (size_t)got < room;
    return got;
}

/* For front_tick(). `full`: as much was passed on as there was room for. */
static void note(struct front *front, bool moved, bool full)
{
    if (front->state == IN_BODY && front->left == 0 && !pending(front))
        front->state = IN_HEAD; /* it is whole, whether or not anything comes behind it */
    enum phase phase = front->state == IN_NOTHING ? PHASE_OVER
                       : front->state == IN_HEAD  ? available(front) > 0 ? PHASE_HEAD : PHASE_IDLE
                       : full                     ? PHASE_OURS
                                                  : PHASE_BODY;

    const enum phase before = (enum phase)atomic_load(&front->phase);
    const bool in_body = (phase == PHASE_BODY || phase == PHASE_OURS) &&
                         (before == PHASE_BODY || before == PHASE_OURS);
    /* A body that is kept in memory has one time for all of it; one that streams, for each pause.
     */
    if (in_body ? front->streams && (moved || phase != before)
                : phase != before || (moved && phase == PHASE_IDLE))
        atomic_store_explicit(&front->since_ms, clock_coarse_ms(), memory_order_relaxed);
    if (phase != before)
        atomic_store(&front->phase, (int)phase);
}

static ssize_t front_pull(struct front *front, front_source *read, void *context, char *out,
                          size_t room)
{
    bool drained = false, moved = false;
    unsigned spare = 0;
    size_t made = 0;
    int why = EAGAIN;

    if (!pending(front) && atomic_load(&front->late) && atomic_exchange(&front->late, false))
        (void)give_up(front, true);
    while (made < room) {
        size_t length = emit(front, out + made, room - made);
        made += length;
        if (length > 0 || step(front))
            continue;
        if (front->ended ? !give_up(front, false) : drained && made > 0 && !in_between(front))
            break;
        if (front->ended)
            continue;
        if (front->state == IN_NOTHING && ++spare > SPARE_READS)
            break;
        ssize_t got = fill(front, read, context, &drained);
        why = got < 0 ? errno : why;
        if (got < 0)
            break;
        front->ended = got == 0;
        moved = true;
    }
    note(front, moved, made == room);
    errno = why;
    return made > 0 || front->ended ? (ssize_t)made : -1;
}

ssize_t front_read(int fd, bool tls, front_source *read, void *context, char *out, size_t room,
                   bool *ret_found)
{
    struct front *front = fd >= 0 && fd < FDS_MAX ? atomic_load(&fronts[fd]) : NULL;

    *ret_found = front && front->tls == tls;
    if (!*ret_found)
        return 0;
    ssize_t result = front_pull(front, read, context, out, room);
    int why = errno;
    if (available(front) == 0) {
        spare_give(SPARE_READ, front->raw);
        front->raw = NULL;
        front->start = front->end = 0;
    }
    errno = why;
    return result;
}

/* --- What http.c asks ----------------------------------------------------------------------- */

unsigned front_saw(struct front *front)
{
    if (!front || front->seen == atomic_load(&front->heads))
        return 0;
    return ++front->seen;
}

enum head_fault_row front_refused(const char *target)
{
    char words[8];

    if (target[0] != '!')
        return HEAD_OK;
    for (int row = HEAD_OK + 1; row < N_HEAD_FAULTS; row++) {
        (void)snprintf(words, sizeof words, "!%d", row);
        if (strcmp(target, words) == 0)
            return (enum head_fault_row)row;
    }
    return HEAD_LINE;
}

enum head_fault_row front_broken(const struct front *front, unsigned number)
{
    if (!front || number != atomic_load(&front->heads))
        return HEAD_OK;
    return (enum head_fault_row)atomic_load(&front->broken);
}

void front_streams(struct front *front, unsigned number)
{
    if (front && number == atomic_load(&front->heads))
        front->streams = true;
}

bool front_unread(const struct front *front)
{
    return front && (front->state != IN_HEAD || available(front) > 0);
}

void front_done(struct front *front)
{
    if (!front)
        return;
    atomic_store_explicit(&front->since_ms, clock_coarse_ms(), memory_order_relaxed);
    atomic_fetch_add(&front->done, 1);
}

/* --- Slow clients --------------------------------------------------------------------------- */

void front_tick(struct front *front, const struct front_patience *patience, int64_t now_ms)
{
    enum phase phase = (enum phase)atomic_load(&front->phase);
    const unsigned answering = atomic_load(&front->heads) - atomic_load(&front->done);
    const int64_t most = phase == PHASE_BODY                     ? patience->body_ms
                         : phase == PHASE_HEAD || front->crowded ? patience->head_ms
                                                                 : patience->idle_ms;

    char byte;

    /* While an answer is due it is the server that takes its time. */
    if (phase == PHASE_OVER || phase == PHASE_OURS || answering != (phase == PHASE_BODY ? 1 : 0))
        return;
    ssize_t seen = recvfrom(front->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, NULL, NULL);
    if (seen > 0 || (seen < 0 && now_ms - atomic_load(&front->since_ms) < most))
        return; /* it has sent something that nobody has looked at yet, or may still take its time
                 */
    if (seen < 0 && phase != PHASE_IDLE)
        atomic_store(&front->late, true);
    (void)shutdown(front->fd, SHUT_RD);
}
