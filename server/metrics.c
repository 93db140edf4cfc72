#include "server/metrics.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/counter.h"
#include "base/util.h"
#include "server/events.h"

/* Upper bounds, and how they are written; the last bucket has none. */
static const struct {
    int64_t us;
    const char *words;
} bounds[] = {{500, "0.0005"},  {1000, "0.001"},  {2500, "0.0025"}, {5000, "0.005"},
              {10000, "0.01"},  {25000, "0.025"}, {50000, "0.05"},  {100000, "0.1"},
              {250000, "0.25"}, {500000, "0.5"},  {1000000, "1"},   {2500000, "2.5"},
              {10000000, "10"}, {60000000, "60"}};

/* 0 stands for every other one, which should not be; 499 for a client that left. */
static const unsigned statuses[] = {0,   200, 201, 202, 204, 206, 207, 304, 400, 401, 403, 404,
                                    405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417,
                                    422, 428, 429, 431, 499, 500, 501, 502, 503, 504, 505, 507};

enum { N_BUCKETS = COUNT_OF(bounds) + 1, N_STATUSES = COUNT_OF(statuses) };

struct cell {
    atomic_ullong buckets[N_BUCKETS]; /* each for itself, not summed up */
    atomic_ullong sum_us;
};

/* What the threads of one shard (counter.h) counted. */
struct shard {
    struct cell (*cells)[N_STATUSES]; /* per route, and one more for requests without */
};

static struct shard shards[COUNTER_SHARDS];
static atomic_ullong counters[N_METRICS];
static atomic_ullong events[EVENT_TYPES_MAX];

int metrics_start(void)
{
    for (size_t i = 0; i < COUNTER_SHARDS; i++)
        if (!(shards[i].cells = calloc(n_routes + 1, sizeof *shards[i].cells)))
            return -1;
    return 0;
}

void metrics_end(void)
{
    for (size_t i = 0; i < COUNTER_SHARDS; i++) {
        free(shards[i].cells);
        shards[i].cells = NULL;
    }
}

static void add(atomic_ullong *counter, uint64_t value)
{
    (void)atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

void metrics_request(const struct route *route, unsigned status, int64_t us)
{
    struct cell(*cells)[N_STATUSES] = shards[counter_shard()].cells;
    size_t row = route ? (size_t)(route - routes) : n_routes, column = 1, bucket = 0;

    if (!cells)
        return;
    while (column < N_STATUSES && statuses[column] != status)
        column++;
    column %= N_STATUSES; /* unknown: the first */
    while (bucket < COUNT_OF(bounds) && us > bounds[bucket].us)
        bucket++;
    add(&cells[row][column].buckets[bucket], 1);
    add(&cells[row][column].sum_us, us > 0 ? (uint64_t)us : 0);
}

void metrics_add(enum metric metric, int64_t value)
{
    if (value > 0)
        add(&counters[metric], (uint64_t)value);
}

void metrics_event(int type)
{
    if (type >= 0 && type < EVENT_TYPES_MAX)
        add(&events[type], 1);
}

void metrics_boot(const char *boot)
{
    if (strcmp(boot, "cold") == 0)
        metrics_add(METRIC_STARTS_COLD, 1);
    else if (strcmp(boot, "template") == 0)
        metrics_add(METRIC_STARTS_TEMPLATE, 1);
}

/* --- The text ------------------------------------------------------------------------------- */

void metrics_head(struct text *out, const char *name, const char *type, const char *help)
{
    text_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static uint64_t of(const atomic_ullong *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Of all shards. */
static uint64_t in_bucket(size_t row, size_t column, size_t bucket)
{
    uint64_t count = 0;

    for (size_t i = 0; i < COUNTER_SHARDS; i++)
        count += of(&shards[i].cells[row][column].buckets[bucket]);
    return count;
}

static uint64_t sum_us(size_t row, size_t column)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < COUNTER_SHARDS; i++)
        sum += of(&shards[i].cells[row][column].sum_us);
    return sum;
}

/* The labels of a cell, and how many requests it has. */
static uint64_t describe(size_t row, size_t column, char *ret, size_t size)
{
    const struct route *route = row < n_routes ? &routes[row] : NULL;
    uint64_t count = 0;

    for (size_t i = 0; i < N_BUCKETS; i++)
        count += in_bucket(row, column, i);
    if (count > 0)
        (void)snprintf(ret, size, "method=\"%s\",route=\"%s\",status=\"%u\"",
                       route ? route->method : "", route ? route->pattern : "", statuses[column]);
    return count;
}

static void write_counts(struct text *out)
{
    char labels[256];
    uint64_t count;

    metrics_head(out, "bottled_http_requests_total", "counter",
                 "Requests by route and status; those that never got to a route have none.");
    for (size_t row = 0; row <= n_routes; row++)
        for (size_t column = 0; column < N_STATUSES; column++)
            if ((count = describe(row, column, labels, sizeof labels)))
                text_addf(out, "bottled_http_requests_total{%s} %llu\n", labels,
                          (unsigned long long)count);
}

static void write_histogram(struct text *out, size_t row, size_t column, const char *labels)
{
    static const char name[] = "bottled_http_request_duration_seconds";
    unsigned long long us = sum_us(row, column), count = 0;

    for (size_t i = 0; i < N_BUCKETS; i++) {
        count += in_bucket(row, column, i);
        text_addf(out, "%s_bucket{%s,le=\"%s\"} %llu\n", name, labels,
                  i < COUNT_OF(bounds) ? bounds[i].words : "+Inf", count);
    }
    text_addf(out, "%s_sum{%s} %llu.%06llu\n%s_count{%s} %llu\n", name, labels, us / 1000000,
              us % 1000000, name, labels, count);
}

static void write_durations(struct text *out)
{
    char labels[256];

    metrics_head(out, "bottled_http_request_duration_seconds", "histogram",
                 "From a request's first line until its answer was sent.");
    for (size_t row = 0; row <= n_routes; row++)
        for (size_t column = 0; column < N_STATUSES; column++)
            if (describe(row, column, labels, sizeof labels))
                write_histogram(out, row, column, labels);
}

static void write_counters(struct text *out)
{
    static const struct {
        const char *name, *label, *help; /* help: of the first of a family */
    } rows[N_METRICS] = {
        [METRIC_EGRESS_ALLOWED] = {"bottled_egress_total", "verdict=\"allowed\"",
                                   "Connections that bottles asked their proxy for."},
        [METRIC_EGRESS_DENIED] = {"bottled_egress_total", "verdict=\"denied\"", NULL},
        [METRIC_EGRESS_BYTES_OUT] = {"bottled_egress_bytes_total", "direction=\"out\"",
                                     "Bytes that went through the bottles' proxies."},
        [METRIC_EGRESS_BYTES_IN] = {"bottled_egress_bytes_total", "direction=\"in\"", NULL},
        [METRIC_STARTS_COLD] = {"bottled_starts_total", "boot=\"cold\"",
                                "Starts of bottles that came up, by how they booted."},
        [METRIC_STARTS_TEMPLATE] = {"bottled_starts_total", "boot=\"template\"", NULL},
    };

    for (size_t i = 0; i < N_METRICS; i++) {
        if (rows[i].help)
            metrics_head(out, rows[i].name, "counter", rows[i].help);
        text_addf(out, "%s{%s} %llu\n", rows[i].name, rows[i].label,
                  (unsigned long long)atomic_load(&counters[i]));
    }
}

void metrics_write(struct text *out)
{
    const char *type;

    if (shards[COUNTER_SHARDS - 1].cells) {
        write_counts(out);
        write_durations(out);
    }
    write_counters(out);
    metrics_head(out, "bottled_events_total", "counter", "Events that were stored, by type.");
    for (int i = 0; (type = event_type(i)); i++)
        text_addf(out, "bottled_events_total{type=\"%s\"} %llu\n", type,
                  (unsigned long long)atomic_load(&events[i]));
}
