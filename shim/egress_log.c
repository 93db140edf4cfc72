#include "shim/egress_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/util.h"

enum {
    FRAME_ROOM = 256,  /* of a packet: all but its entries */
    NUMBERS_ROOM = 24, /* of a comma and what a JSON text may grow by */
};

struct entry {
    enum rule_verdict verdict;
    char host[304], rule[RULE_TEXT_SIZE], why[96]; /* "": none */
    uint16_t port;
    uint64_t count, bytes_out, bytes_in;
    int64_t last_ms;
};

struct egress_log {
    struct entry entries[EGRESS_ENTRIES];
    size_t n_entries;
    bool news;
    uint64_t lost, allowed, denied, bytes_out, bytes_in;
};

struct egress_log *egress_log_new(void)
{
    return calloc(1, sizeof(struct egress_log));
}

void egress_log_free(struct egress_log *log)
{
    free(log);
}

static void copy(char *ret, size_t size, const char *text)
{
    (void)snprintf(ret, size, "%s", text ? text : "");
}

static bool same(const struct entry *a, const struct entry *b)
{
    return a->verdict == b->verdict && a->port == b->port && strcmp(a->host, b->host) == 0 &&
           strcmp(a->rule, b->rule) == 0 && strcmp(a->why, b->why) == 0;
}

static struct entry *find(struct egress_log *log, const struct entry *like)
{
    for (size_t i = 0; i < log->n_entries; i++)
        if (same(&log->entries[i], like))
            return &log->entries[i];
    if (log->n_entries == EGRESS_ENTRIES)
        return NULL;
    log->entries[log->n_entries] = *like;
    return &log->entries[log->n_entries++];
}

void egress_log_note(struct egress_log *log, const struct egress_note *note, int64_t wall_ms)
{
    struct entry like = {.verdict = note->verdict, .port = note->port};

    if (!log)
        return;
    copy(like.host, sizeof like.host, note->host);
    copy(like.rule, sizeof like.rule, note->rule);
    copy(like.why, sizeof like.why, note->why);
    log->news = true;
    log->bytes_out += note->bytes_out;
    log->bytes_in += note->bytes_in;
    if (!note->again)
        *(note->verdict == RULE_ALLOWED ? &log->allowed : &log->denied) += 1;
    struct entry *entry = find(log, &like);
    if (!entry) {
        log->lost += note->again ? 0 : 1;
        return;
    }
    entry->count += note->again ? 0 : 1;
    entry->bytes_out += note->bytes_out;
    entry->bytes_in += note->bytes_in;
    entry->last_ms = wall_ms;
}

bool egress_log_has_news(const struct egress_log *log)
{
    return log && log->news;
}

static json_t *encode(const struct entry *entry)
{
    return json_pack("{s:s, s:s, s:i, s:s?, s:s?, s:I, s:I, s:I, s:I}", "verdict",
                     rule_verdict_names[entry->verdict], "host", entry->host, "port",
                     (int)entry->port, "rule", entry->rule[0] ? entry->rule : NULL, "why",
                     entry->why[0] ? entry->why : NULL, "count", (json_int_t)entry->count,
                     "bytes_out", (json_int_t)entry->bytes_out, "bytes_in",
                     (json_int_t)entry->bytes_in, "last_ms", (json_int_t)entry->last_ms);
}

/* Adds entries from the first on, as many as fit into `size` bytes. */
static size_t fill(const struct egress_log *log, json_t *list, size_t size)
{
    size_t count = 0, used = FRAME_ROOM;

    for (; count < log->n_entries; count++) {
        json_t *item = encode(&log->entries[count]);
        CLEANUP_FREE char *text = json_text(item);
        used += text ? strlen(text) + NUMBERS_ROOM : size;
        if (used > size || json_array_append_new(list, item) < 0) {
            if (used > size)
                json_decref(item);
            break;
        }
    }
    return count;
}

json_t *egress_log_take(struct egress_log *log, size_t size)
{
    json_t *list = json_array();
    size_t count = list ? fill(log, list, size) : 0;
    json_t *packet = json_pack("{s:o, s:I, s:{s:I, s:I, s:I, s:I}}", "egress", list, "lost",
                               (json_int_t)log->lost, "totals", "allowed", (json_int_t)log->allowed,
                               "denied", (json_int_t)log->denied, "bytes_out",
                               (json_int_t)log->bytes_out, "bytes_in", (json_int_t)log->bytes_in);

    if (!packet)
        return NULL;
    log->lost = 0;
    log->n_entries -= count;
    memmove(log->entries, log->entries + count, log->n_entries * sizeof log->entries[0]);
    log->news = log->n_entries > 0;
    return packet;
}
