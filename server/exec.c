/* Execs, the engine's part: a running bottle's supervisor gets one end of a socketpair, whoever
 * asked the other, and the engine hears of the end only. What flows between does not pass it.
 *
 * What the supervisor says is checked: it runs as the bottle's user. */
#include <stdio.h>
#include <sys/socket.h>

#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/events.h"

static bool may_ask(struct runner *runner, struct op *op)
{
    if (runner->phase == PHASE_LIVE && runner->row.state == STATE_RUNNING && runner->heard &&
        runner->connection.fd >= 0)
        return true;
    op_refuse(op, "wrong-state", "%s is %s: programs run beside the command of a running bottle",
              op->slug, states[runner->row.state].name);
    return false;
}

/* Then a program can be asked after, and told something that it hears later. */
static bool is_paused(const struct runner *runner)
{
    return runner->phase == PHASE_LIVE && runner->row.state == STATE_PAUSED && runner->heard &&
           runner->connection.fd >= 0;
}

void exec_op(struct runner *runner, struct op *op)
{
    char random[TOKEN_SIZE], id[EXEC_ID_SIZE];
    struct error err = ERROR_INIT;
    int ends[2] = {-1, op->stream};

    if (!may_ask(runner, op))
        return;
    if (shim_token(random, &err) < 0 ||
        (op->stream < 0 &&
         socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)) {
        op_refuse(op, "internal", "no socket for it is to be had");
        return;
    }
    op->stream = -1;
    (void)snprintf(id, sizeof id, "%.16s", random);
    CLEANUP_CLOSE int ours = ends[0], theirs = ends[1];
    if (shim_exec(runner->connection.fd, id, theirs, &err) < 0)
        op_error(op, &err);
    else
        op_streams(op, steal_fd(&ours), id);
}

void exec_result_op(struct runner *runner, struct op *op)
{
    struct error err = ERROR_INIT;

    if (!is_paused(runner) && !may_ask(runner, op))
        return;
    if (shim_exec_result(runner->connection.fd, op->exec_id, &op->exec_note, &err) < 0) {
        op_error(op, &err);
        return;
    }
    op->next = runner->exec_asks;
    runner->exec_asks = op;
}

void exec_end(struct runner *runner, const char *type, const char *words)
{
    for (struct op *op; (op = ops_take(&runner->exec_asks));)
        op_refuse(op, type, "%s: %s", runner->slug, words);
}

static json_t *number_or_null(const json_t *packet, const char *name)
{
    const json_t *value = json_object_get(packet, name);
    json_int_t number = json_integer_value(value);

    return json_is_integer(value) && number >= 0 && number <= 255 ? json_integer(number)
                                                                  : json_null();
}

/* What is told of one, from a packet of the supervisor's. */
static json_t *describe(const json_t *packet, const char *id)
{
    const char *state = json_member_string(packet, "state");
    const char *reason = json_member_string(packet, "reason");
    char words[EGRESS_WORDS_SIZE];

    if (!state || strcmp(state, "ended") != 0)
        return json_pack("{s:s, s:s}", "id", id, "state", "running");
    egress_words(words, sizeof words, reason ? reason : "");
    return json_pack("{s:s, s:s, s:o, s:o, s:b, s:o}", "id", id, "state", "ended", "exit_code",
                     number_or_null(packet, "exit_code"), "signal",
                     number_or_null(packet, "signal"), "timed_out",
                     (int)json_is_true(json_object_get(packet, "timed_out")), "reason",
                     words[0] ? json_string(words) : json_null());
}

static void answer(struct runner *runner, const json_t *packet, const char *id)
{
    const char *state = json_member_string(packet, "state");
    bool unknown = !state || strcmp(state, "unknown") == 0;

    for (struct op **at = &runner->exec_asks; *at;) {
        struct op *op = *at;
        if (strcmp(op->exec_id, id) != 0) {
            at = &op->next;
            continue;
        }
        *at = op->next;
        CLEANUP_JSON json_t *described = describe(packet, id);
        if (unknown)
            op_refuse(op, "not-found", "nothing is known of an exec %s of %s", id, op->slug);
        else
            op_reported(op, described);
    }
}

static bool id_valid(const char *id)
{
    return id && strlen(id) == EXEC_ID_SIZE - 1 &&
           strspn(id, "0123456789abcdef") == EXEC_ID_SIZE - 1;
}

void exec_heard(struct runner *runner, const json_t *packet)
{
    const char *id = json_member_string(packet, "exec");

    if (!id_valid(id))
        return;
    if (json_is_true(json_object_get(packet, "asked"))) {
        answer(runner, packet, id);
        return;
    }
    struct event_list *list = event_list_new(runner->slug);
    if (list)
        event_list_add(list, "exec.finished", describe(packet, id));
    event_list_submit(list, runner->engine->app->store);
}
