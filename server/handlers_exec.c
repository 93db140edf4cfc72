/* Programs beside a bottle's command. */
#include "server/handlers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/exec_spec.h"
#include "base/json.h"
#include "base/util.h"
#include "server/accept.h"
#include "server/engine.h"
#include "server/exec_stream.h"
#include "server/idempotency.h"
#include "server/query.h"

#define JSON_TYPE "application/json"
#define LINES_TYPE "application/x-ndjson"

struct call {
    struct request *request;
    struct exec_stream *stream;
    enum exec_form form;
};

static void after_exec(void *context, int fd, const char *id, const struct problem *problem)
{
    struct call call = *(struct call *)context;
    struct request *request = call.request;
    char location[128];

    free(context);
    if (problem) {
        exec_stream_unref(call.stream);
        reply_problem(request, problem);
        return;
    }
    exec_stream_open(call.stream, fd, id);
    (void)snprintf(location, sizeof location, "/bottles/%s/execs/%s",
                   request_param(request, "slug"), id);
    reply_header(request, "Location", location);
    reply_header(request, "Vary", "Accept");
    reply_stream(request, call.form == EXEC_DETACHED ? 202 : 200,
                 call.form == EXEC_LINES ? LINES_TYPE : JSON_TYPE, exec_stream_body(call.stream));
}

/* The form that the client takes; -1 when the request was answered. */
static int choose_form(struct request *request, bool detach)
{
    static const char *const offers[] = {JSON_TYPE, LINES_TYPE};
    int form = accept_choose(request_header(request, "Accept"), offers, COUNT_OF(offers));

    if (form < 0)
        reply_fault(request, "not-acceptable", "an exec is to be had as %s or %s", offers[0],
                    offers[1]);
    if (form < 0)
        return -1;
    return detach ? EXEC_DETACHED : form == 0 ? EXEC_WHOLE : EXEC_LINES;
}

static json_t *read_body(struct request *request)
{
    struct error err = ERROR_INIT;
    size_t length;
    const char *bytes = request_body(request, &length);
    json_t *body = json_parse_request(bytes, length, &err);

    if (!body)
        reply_error(request, &err);
    return body;
}

static struct call *read_call(struct request *request)
{
    struct problem problem = PROBLEM_INIT;
    struct exec_spec spec;
    CLEANUP_JSON json_t *body = read_body(request);

    if (!body)
        return NULL;
    if (exec_spec_decode(body, &spec, &problem) < 0) {
        reply_problem(request, &problem);
        problem_free(&problem);
        return NULL;
    }
    int form = choose_form(request, spec.detach);
    struct call *call = form < 0 ? NULL : calloc(1, sizeof *call);
    if (!call) {
        exec_spec_free(&spec);
        if (form >= 0)
            reply_fault(request, "internal", "memory is short");
        return NULL;
    }
    *call = (struct call){.request = request,
                          .form = (enum exec_form)form,
                          .stream =
                              exec_stream_new(request_app(request), request_param(request, "slug"),
                                              &spec, (enum exec_form)form, &problem)};
    if (call->stream)
        return call;
    reply_problem(request, &problem);
    free(call);
    return NULL;
}

void handle_exec(struct request *request)
{
    struct call *call = read_call(request);

    if (call)
        engine_exec(request_app(request), request_param(request, "slug"), -1, after_exec, call);
}

/* ── one that runs, or has ended ── */

static void after_result(void *context, const json_t *result, const struct problem *problem)
{
    struct request *request = context;

    if (problem)
        reply_problem(request, problem);
    else
        reply_json(request, 200, json_deep_copy(result));
}

static void after_kill(void *context, const json_t *result, const struct problem *problem)
{
    struct request *request = context;
    const char *state = json_member_string(result, "state");

    if (problem)
        reply_problem(request, problem);
    else
        reply_json(request, state && strcmp(state, "running") == 0 ? 202 : 200,
                   json_deep_copy(result));
}

static void ask(struct request *request, const struct exec_note *note, engine_report_done *done)
{
    engine_exec_result(request_app(request), request_param(request, "slug"),
                       request_param(request, "exec"), note, done, request);
}

void handle_exec_result(struct request *request)
{
    ask(request, &(struct exec_note){0}, after_result);
}

void handle_exec_kill(struct request *request)
{
    ask(request, &(struct exec_note){.signal = 9}, after_kill);
}

/* Goes on with what was decoded, or answers with what is wrong with it. */
static void tell(struct request *request, int decoded, const struct exec_note *note,
                 struct problem *problem)
{
    if (decoded < 0)
        reply_problem(request, problem);
    else
        ask(request, note, after_result);
    problem_free(problem);
}

void handle_exec_signal(struct request *request)
{
    struct problem problem = PROBLEM_INIT;
    struct exec_signal sent = {0};
    CLEANUP_JSON json_t *body = read_body(request);

    if (!body)
        return;
    int decoded = exec_signal_decode(body, &sent, &problem);
    if (decoded == 0)
        idempotency_done(request);
    tell(request, decoded, &(struct exec_note){.signal = (uint32_t)sent.number}, &problem);
}

void handle_exec_resize(struct request *request)
{
    struct problem problem = PROBLEM_INIT;
    struct exec_size sent = {0};
    CLEANUP_JSON json_t *body = read_body(request);

    if (!body)
        return;
    int decoded = exec_size_decode(body, &sent, &problem);
    tell(request, decoded,
         &(struct exec_note){.rows = (uint16_t)sent.rows, .columns = (uint16_t)sent.cols},
         &problem);
}

void handle_exec_stdin(struct request *request)
{
    struct problem problem = PROBLEM_INIT;
    struct stream stream;
    size_t length;
    const char *bytes = request_body(request, &length);
    bool eof = false;

    if (query_flag(request, "eof", &eof) < 0)
        return;
    if (exec_feed_new(request_param(request, "slug"), request_param(request, "exec"), bytes, length,
                      eof, &stream, &problem) < 0) {
        reply_problem(request, &problem);
        problem_free(&problem);
        return;
    }
    reply_stream(request, 200, JSON_TYPE, stream);
}
