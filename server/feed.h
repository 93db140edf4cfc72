/* The live end of the events: the last of them in memory, for any number of readers.
 *
 * A reader has a position and nothing else, so that one which does not read costs nothing: where it
 * is too far behind it goes on from the store (events_scan), and where that has forgotten, too, it
 * is told of the gap. What is here was committed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"
#include "server/events.h"

/* What is kept here at most. */
enum { FEED_EVENTS = 8192, FEED_BYTES = 4 * 1024 * 1024 };

struct feed;

/* Begins with what is stored next, and keeps `rows` of that at most: no more than the store does.
 * The store has to outlive it. NULL on failure. */
struct feed *feed_start(struct store *store, int64_t rows, struct error *err);
void feed_free(struct feed *feed);
/* `ring` is called when there is something new (on the feed's thread); NULL: not any more, from
 * this call's end on. */
void feed_listen(struct feed *feed, void (*ring)(void *context), void *context);

/* A reader comes, or goes. While there is none nothing is read: what happens meanwhile is the
 * store's. Who has come is rung once the feed is at the store's end. */
void feed_join(struct feed *feed);
void feed_leave(struct feed *feed);
/* Adds what the query wants behind query->after to `out` as frames of an event stream, up to about
 * `most` bytes, and moves query->after on. False: what comes next is not here any more. For readers
 * that have joined. */
bool feed_take(struct feed *feed, struct events_query *query, struct text *out, size_t most);
/* One frame. */
void feed_frame(struct text *out, const struct event_seen *seen);
