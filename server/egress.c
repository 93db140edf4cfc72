/* Egress: from a supervisor's packets to events, counters and rows.
 *
 * A guest can make as many connections as it likes; what it can make us write is bounded: the shim
 * sends 64 notes in half a second at most, and a bottle has a budget of events beyond which
 * attempts are only counted, in an egress.lost event. Counters go into the published snapshot with
 * every packet, and into the row every few seconds and at the end. */
#include "server/egress.h"

#include <stdio.h>
#include <string.h>

#include "backends/engines.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/events.h"
#include "server/metrics.h"

enum {
    SAVE_MS = 5000,
    LOST_MS = 5000, /* between two egress.lost */
    NUMBER_MAX_SHIFT = 53,
};

/* --- Reading ---------------------------------------------------------------------------------- */

static int64_t number_of(const json_t *object, const char *key)
{
    json_int_t value = json_member_integer(object, key, 0);
    const json_int_t most = INT64_C(1) << NUMBER_MAX_SHIFT; /* exact in every client's numbers */

    return value < 0 ? 0 : value > most ? most : value;
}

static bool read_note(const json_t *item, struct egress_note *ret)
{
    const char *verdict = json_member_string(item, "verdict");
    const char *host = json_member_string(item, "host");
    const char *rule = json_member_string(item, "rule");
    const char *why = json_member_string(item, "why");
    int64_t port = number_of(item, "port");

    if (!verdict || !host || (strcmp(verdict, "allowed") != 0 && strcmp(verdict, "denied") != 0))
        return false;
    *ret = (struct egress_note){.allowed = verdict[0] == 'a',
                                .port = port <= 65535 ? (int)port : 0,
                                .count = number_of(item, "count"),
                                .bytes_out = number_of(item, "bytes_out"),
                                .bytes_in = number_of(item, "bytes_in"),
                                .last_ms = number_of(item, "last_ms")};
    egress_words(ret->host, sizeof ret->host, host);
    egress_words(ret->rule, sizeof ret->rule, rule ? rule : "");
    egress_words(ret->why, sizeof ret->why, why ? why : "");
    return true;
}

void egress_news_read(const json_t *packet, struct egress_news *ret)
{
    const json_t *totals = json_object_get(packet, "totals");
    const json_t *item;
    size_t i;

    ret->count = 0;
    ret->lost = number_of(packet, "lost");
    ret->totals = (struct egress_totals){.allowed = number_of(totals, "allowed"),
                                         .denied = number_of(totals, "denied"),
                                         .bytes_out = number_of(totals, "bytes_out"),
                                         .bytes_in = number_of(totals, "bytes_in")};
    json_array_foreach(json_object_get(packet, "egress"), i, item)
    {
        if (ret->count == EGRESS_NOTES_MAX)
            ret->lost++;
        else if (read_note(item, &ret->notes[ret->count]))
            ret->count++;
    }
}

json_t *egress_note_encode(const struct egress_note *note)
{
    char stamp[TIMESTAMP_SIZE] = "";
    /* A year that RFC 3339 can write. */
    bool timed = note->last_ms > 0 && note->last_ms < INT64_C(253402300800000);

    if (timed)
        timestamp_format(note->last_ms, stamp);
    return json_pack("{s:s, s:i, s:s?, s:s?, s:I, s:I, s:I, s:s?}", "host", note->host, "port",
                     note->port, "rule", note->rule[0] ? note->rule : NULL, "why",
                     note->why[0] ? note->why : NULL, "count", (json_int_t)note->count, "bytes_out",
                     (json_int_t)note->bytes_out, "bytes_in", (json_int_t)note->bytes_in, "last_at",
                     timed ? stamp : NULL);
}

size_t egress_budget_take(struct egress_budget *budget, size_t wanted, int64_t now_ms)
{
    if (budget->filled_ms == 0) {
        *budget = (struct egress_budget){EGRESS_BURST, now_ms};
    } else if (now_ms - budget->filled_ms >= 1000 / EGRESS_RATE) {
        int64_t more = (now_ms - budget->filled_ms) * EGRESS_RATE / 1000;
        budget->filled_ms += more * 1000 / EGRESS_RATE;
        budget->tokens =
            more > EGRESS_BURST - budget->tokens ? EGRESS_BURST : budget->tokens + more;
    }
    size_t taken = wanted < (size_t)budget->tokens ? wanted : (size_t)budget->tokens;
    budget->tokens -= (int64_t)taken;
    return taken;
}

/* --- The bottle's part ------------------------------------------------------------------------ */

static void tell_lost(struct runner *runner, struct event_list *list, int64_t now_ms)
{
    if (runner->egress_lost == 0)
        return;
    event_list_add(list, "egress.lost",
                   json_pack("{s:I, s:s}", "count", (json_int_t)runner->egress_lost, "why",
                             "more than is stored; they are in the counters of /stats"));
    runner->egress_lost = 0;
    runner->egress_lost_ms = now_ms;
}

static void tell(struct runner *runner, const struct egress_news *news)
{
    struct event_list *list = event_list_new(runner->slug);
    int64_t now = clock_monotonic_ms();
    size_t told = egress_budget_take(&runner->egress_budget, news->count, now);

    for (size_t i = 0; i < told; i++)
        event_list_add(list, news->notes[i].allowed ? "egress.allowed" : "egress.denied",
                       egress_note_encode(&news->notes[i]));
    for (size_t i = told; i < news->count; i++)
        runner->egress_lost += news->notes[i].count;
    runner->egress_lost += news->lost;
    if (now - runner->egress_lost_ms >= LOST_MS)
        tell_lost(runner, list, now);
    event_list_submit(list, runner->engine->app->store);
}

static void on_save(struct loop_timer *timer)
{
    struct runner *runner = timer->data;

    egress_flush(runner);
    runner_save(runner, SAVE_FOLLOW, false, false, NULL);
}

static void rise(int64_t *counter, int64_t value, enum metric metric)
{
    if (value <= *counter)
        return;
    metrics_add(metric, value - *counter);
    *counter = value;
}

void egress_heard(struct runner *runner, const json_t *packet)
{
    struct egress_news *news = must_alloc(sizeof *news);
    struct egress_totals *totals = &runner->row.egress;

    egress_news_read(packet, news);
    tell(runner, news);
    rise(&totals->allowed, news->totals.allowed, METRIC_EGRESS_ALLOWED);
    rise(&totals->denied, news->totals.denied, METRIC_EGRESS_DENIED);
    rise(&totals->bytes_out, news->totals.bytes_out, METRIC_EGRESS_BYTES_OUT);
    rise(&totals->bytes_in, news->totals.bytes_in, METRIC_EGRESS_BYTES_IN);
    free(news);
    runner_publish_counters(runner);
    if (!runner->egress_save.active && runner->phase == PHASE_LIVE) {
        runner->egress_save.callback = on_save;
        runner->egress_save.data = runner;
        loop_timer_set(runner->engine->loop, &runner->egress_save, clock_monotonic_ms() + SAVE_MS);
    }
}

void egress_flush(struct runner *runner)
{
    struct event_list *list = runner->egress_lost ? event_list_new(runner->slug) : NULL;

    tell_lost(runner, list, clock_monotonic_ms());
    event_list_submit(list, runner->engine->app->store);
}

/* --- Sidecars --------------------------------------------------------------------------------- */

void sidecars_told(struct runner *runner, bool ready)
{
    struct event_list *list;

    if (runner->sidecars_ready == ready)
        return;
    runner->sidecars_ready = ready;
    list = event_list_new(runner->slug);
    for (size_t i = 0; i < N_SIDECARS; i++)
        if (runner->row.allocation.host_ports[i])
            event_list_add(list, ready ? "sidecar.ready" : "sidecar.exited",
                           json_pack("{s:s, s:i}", "sidecar", sidecars[i].name, "gateway_port",
                                     (int)sidecars[i].gateway_port));
    event_list_submit(list, runner->engine->app->store);
}

/* --- Changes --- */

/* Whether a file of the plan is the proxy engine's: the only ones that follow from the egress. */
static bool is_engines(const struct plan *plan, const char *name)
{
    for (size_t i = 0; i < n_engines; i++)
        if (engines[i].file && strcmp(engines[i].file, name) == 0)
            return plan->engine && strcmp(engines[i].name, plan->engine) == 0;
    return false;
}

json_t *egress_change_encode(const struct plan *plan)
{
    const json_t *allow = json_object_get(json_object_get(plan->spec.json, "egress"), "allow");
    json_t *files = json_array();

    for (size_t i = 0; i < plan->n_files; i++)
        if (is_engines(plan, plan->files[i].name))
            (void)json_array_append_new(files, json_pack("{s:s, s:s}", "name", plan->files[i].name,
                                                         "content", plan->files[i].content));
    return json_pack("{s:o, s:o}", "rules", allow ? json_deep_copy(allow) : json_array(), "files",
                     files);
}
