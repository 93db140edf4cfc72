/* The events as an event stream (WHATWG HTML, 9.2): what GET /events answers who accepts that. */
#pragma once

#include "server/app.h"
#include "server/events.h"
#include "server/request.h"

/* A body that begins behind query->after (its slug is copied). NULL when memory is short, or there
 * are as many readers as there may be (max_event_readers). */
struct event_reader;
struct event_reader *event_reader_new(struct app *app, const struct events_query *query,
                                      struct error *err);
struct stream event_reader_stream(struct event_reader *reader);
