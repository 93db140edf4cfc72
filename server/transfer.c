#include "server/transfer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/number.h"
#include "base/util.h"
#include "guest/files.h"
#include "server/egress.h"
#include "server/engine.h"
#include "server/exec_wire.h"
#include "server/log.h"
#include "server/request.h"

enum {
    HEAD_SIZE = 128,
    WORDS_SIZE = 400,
    WORDS_BYTES_MAX = 64 * 1024, /* more is no honest guest's */
    EXIT_FIXED_SIZE = 13,
    LAST_DAY = 2932896, /* of the year 9999 */
};

static const struct {
    const char *name;
    unsigned args; /* bits: 1 path, 2 mode, 4 owner */
    bool input;
} verbs[N_TRANSFER_VERBS] = {
    [TRANSFER_GET] = {"get", 1, false},
    [TRANSFER_PUT] = {"put", 1 | 2 | 4, true},
    [TRANSFER_PACK] = {"pack", 1, false},
    [TRANSFER_UNPACK] = {"unpack", 1 | 4, true},
};

static const char *const outcome_problems[] = {
    [FILES_MISSING] = "file-not-found", [FILES_REFUSED] = "file-refused",
    [FILES_FULL] = "guest-full",        [FILES_BAD_ARCHIVE] = "archive-refused",
    [FILES_FAILED] = "files-failed",
};

struct transfer {
    atomic_uint references;
    struct app *app;
    char slug[SLUG_MAX + 1];
    enum transfer_verb verb;
    struct exec_wire wire;
    char head[HEAD_SIZE];
    size_t n_head;
    bool headed;
    struct transfer_head said;
    uint64_t counts[3];
    const uint8_t *piece; /* of the frame that was taken last: still to be passed on */
    size_t n_piece;
    uint64_t passed; /* bytes of content, either way */
    char words[WORDS_SIZE];
    size_t n_words;
    uint64_t n_noise; /* bytes of words in all */
    int64_t waits_ms; /* since when the guest is waited for; 0: it is not */
    bool input_ended;
    bool done;   /* the guest has said that it is done */
    bool failed; /* `problem` says why */
    struct problem problem;
    pthread_mutex_t lock; /* guards `refusal`, the engine's */
    struct problem refusal;
};

static atomic_uint n_transfers;

/* ── faults ── */

static void fail(struct transfer *transfer, const char *type, const char *words)
{
    if (transfer->failed)
        return;
    transfer->failed = true;
    problem_set(&transfer->problem, type, "%s: %s", transfer->slug, words);
    /* Before that the client gets the words. */
    if (transfer->headed)
        log_event(LEVEL_WARNING, "a copy of files is cut", LOG_TEXT("slug", transfer->slug),
                  LOG_TEXT("verb", verbs[transfer->verb].name), LOG_TEXT("detail", words));
}

static void fail_dishonest(struct transfer *transfer)
{
    fail(transfer, "files-failed", "the guest's agent does not keep to the protocol");
}

/* The socket has ended: the engine refused, or the supervisor is gone. */
static void fail_cut(struct transfer *transfer)
{
    (void)pthread_mutex_lock(&transfer->lock);
    struct problem refusal = problem_ref(&transfer->refusal);
    (void)pthread_mutex_unlock(&transfer->lock);
    if (refusal.type && !transfer->failed) {
        transfer->failed = true;
        transfer->problem = refusal;
        return;
    }
    problem_free(&refusal);
    fail(transfer, "files-failed", "the bottle's supervisor is gone");
}

static void note_progress(struct transfer *transfer)
{
    transfer->waits_ms = 0;
}

/* The guest is waited for, for a while. */
static void note_wait(struct transfer *transfer)
{
    int64_t now = clock_monotonic_ms(), most = transfer->app->config.files_timeout_ms;

    if (transfer->waits_ms == 0)
        transfer->waits_ms = now;
    else if (now - transfer->waits_ms > most)
        fail(transfer, "timeout", "the guest moved nothing for as long as files_timeout allows");
}

/* ── from the guest ── */

static bool next_number(char **at, int64_t max, int64_t *ret)
{
    char *word = strsep(at, " ");

    return word && number_parse(word, 0, max, ret) == 0;
}

/* "SIZE MODE UID GID MTIME" */
static bool parse_file_head(char *at, struct transfer_head *ret)
{
    struct transfer_head head = {0};
    int64_t size = 0, uid, gid, modified;
    char *word = strsep(&at, " ");

    head.sized = word && strcmp(word, "-") != 0;
    if (!word || (head.sized && number_parse(word, 0, INT64_MAX, &size) < 0))
        return false;
    word = strsep(&at, " ");
    if (!word || !*word || strlen(word) > 4 || word[strspn(word, "01234567")])
        return false;
    head.mode = (unsigned)strtoul(word, NULL, 8);
    if (!next_number(&at, UINT32_MAX, &uid) || !next_number(&at, UINT32_MAX, &gid))
        return false;
    /* A time before 1970 is no fault of the guest's. */
    if (!at || number_parse(at, INT64_MIN, INT64_MAX, &modified) < 0)
        return false;
    head.size = (uint64_t)size;
    head.uid = (unsigned)uid;
    head.gid = (unsigned)gid;
    head.modified = modified < 0 || modified / 86400 > LAST_DAY ? 0 : modified;
    *ret = head;
    return true;
}

static bool parse_head(struct transfer *transfer)
{
    char *at = transfer->head, *word = strsep(&at, " ");
    int64_t number;

    if (transfer->verb == TRANSFER_PACK)
        return strcmp(word, "archive") == 0 && !at;
    if (transfer->verb == TRANSFER_GET)
        return strcmp(word, "file") == 0 && at && parse_file_head(at, &transfer->said);
    for (unsigned i = 0; i < 3; i++) {
        if (!next_number(&at, INT64_MAX, &number))
            return false;
        transfer->counts[i] = (uint64_t)number;
    }
    return strcmp(word, "unpacked") == 0 && !at;
}

static void check_size(struct transfer *transfer)
{
    uint64_t most = (uint64_t)transfer->app->config.files_max_bytes;

    if (transfer->said.sized && transfer->said.size > most)
        fail(transfer, "file-too-large",
             "the file is larger than files_max_bytes: use an exec to take a part of it");
}

/* Of the first line; how many bytes it took. */
static size_t take_head(struct transfer *transfer, const uint8_t *bytes, size_t length)
{
    const uint8_t *end = memchr(bytes, '\n', length);
    size_t part = end ? (size_t)(end - bytes) : length;

    if (transfer->verb == TRANSFER_PUT || part >= HEAD_SIZE - transfer->n_head) {
        fail_dishonest(transfer);
        return length;
    }
    memcpy(transfer->head + transfer->n_head, bytes, part);
    transfer->n_head += part;
    transfer->head[transfer->n_head] = '\0';
    if (!end)
        return length;
    transfer->headed = true;
    if (!parse_head(transfer))
        fail_dishonest(transfer);
    else
        check_size(transfer);
    return part + 1;
}

static void take_words(struct transfer *transfer, const uint8_t *bytes, size_t length)
{
    size_t room = WORDS_SIZE - 1 - transfer->n_words;

    transfer->n_noise += length;
    memcpy(transfer->words + transfer->n_words, bytes, length < room ? length : room);
    transfer->n_words += length < room ? length : room;
    if (transfer->n_noise > WORDS_BYTES_MAX)
        fail_dishonest(transfer);
}

static void take_output(struct transfer *transfer, const struct frame *frame)
{
    const uint8_t *bytes = frame->payload + 5;
    size_t length = frame->length - 5, taken = 0;

    transfer->wire.owed += (uint32_t)length;
    if (frame->payload[4] == 2) {
        take_words(transfer, bytes, length);
        return;
    }
    if (!transfer->headed)
        taken = take_head(transfer, bytes, length);
    transfer->piece = bytes + taken;
    transfer->n_piece = length - taken;
    if (transfer->n_piece > 0 && !transfer->failed && verbs[transfer->verb].input)
        fail_dishonest(transfer);
}

static void take_end(struct transfer *transfer, const struct frame *frame)
{
    uint32_t code = get_u32(frame->payload + 4), number = get_u32(frame->payload + 8);
    char raw[WORDS_SIZE], words[EGRESS_WORDS_SIZE];
    size_t length = frame->length - EXIT_FIXED_SIZE;

    if (code == FILES_DONE && number == 0) {
        bool whole = transfer->verb == TRANSFER_PUT || transfer->headed;
        if (transfer->said.sized && transfer->passed != transfer->said.size)
            whole = false;
        if (verbs[transfer->verb].input && !transfer->input_ended)
            whole = false;
        transfer->done = whole;
        if (!whole)
            fail_dishonest(transfer);
        return;
    }
    if (transfer->n_words)
        (void)snprintf(raw, sizeof raw, "%.*s", (int)transfer->n_words, transfer->words);
    else if (length > 0)
        (void)snprintf(raw, sizeof raw, "%.*s", (int)(length < 300 ? length : 300),
                       (const char *)frame->payload + EXIT_FIXED_SIZE);
    else
        (void)snprintf(raw, sizeof raw, "what copies files in the guest ended early (%s %u)",
                       number ? "signal" : "exit code", number ? number : code);
    egress_words(words, sizeof words, raw);
    fail(transfer,
         code > FILES_DONE && code < COUNT_OF(outcome_problems) ? outcome_problems[code]
                                                                : "files-failed",
         words);
}

static void take_frame(struct transfer *transfer, const struct frame *frame)
{
    note_progress(transfer);
    if (frame->type == FRAME_EXEC_OUTPUT && frame->length >= 6)
        take_output(transfer, frame);
    else if (frame->type == FRAME_EXEC_EXIT && frame->length >= EXIT_FIXED_SIZE)
        take_end(transfer, frame);
    else
        fail_dishonest(transfer);
}

/* Takes what is there, up to the next bytes of content. */
static void pump(struct transfer *transfer)
{
    struct frame frame;
    int result = 1;

    wire_flush(&transfer->wire);
    while (!transfer->failed && !transfer->done && transfer->n_piece == 0) {
        result = wire_take(&transfer->wire, &frame);
        if (result <= 0)
            break;
        take_frame(transfer, &frame);
    }
    if (result < 0 && transfer->wire.broken)
        fail_dishonest(transfer);
    else if (result < 0)
        fail_cut(transfer);
    wire_grant(&transfer->wire);
    wire_flush(&transfer->wire);
}

/* ── what the request's thread asks ── */

enum transfer_state transfer_look(struct transfer *transfer, struct problem *problem)
{
    pump(transfer);
    bool ready = verbs[transfer->verb].input ? transfer->done : transfer->headed;
    if (!ready && !transfer->failed)
        note_wait(transfer);
    if (transfer->failed)
        *problem = problem_ref(&transfer->problem);
    return transfer->failed ? TRANSFER_FAILED : ready ? TRANSFER_READY : TRANSFER_WAITS;
}

ssize_t transfer_put(struct transfer *transfer, const char *bytes, size_t length)
{
    pump(transfer);
    if (transfer->failed)
        return -1;
    if (transfer->passed + length > (uint64_t)transfer->app->config.files_max_bytes) {
        fail(transfer, "file-too-large", "a copy may have files_max_bytes bytes");
        return -1;
    }
    size_t put = wire_put_input(&transfer->wire, bytes, length);
    wire_flush(&transfer->wire);
    transfer->passed += put;
    if (put)
        note_progress(transfer);
    else
        note_wait(transfer);
    return transfer->failed ? -1 : (ssize_t)put;
}

void transfer_end_input(struct transfer *transfer)
{
    if (transfer->input_ended)
        return;
    transfer->input_ended = true;
    wire_put(&transfer->wire, FRAME_EXEC_INPUT, NULL, 0);
    wire_flush(&transfer->wire);
}

/* No more than was announced, and of what has no size no more than may be. */
static size_t may_pass(const struct transfer *transfer)
{
    uint64_t most = (uint64_t)transfer->app->config.files_max_bytes;

    if (transfer->said.sized)
        most = transfer->said.size;
    return transfer->n_piece < most - transfer->passed ? transfer->n_piece
                                                       : (size_t)(most - transfer->passed);
}

ssize_t transfer_next(void *context, char *out, size_t room)
{
    struct transfer *transfer = context;

    pump(transfer);
    if (transfer->n_piece > 0) {
        size_t length = may_pass(transfer);
        if (length == 0 && transfer->said.sized)
            fail_dishonest(transfer);
        else if (length == 0)
            fail(transfer, "file-too-large", "it is longer than files_max_bytes");
        if (length > room)
            length = room;
        memcpy(out, transfer->piece, length);
        transfer->piece += length;
        transfer->n_piece -= length;
        transfer->passed += length;
        if (length)
            return (ssize_t)length;
    }
    if (!transfer->failed && !transfer->done)
        note_wait(transfer);
    return transfer->failed ? STREAM_CUT : transfer->done ? STREAM_END : 0;
}

const struct transfer_head *transfer_head(const struct transfer *transfer)
{
    return &transfer->said;
}

void transfer_counts(const struct transfer *transfer, uint64_t ret[3])
{
    memcpy(ret, transfer->counts, sizeof transfer->counts);
}

const int *transfer_fd(const struct transfer *transfer)
{
    return &transfer->wire.fd;
}

/* ── its life ── */

struct transfer *transfer_ref(struct transfer *transfer)
{
    (void)atomic_fetch_add_explicit(&transfer->references, 1, memory_order_relaxed);
    return transfer;
}

void transfer_unref(struct transfer *transfer)
{
    if (atomic_fetch_sub_explicit(&transfer->references, 1, memory_order_acq_rel) != 1)
        return;
    wire_close(&transfer->wire); /* ends the copy, where it has not ended */
    problem_free(&transfer->problem);
    problem_free(&transfer->refusal);
    (void)pthread_mutex_destroy(&transfer->lock);
    free(transfer);
    (void)atomic_fetch_sub(&n_transfers, 1);
}

/* The engine's thread. Of a refusal the supervisor's end of the socket is closed right after. */
static void after_exec(void *context, int stream, const char *id, const struct problem *problem)
{
    struct transfer *transfer = context;

    (void)stream;
    (void)id;
    if (problem) {
        (void)pthread_mutex_lock(&transfer->lock);
        transfer->refusal = problem_ref(problem);
        (void)pthread_mutex_unlock(&transfer->lock);
    }
    transfer_unref(transfer);
}

static void put_exec(struct transfer *transfer, const struct transfer_plan *plan)
{
    const char *const strings[] = {plan->path, plan->mode, plan->owner};
    const char *verb = verbs[plan->verb].name;
    uint8_t fixed[EXEC_FIXED_SIZE - 4] = {0};
    CLEANUP_TEXT struct text payload = TEXT_INIT;
    uint32_t n_args = 1;

    for (unsigned i = 0; i < COUNT_OF(strings); i++)
        n_args += verbs[plan->verb].args >> i & 1;
    put_u32(fixed, EXEC_FILES | (verbs[plan->verb].input ? EXEC_STDIN : 0U));
    put_u32(fixed + 12, n_args);
    text_add_bytes(&payload, fixed, sizeof fixed);
    text_add_bytes(&payload, "", 1); /* no work directory */
    text_add_bytes(&payload, verb, strlen(verb) + 1);
    for (unsigned i = 0; i < COUNT_OF(strings); i++)
        if (verbs[plan->verb].args >> i & 1)
            text_add_bytes(&payload, strings[i] ? strings[i] : "",
                           strlen(strings[i] ? strings[i] : "") + 1);
    wire_put(&transfer->wire, FRAME_EXEC, payload.data, payload.failed ? 0 : payload.length);
    wire_open_window(&transfer->wire);
    wire_flush(&transfer->wire);
}

struct transfer *transfer_new(struct app *app, const char *slug, const struct transfer_plan *plan,
                              struct problem *problem)
{
    struct transfer *transfer = calloc(1, sizeof *transfer);
    int ends[2];

    if (atomic_fetch_add(&n_transfers, 1) >= TRANSFERS_MAX) {
        problem_set(problem, "too-many-copies",
                    "at most %d copies of files go on at once: try again soon", TRANSFERS_MAX);
    } else if (!transfer ||
               socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        problem_set(problem, "internal", "no memory or socket for it is to be had");
    } else {
        transfer->references = 2; /* the caller's and the engine's */
        transfer->app = app;
        (void)snprintf(transfer->slug, sizeof transfer->slug, "%s", slug);
        transfer->verb = plan->verb;
        transfer->wire.fd = ends[0];
        (void)pthread_mutex_init(&transfer->lock, NULL);
        put_exec(transfer, plan);
        engine_exec(app, slug, ends[1], after_exec, transfer);
        return transfer;
    }
    (void)atomic_fetch_sub(&n_transfers, 1);
    free(transfer);
    return NULL;
}
