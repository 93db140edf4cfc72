/* What a supervisor tells of its bottle's egress (shim/protocol.h), checked.
 *
 * The shim runs as the bottle's user, and the hosts in its packets are the guest's words: every
 * string is cut to a length and has no control characters, every number is in bounds, whatever
 * came.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/row.h"

enum { EGRESS_NOTES_MAX = 64, EGRESS_HOST_SIZE = 256, EGRESS_WORDS_SIZE = 264 };

struct egress_note {
    bool allowed;
    char host[EGRESS_HOST_SIZE];
    int port;
    char rule[EGRESS_WORDS_SIZE], why[EGRESS_WORDS_SIZE]; /* "" when there is none */
    int64_t count, bytes_out, bytes_in;
    int64_t last_ms; /* 0: not said */
};

struct egress_news {
    struct egress_note notes[EGRESS_NOTES_MAX];
    size_t count;
    int64_t lost; /* attempts that no note tells of */
    struct egress_totals totals;
};

/* Reads one packet, whatever is in it; what it leaves out is 0. */
void egress_news_read(const json_t *packet, struct egress_news *ret);
/* Copies a stranger's words: cut at a whole character, '?' for control characters of ASCII and of
 * Latin-1 (U+0080 to U+009F). */
void egress_words(char *ret, size_t size, const char *words);
/* The detail of the note's event. The caller owns. */
json_t *egress_note_encode(const struct egress_note *note);

/* How many events a bottle may store: EGRESS_BURST at once, then EGRESS_RATE in a second. */
enum { EGRESS_BURST = 128, EGRESS_RATE = 4 };
struct egress_budget {
    int64_t tokens, filled_ms;
};
/* Takes as many as there are, `wanted` at most. */
size_t egress_budget_take(struct egress_budget *budget, size_t wanted, int64_t now_ms);
