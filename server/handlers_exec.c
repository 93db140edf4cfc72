/* Programs beside a bottle's command. */
#include "server/handlers.h"

#include <stdlib.h>

#include "api/exec_spec.h"
#include "base/json.h"
#include "base/util.h"
#include "server/accept.h"
#include "server/engine.h"
#include "server/exec_stream.h"

#define JSON_TYPE "application/json"
#define LINES_TYPE "application/x-ndjson"

struct call {
    struct request *request;
    struct exec_spec spec;
    enum exec_form form;
};

static void call_free(struct call *call)
{
    exec_spec_free(&call->spec);
    free(call);
}

static void after_exec(void *context, int fd, const char *id, const struct problem *problem)
{
    struct call *call = context;
    struct request *request = call->request;
    enum exec_form form = call->form;
    char location[128];

    if (problem) {
        call_free(call);
        reply_problem(request, problem);
        return;
    }
    struct exec_stream *stream = exec_stream_new(&call->spec, form, fd, id);
    call_free(call);
    if (!stream) {
        reply_fault(request, "internal", "memory is short");
        return;
    }
    (void)snprintf(location, sizeof location, "/bottles/%s/execs/%s",
                   request_param(request, "slug"), id);
    reply_header(request, "Location", location);
    reply_header(request, "Vary", "Accept");
    reply_stream(request, form == EXEC_DETACHED ? 202 : 200,
                 form == EXEC_LINES ? LINES_TYPE : JSON_TYPE, exec_stream_body(stream));
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

static struct call *read_call(struct request *request)
{
    struct problem problem = PROBLEM_INIT;
    struct error err = ERROR_INIT;
    struct exec_spec spec;
    size_t length;
    const char *bytes = request_body(request, &length);
    CLEANUP_JSON json_t *body = json_parse_request(bytes, length, &err);

    if (!body) {
        reply_error(request, &err);
        return NULL;
    }
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
    *call = (struct call){.request = request, .spec = spec, .form = (enum exec_form)form};
    return call;
}

void handle_exec(struct request *request)
{
    struct call *call = read_call(request);

    if (call)
        engine_exec(request_app(request), request_param(request, "slug"), after_exec, call);
}

static void after_result(void *context, const json_t *result, const struct problem *problem)
{
    struct request *request = context;

    if (problem)
        reply_problem(request, problem);
    else
        reply_json(request, 200, json_deep_copy(result));
}

void handle_exec_result(struct request *request)
{
    engine_exec_result(request_app(request), request_param(request, "slug"),
                       request_param(request, "exec"), after_result, request);
}
