/* Counters of this process, for GET /metrics: added to from any thread, without a lock.
 *
 * What can be a label is bounded by tables: rows of the routes, statuses that bottled answers with,
 * types of events, states. No client's word ever becomes one. */
#pragma once

#include <stdint.h>

#include "base/text.h"
#include "server/routes.h"

enum metric {
    METRIC_EGRESS_ALLOWED,
    METRIC_EGRESS_DENIED,
    METRIC_EGRESS_BYTES_OUT,
    METRIC_EGRESS_BYTES_IN,
    METRIC_STARTS_COLD,
    METRIC_STARTS_TEMPLATE,
    N_METRICS
};

/* Once, before there are requests; without it they are not counted. */
int metrics_start(void);
void metrics_end(void);
/* A request is over. `route`: NULL when it had none. */
void metrics_request(const struct route *route, unsigned status, int64_t us);
void metrics_add(enum metric metric, int64_t value);
/* An event was stored; its number (server/events.h). */
void metrics_event(int type);
/* A bottle was started ("cold", "template"). */
void metrics_boot(const char *boot);

/* --- The text (https://prometheus.io/docs/instrumenting/exposition_formats/) ------------------ */

/* "# HELP" and "# TYPE" of a family. */
void metrics_head(struct text *out, const char *name, const char *type, const char *help);
/* All that is counted here. */
void metrics_write(struct text *out);
