/* POST /bottles/{slug}/pause and /resume: asks the supervisor, and hands its answer on. One at a
 * time for a bottle; those that come meanwhile are dealt with after it, by what the state is then.
 * The state itself comes with the supervisor's status, which is ahead of its answer. */
#include "base/clock.h"
#include "base/json.h"
#include "server/engine_internal.h"

enum { ANSWER_MS = 10000 };

struct pausing {
    struct runner *runner;
    struct op *op, *behind;
    int64_t id;
    struct loop_timer deadline;
};

/* It is over; the request is the caller's to answer, and those behind it get their turn. */
static struct op *take(struct runner *runner, struct op **ret_behind)
{
    struct pausing *pausing = runner->pausing;
    struct op *op = pausing->op;

    *ret_behind = pausing->behind;
    loop_timer_cancel(runner->engine->loop, &pausing->deadline);
    runner->pausing = NULL;
    free(pausing);
    return op;
}

void pause_end(struct runner *runner, const char *type, const char *words)
{
    struct op *behind, *op = runner->pausing ? take(runner, &behind) : NULL;

    if (!op)
        return;
    op_refuse(op, type, "%s: %s", runner->slug, words);
    while ((op = ops_take(&behind)))
        op_refuse(op, type, "%s: %s", runner->slug, words);
}

static void on_silent(struct loop_timer *timer)
{
    struct pausing *pausing = timer->data;

    pause_end(pausing->runner, "pause-failed", "its supervisor gave no answer in time");
}

void pause_heard(struct runner *runner, const json_t *packet)
{
    const char *error = json_member_string(packet, "error");
    struct op *behind, *op;
    char words[EGRESS_WORDS_SIZE];

    if (!runner->pausing || json_member_integer(packet, "paused", 0) != runner->pausing->id)
        return;
    op = take(runner, &behind);
    if (error) {
        egress_words(words, sizeof words, error);
        op_refuse(op, "pause-failed", "%s: %s", runner->slug, words);
    } else {
        op->verb = VERB_SHOW; /* once the state is stored */
        runner_dispatch(runner, op);
    }
    while ((op = ops_take(&behind)))
        runner_dispatch(runner, op);
}

static void ask(struct runner *runner, struct op *op)
{
    static int64_t last_id;
    struct pausing *pausing = must_alloc(sizeof *pausing);
    struct error err = ERROR_INIT;

    *pausing = (struct pausing){.runner = runner, .op = op, .id = ++last_id};
    pausing->deadline = (struct loop_timer){.callback = on_silent, .data = pausing};
    runner->pausing = pausing;
    if (shim_pause(runner->connection.fd, pausing->id, op->verb == VERB_PAUSE, &err) < 0)
        pause_end(runner, "pause-failed", err.text);
    else
        loop_timer_set(runner->engine->loop, &pausing->deadline, clock_monotonic_ms() + ANSWER_MS);
}

void pause_op(struct runner *runner, struct op *op)
{
    bool pauses = op->verb == VERB_PAUSE;
    enum bottle_state state = runner->row.state;

    if (runner->pausing) {
        struct op **last = &runner->pausing->behind;
        while (*last)
            last = &(*last)->next;
        op->next = NULL;
        *last = op;
    } else if (runner->phase != PHASE_LIVE || !runner->heard || runner->connection.fd < 0 ||
               runner->stop_requested || (state != STATE_RUNNING && state != STATE_PAUSED)) {
        op_refuse(op, "wrong-state",
                  pauses ? "%s is %s: only one that runs can be paused"
                         : "%s is %s: only one that is paused can be resumed",
                  op->slug, states[state].name);
    } else if (state == (pauses ? STATE_PAUSED : STATE_RUNNING)) {
        op_answer_present(runner->engine, op);
    } else {
        ask(runner, op);
    }
}
