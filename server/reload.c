/* POST /bottles/{slug}/secrets/reload: reads a running bottle's secrets again and has its guest
 * take them. One at a time for a bottle. */
#include "api/exec_spec.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/events.h"
#include "server/secrets.h"

enum { ANSWER_MS = 15000 };

struct reload {
    struct job job;
    struct runner *runner;
    struct op *op; /* NULL: answered already, while its job was under way */
    struct plan_ref *plan;
    struct secret secrets;
    struct problem problem;
    int64_t id;
    int signal;
    bool reading;
    struct loop_timer deadline;
};

static void reload_free(struct reload *reload)
{
    loop_timer_cancel(reload->runner->engine->loop, &reload->deadline);
    secret_free(&reload->secrets);
    problem_free(&reload->problem);
    plan_ref_unref(reload->plan);
    free(reload);
}

/* The request, to be answered by the caller. */
static struct op *take(struct runner *runner)
{
    struct reload *reload = runner->reload;
    struct op *op = reload->op;

    reload->op = NULL;
    if (reload->reading) /* its job has it, until read_back() */
        return op;
    runner->reload = NULL;
    reload_free(reload);
    return op;
}

void reload_end(struct runner *runner, const char *type, const char *words)
{
    struct op *op = runner->reload ? take(runner) : NULL;

    if (op)
        op_refuse(op, type, "%s: %s", runner->slug, words);
}

static void on_silent(struct loop_timer *timer)
{
    struct reload *reload = timer->data;

    reload_end(reload->runner, "secrets-not-applied", "its supervisor gave no answer in time");
}

/* {"secrets": ["NAME", …], "signal": "HUP" | null} */
static json_t *describe(const struct plan *plan)
{
    json_t *names = json_array();

    for (size_t i = 0; plan && i < plan->spec.secrets.count; i++)
        (void)json_array_append_new(names, json_string(plan->spec.secrets.names[i]));
    return json_pack("{s:o, s:s?}", "secrets", names, "signal",
                     plan ? plan->spec.reload_signal : NULL);
}

static void answer(struct runner *runner)
{
    CLEANUP_JSON json_t *described = describe(plan_ref_get(runner->plan, NULL));
    struct event_list *list = event_list_new(runner->slug);
    struct op *op = take(runner);

    if (list)
        event_list_add(list, "secrets.reloaded", json_incref(described));
    event_list_submit(list, runner->engine->app->store);
    if (op)
        op_reported(op, described);
}

void reload_heard(struct runner *runner, const json_t *packet)
{
    const char *error = json_member_string(packet, "error");
    char words[EGRESS_WORDS_SIZE];

    if (!runner->reload || runner->reload->reading ||
        json_member_integer(packet, "secrets", 0) != runner->reload->id)
        return;
    if (!error) {
        answer(runner);
        return;
    }
    egress_words(words, sizeof words, error);
    reload_end(runner, "secrets-not-applied", words);
}

/* --- Reading ---------------------------------------------------------------------------------- */

static void read_work(struct job *job)
{
    struct reload *reload = (struct reload *)job;
    struct error err = ERROR_INIT;
    const struct plan *plan = plan_ref_get(reload->plan, &err);

    if (plan)
        (void)secrets_read(reload->runner->engine->app->secrets, &plan->spec, &reload->secrets,
                           &reload->problem);
    else
        problem_from_error(&reload->problem, &err);
}

/* Hands them over. */
static void hand_over(struct runner *runner)
{
    static int64_t last_id;
    struct reload *reload = runner->reload;
    struct error err = ERROR_INIT;

    if (runner->phase != PHASE_LIVE || runner->connection.fd < 0) {
        reload_end(runner, "wrong-state", "it ended while its secrets were read");
        return;
    }
    CLEANUP_CLOSE int fd = secrets_memfd(&reload->secrets, &err);
    secret_free(&reload->secrets);
    reload->id = ++last_id;
    if (fd < 0 || shim_secrets(runner->connection.fd, reload->id, reload->signal, fd, &err) < 0) {
        reload_end(runner, "secrets-not-applied", err.text);
        return;
    }
    reload->deadline = (struct loop_timer){.callback = on_silent, .data = reload};
    loop_timer_set(runner->engine->loop, &reload->deadline, clock_monotonic_ms() + ANSWER_MS);
}

static void read_back(struct engine *engine, struct message *message)
{
    struct reload *reload = (struct reload *)message;
    struct runner *runner = reload->runner;

    (void)engine;
    runner_job_done(runner);
    reload->reading = false;
    if (!reload->op) {
        runner->reload = NULL;
        reload_free(reload);
    } else if (reload->problem.type) {
        struct problem problem = problem_ref(&reload->problem);
        op_problem(take(runner), &problem);
        problem_free(&problem);
    } else {
        hand_over(runner);
    }
    runner_settle(runner);
}

static int signal_number(const char *name)
{
    int number = 0;
    const char *known;

    for (size_t i = 0; name && (known = exec_signal_name(i, &number)); i++)
        if (strcmp(known, name) == 0)
            return number;
    return 0;
}

void reload_op(struct runner *runner, struct op *op)
{
    struct error err = ERROR_INIT;
    const struct plan *plan = plan_ref_get(runner->plan, &err);

    if (runner->phase != PHASE_LIVE || runner->row.state != STATE_RUNNING || !runner->heard) {
        op_refuse(op, "wrong-state",
                  "%s is %s: it reads its secrets when it is started; only those of a running "
                  "bottle can be read again",
                  op->slug, states[runner->row.state].name);
    } else if (!plan) {
        op_error(op, &err);
    } else if (runner->reload) {
        op_refuse(op, "wrong-state", "the secrets of %s are being read again: wait for it",
                  op->slug);
    } else if (plan->spec.secrets.count == 0) {
        CLEANUP_JSON json_t *described = describe(plan);
        op_reported(op, described);
    } else {
        struct reload *reload = must_alloc(sizeof *reload);
        *reload = (struct reload){.job = {.message.run = read_back, .work = read_work},
                                  .runner = runner,
                                  .op = op,
                                  .plan = plan_ref_ref(runner->plan),
                                  .signal = signal_number(plan->spec.reload_signal),
                                  .reading = true};
        runner->reload = reload;
        runner_work(runner, &reload->job);
    }
}
