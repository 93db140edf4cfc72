/* GET /metrics: what is counted (server/metrics.c), and what is looked up now: bottles by state,
 * connections, sessions, and the process itself by the names that Prometheus's own clients use. */
#include "server/handlers.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/util.h"
#include "server/app.h"
#include "server/metrics.h"
#include "server/registry.h"
#include "server/request_internal.h"

enum { PROC_MAX = 4096 };

static void gauge(struct text *out, const char *name, const char *help, int64_t value)
{
    metrics_head(out, name, "gauge", help);
    text_addf(out, "%s %lld\n", name, (long long)value);
}

static void write_bottles(struct text *out, struct registry *registry)
{
    size_t counts[N_STATES];

    registry_states(registry, counts);
    metrics_head(out, "bottled_bottles", "gauge", "Bottles by state.");
    for (int i = 0; i < N_STATES; i++)
        text_addf(out, "bottled_bottles{state=\"%s\"} %zu\n", states[i].name, counts[i]);
}

static void write_doors(struct text *out, struct http *http)
{
    struct access_counts counts;
    int64_t connections[2] = {0, 0};

    (void)pthread_mutex_lock(&http->lock);
    for (size_t i = 0; i < http->n_listeners; i++)
        connections[http->listeners[i].tcp] += http->listeners[i].n_connections;
    (void)pthread_mutex_unlock(&http->lock);
    metrics_head(out, "bottled_http_connections", "gauge", "Open connections.");
    text_addf(out,
              "bottled_http_connections{listener=\"unix\"} %lld\n"
              "bottled_http_connections{listener=\"tcp\"} %lld\n",
              (long long)connections[0], (long long)connections[1]);
    access_count(http->access, &counts);
    gauge(out, "bottled_sessions", "Browsers' sessions that are open.", counts.sessions);
    gauge(out, "bottled_tokens", "Tokens that there are.", counts.tokens);
    metrics_head(out, "bottled_refused_tokens_total", "counter",
                 "Tokens that did not hold: wrong ones, and those that came while the address had "
                 "to wait.");
    text_addf(out,
              "bottled_refused_tokens_total{why=\"wrong\"} %llu\n"
              "bottled_refused_tokens_total{why=\"limited\"} %llu\n",
              (unsigned long long)counts.wrong, (unsigned long long)counts.limited);
}

static int64_t count_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int64_t count = 0;

    if (!folder)
        return -1;
    while (readdir(folder))
        count++;
    (void)closedir(folder);
    return count - 3; /* ".", "..", and the folder's own */
}

static void write_process(struct text *out, const struct app *app)
{
    CLEANUP_FREE char *statm = file_read("/proc/self/statm", PROC_MAX, NULL, NULL);
    long long size = 0, resident = 0, page = sysconf(_SC_PAGESIZE);
    struct rusage usage = {0};
    struct rlimit files = {0};

    char *end = NULL;
    if (statm) {
        size = strtoll(statm, &end, 10);
        resident = strtoll(end, NULL, 10);
    }
    (void)getrusage(RUSAGE_SELF, &usage);
    (void)getrlimit(RLIMIT_NOFILE, &files);
    gauge(out, "process_resident_memory_bytes", "Resident memory.", resident * page);
    gauge(out, "process_virtual_memory_bytes", "Address space.", size * page);
    gauge(out, "process_open_fds", "Open descriptors.", count_descriptors());
    gauge(out, "process_max_fds", "Descriptors that may be open.", (int64_t)files.rlim_cur);
    metrics_head(out, "process_start_time_seconds", "gauge", "When it began, since 1970.");
    text_addf(out, "process_start_time_seconds %lld.%03lld\n", (long long)app->started_ms / 1000,
              (long long)app->started_ms % 1000);
    const long long us = ((long long)usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
                         usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    metrics_head(out, "process_cpu_seconds_total", "counter", "Processor time.");
    text_addf(out, "process_cpu_seconds_total %lld.%06lld\n", us / 1000000, us % 1000000);
}

void handle_metrics(struct request *request)
{
    struct app *app = request_app(request);
    CLEANUP_TEXT struct text out = TEXT_INIT;

    metrics_head(&out, "bottled_build_info", "gauge", "Always 1; the version is its label.");
    text_add(&out, "bottled_build_info{version=\"" BOTTLED_VERSION "\"} 1\n");
    write_bottles(&out, app->registry);
    metrics_write(&out);
    write_doors(&out, request->http);
    write_process(&out, app);
    reply_text(request, 200, "text/plain; version=0.0.4; charset=utf-8", text_take(&out));
}
