/* POST /bottles/{slug}/egress-report: asks the supervisor, which asks the guest, and hands its
 * answer on. One at a time for a bottle. What the supervisor says is checked: it runs as the
 * bottle's user. */
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "shim/protocol.h"

enum { CHECKS_MAX = 64, ANSWER_MS = 15000 };

struct report {
    struct runner *runner;
    struct op *op;
    int64_t id;
    struct loop_timer deadline;
};

static struct op *take(struct runner *runner)
{
    struct report *report = runner->report;
    struct op *op = report->op;

    loop_timer_cancel(runner->engine->loop, &report->deadline);
    runner->report = NULL;
    free(report);
    return op;
}

void report_end(struct runner *runner, const char *type, const char *words)
{
    if (runner->report)
        op_refuse(take(runner), type, "%s: %s", runner->slug, words);
}

static void on_silent(struct loop_timer *timer)
{
    struct report *report = timer->data;

    report_end(report->runner, "report-failed", "its supervisor gave no report in time");
}

json_t *report_encode(const json_t *packet)
{
    static const char *const members[] = {"name", "tried", "expected", "got"};
    const json_t *item;
    json_t *checks = json_array();
    bool passed = true;
    size_t i;

    json_array_foreach(json_object_get(packet, "checks"), i, item)
    {
        bool one = json_is_true(json_object_get(item, "passed"));
        json_t *check = json_object();
        for (size_t k = 0; k < COUNT_OF(members); k++) {
            char words[EGRESS_WORDS_SIZE];
            const char *value = json_member_string(item, members[k]);
            egress_words(words, sizeof words, value ? value : "");
            (void)json_object_set_new(check, members[k], json_string(words));
        }
        (void)json_object_set_new(check, "passed", json_boolean(one));
        (void)json_array_append_new(checks, check);
        passed = passed && one;
        if (i == CHECKS_MAX - 1)
            break;
    }
    return json_pack("{s:b, s:o}", "passed", passed && json_array_size(checks) > 0, "checks",
                     checks);
}

void report_heard(struct runner *runner, const json_t *packet)
{
    const char *error = json_member_string(packet, "error");
    char words[EGRESS_WORDS_SIZE];

    if (!runner->report || json_member_integer(packet, "report", 0) != runner->report->id)
        return;
    if (error) {
        egress_words(words, sizeof words, error);
        report_end(runner, "report-failed", words);
        return;
    }
    CLEANUP_JSON json_t *report = report_encode(packet);
    op_reported(take(runner), report);
}

void report_op(struct runner *runner, struct op *op)
{
    static int64_t last_id;
    struct error err = ERROR_INIT;

    if (runner->phase != PHASE_LIVE || runner->row.state != STATE_RUNNING || !runner->heard) {
        op_refuse(op, "wrong-state", "%s is %s: only a running bottle can be asked", op->slug,
                  states[runner->row.state].name);
        return;
    }
    if (runner->report) {
        op_refuse(op, "wrong-state", "a report of %s is under way: wait for it", op->slug);
        return;
    }
    struct report *report = must_alloc(sizeof *report);
    *report = (struct report){.runner = runner, .op = op, .id = ++last_id};
    report->deadline = (struct loop_timer){.callback = on_silent, .data = report};
    runner->report = report;
    if (shim_report(runner->connection.fd, report->id, &err) < 0)
        report_end(runner, "report-failed", err.text);
    else
        loop_timer_set(runner->engine->loop, &report->deadline, clock_monotonic_ms() + ANSWER_MS);
}
