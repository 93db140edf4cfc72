/* What is counted for /metrics, and the text of it. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/counter.h"
#include "base/util.h"
#include "server/events.h"
#include "server/metrics.h"

/* Is there exactly this line? */
static bool has_line(const char *text, const char *line)
{
    const size_t length = strlen(line);

    for (const char *at = text; (at = strstr(at, line)); at += length)
        if ((at == text || at[-1] == '\n') && at[length] == '\n')
            return true;
    return false;
}

static const char *write_all_metrics(void)
{
    static struct text out;

    text_free(&out);
    metrics_write(&out);
    cr_assert_not(out.failed);
    return out.data;
}

Test(metrics, nothing_is_counted_before_the_start)
{
    metrics_request(&routes[0], 200, 1);
    cr_expect_null(strstr(write_all_metrics(), "bottled_http_requests_total"));
}

Test(metrics, requests_go_into_their_buckets)
{
    char line[256];

    cr_assert_eq(metrics_start(), 0);
    metrics_request(&routes[0], 200, 500);      /* at the first bound */
    metrics_request(&routes[0], 200, 501);      /* in the second bucket */
    metrics_request(&routes[0], 200, 61000000); /* above all */
    metrics_request(NULL, 999, -5); /* no route, no status that is known, a clock's fault */
    const char *text = write_all_metrics();
    const struct {
        const char *format;
        unsigned count;
    } rows[] = {
        {"bottled_http_requests_total{method=\"%s\",route=\"%s\",status=\"200\"} %u", 3},
        {"bottled_http_request_duration_seconds_bucket{method=\"%s\",route=\"%s\",status=\"200\","
         "le=\"0.0005\"} %u",
         1},
        {"bottled_http_request_duration_seconds_bucket{method=\"%s\",route=\"%s\",status=\"200\","
         "le=\"0.001\"} %u",
         2},
        {"bottled_http_request_duration_seconds_bucket{method=\"%s\",route=\"%s\",status=\"200\","
         "le=\"60\"} %u",
         2},
        {"bottled_http_request_duration_seconds_bucket{method=\"%s\",route=\"%s\",status=\"200\","
         "le=\"+Inf\"} %u",
         3},
        {"bottled_http_request_duration_seconds_count{method=\"%s\",route=\"%s\",status=\"200\"} "
         "%u",
         3},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        CLEANUP_TEXT struct text wanted = TEXT_INIT;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        text_addf(&wanted, rows[i].format, routes[0].method, routes[0].pattern, rows[i].count);
#pragma GCC diagnostic pop
        cr_expect(has_line(text, wanted.data), "%s\n%s", wanted.data, text);
    }
    (void)snprintf(line, sizeof line,
                   "bottled_http_request_duration_seconds_sum{method=\"%s\",route=\"%s\","
                   "status=\"200\"} 61.001001",
                   routes[0].method, routes[0].pattern);
    cr_expect(has_line(text, line), "%s", text);
    cr_expect(has_line(text, "bottled_http_requests_total{method=\"\",route=\"\",status=\"0\"} 1"));
    metrics_end();
}

enum { THREADS = 2 * COUNTER_SHARDS + 1, EACH = 1000 };

static struct counter under_way;

static void *count(void *context)
{
    *(unsigned *)context = counter_shard();
    for (int i = 0; i < EACH; i++) {
        counter_add(&under_way, 1);
        metrics_request(&routes[0], 200, 1);
        counter_add(&under_way, i % 2 ? -1 : 0);
    }
    return NULL;
}

Test(metrics, threads_count_together)
{
    pthread_t threads[THREADS];
    unsigned shards[THREADS], seen = 0;
    char line[256];

    cr_assert_eq(metrics_start(), 0);
    for (size_t i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, count, &shards[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        seen |= 1U << shards[i];
    cr_expect_eq(seen, (1U << COUNTER_SHARDS) - 1, "each has its threads");
    cr_expect_eq(counter_sum(&under_way), THREADS * EACH / 2);
    (void)snprintf(line, sizeof line,
                   "bottled_http_requests_total{method=\"%s\",route=\"%s\",status=\"200\"} %d",
                   routes[0].method, routes[0].pattern, THREADS * EACH);
    const char *text = write_all_metrics();
    cr_expect(has_line(text, line), "%s\n%s", line, text);
    (void)snprintf(line, sizeof line,
                   "bottled_http_request_duration_seconds_sum{method=\"%s\",route=\"%s\","
                   "status=\"200\"} 0.%06d",
                   routes[0].method, routes[0].pattern, THREADS * EACH);
    cr_expect(has_line(text, line), "%s\n%s", line, text);
    metrics_end();
}

Test(metrics, counters)
{
    metrics_add(METRIC_EGRESS_DENIED, 3);
    metrics_add(METRIC_EGRESS_DENIED, -7);
    metrics_add(METRIC_EGRESS_BYTES_IN, INT64_C(1) << 40);
    metrics_boot("cold");
    metrics_boot("template");
    metrics_boot("template");
    metrics_boot("");
    metrics_event(event_type_parse("bottle.running"));
    metrics_event(event_type_parse("no such type"));
    metrics_event(EVENT_TYPES_MAX);
    const char *text = write_all_metrics();
    static const char *const lines[] = {
        "bottled_egress_total{verdict=\"allowed\"} 0",
        "bottled_egress_total{verdict=\"denied\"} 3",
        "bottled_egress_bytes_total{direction=\"in\"} 1099511627776",
        "bottled_starts_total{boot=\"cold\"} 1",
        "bottled_starts_total{boot=\"template\"} 2",
        "bottled_events_total{type=\"bottle.running\"} 1",
        "bottled_events_total{type=\"guest.disk-full\"} 0",
    };
    for (size_t i = 0; i < COUNT_OF(lines); i++)
        cr_expect(has_line(text, lines[i]), "%s\n%s", lines[i], text);
}
