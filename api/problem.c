/* Problems: the table of types, and the object that a client gets.
 *
 * A row's name is at once an error's kind, so that whoever finds a fault names its answer, and the
 * edge looks up title and status here. */
#include "api/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/util.h"

/* "internal" is first: it answers for every name that is not here. */
const struct problem_type problem_types[] = {
    {"internal", "Something went wrong inside bottled", 500},
    {"cleanup-failed", "Something of the bottle could not be removed", 500},
    {"malformed-json", "The body is not the JSON that bottled takes", 400},
    {"invalid-query", "The query string is not valid", 400},
    {"bad-request", "The request is not valid HTTP", 400},
    {"unauthorized", "Credentials are missing or wrong", 401},
    {"forbidden", "This client may not use bottled", 403},
    {"forbidden-role", "The client's role does not allow it", 403},
    {"image-forbidden", "The operator did not allow images from there", 403},
    {"forbidden-host", "The Host header names a host that is not served here", 403},
    {"forbidden-origin", "Pages of that origin may change nothing here", 403},
    {"forbidden-csrf", "The change does not show that it comes from the session's page", 403},
    {"not-found", "There is no such thing", 404},
    {"file-not-found", "There is no such path in the guest", 404},
    {"method-not-allowed", "This path does not take that method", 405},
    {"not-acceptable", "None of the accepted media types can be given", 406},
    {"request-timeout", "The request did not come in time", 408},
    {"idempotency-in-progress", "A request of this Idempotency-Key is under way", 409},
    {"idempotency-unknown", "What the request of this Idempotency-Key came to is not known", 409},
    {"slug-taken", "A bottle of that name exists", 409},
    {"wrong-state", "The bottle's state does not allow it", 409},
    {"input-closed", "The program takes no input now", 409},
    {"file-refused", "What is at that path in the guest does not allow it", 409},
    {"image-in-use", "A bottle has the image", 409},
    {"mount-refused", "A directory that the bottle mounts can not be had", 409},
    {"precondition-failed", "What was shown is no longer what is there", 412},
    {"body-too-large", "The body is larger than bottled takes", 413},
    {"file-too-large", "The file or archive is larger than bottled copies", 413},
    {"uri-too-long", "The request's address is too long", 414},
    {"unsupported-media-type", "The body has to be application/json", 415},
    {"expectation-failed", "What the request expects is not met here", 417},
    {"idempotency-key-reused", "The Idempotency-Key was used for another request", 422},
    {"invalid-plan", "The plan is not valid", 422},
    {"invalid-exec", "The program to run is not described as it must be", 422},
    {"image-not-imported", "The plan's image was not imported yet", 422},
    {"image-refused", "The image can not be imported", 422},
    {"secrets-unavailable", "A secret of the plan can not be had", 422},
    {"archive-refused", "The archive can not be unpacked", 422},
    {"unsupported-rule", "The egress proxy can not enforce a rule of the plan", 422},
    {"socket-path-too-long", "A socket's path would be longer than the kernel takes", 422},
    {"too-many-attempts", "Too many wrong tokens came from this address", 429},
    {"headers-too-large", "The request's headers are larger than bottled takes", 431},
    {"launch-failed", "The bottle could not be started", 500},
    {"egress-not-applied", "The running bottle did not take the new egress", 500},
    {"secrets-not-applied", "The running bottle did not take the secrets", 500},
    {"pause-failed", "The bottle's machine could not be paused, or resumed", 500},
    {"report-failed", "The confinement could not be tried from inside the guest", 500},
    {"launch-unavailable", "This backend can prepare a bottle but not start it", 501},
    {"files-failed", "The guest did not copy the files", 502},
    {"preflight-failed", "The host lacks what the bottle needs", 503},
    {"no-free-port", "No host port is free for the bottle's sidecars", 503},
    {"no-free-subnet", "No subnet is free for the bottle", 503},
    {"store-failed", "The state database could not be written", 503},
    {"too-many-bottles", "The limit on bottles is reached", 503},
    {"too-many-execs", "The limit on programs beside the commands is reached", 503},
    {"too-many-copies", "The limit on copies of files is reached", 503},
    {"too-many-imports", "The limit on imports is reached", 503},
    {"too-many-waiters", "The limit on waiting requests is reached", 503},
    {"too-many-readers", "The limit on clients that follow the events is reached", 503},
    {"too-many-connections", "The limit on connections is reached", 503},
    {"not-ready", "bottled can not do its work right now", 503},
    {"shutting-down", "bottled is ending", 503},
    {"timeout", "It did not happen in the time that was given", 504},
    {"boot-failed", "The guest did not come up", 504},
    {"http-version", "This version of HTTP is not spoken here", 505},
    {"guest-full", "There is no room for it in the guest", 507},
    {"stage-unwritable", "The bottle's stage directory could not be written", 507},
};
const size_t n_problem_types = COUNT_OF(problem_types);

const struct problem_type *problem_type(const char *name)
{
    for (size_t i = 0; name && i < n_problem_types; i++)
        if (strcmp(problem_types[i].name, name) == 0)
            return &problem_types[i];
    return &problem_types[0];
}

void problem_vset(struct problem *problem, const char *type, const char *format, va_list args)
{
    problem->type = problem_type(type);
    (void)vsnprintf(problem->detail, sizeof problem->detail, format, args);
}

void problem_set(struct problem *problem, const char *type, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    problem_vset(problem, type, format, args);
    va_end(args);
}

void problem_from_error(struct problem *problem, const struct error *err)
{
    problem_set(problem, err->kind, "%s", err->text);
    if (err->pointer)
        problem_add_fault(problem, err->pointer, "required", "%s", err->text);
}

/* Sets a member from text that may not be UTF-8. */
static int set_text(json_t *object, const char *name, const char *text)
{
    return json_object_set_new(object, name, json_string_lossy(text));
}

void problem_add_fault(struct problem *problem, const char *pointer, const char *code,
                       const char *format, ...)
{
    char words[512];
    va_list args;

    if (!problem->type)
        problem->type = problem_type("invalid-plan");
    if (problem->n_faults++ >= PROBLEM_FAULTS_MAX)
        return;
    va_start(args, format);
    (void)vsnprintf(words, sizeof words, format, args);
    va_end(args);
    if (!problem->errors)
        problem->errors = json_array();
    json_t *fault = json_object();
    (void)set_text(fault, "pointer", pointer);
    (void)set_text(fault, "code", code);
    (void)set_text(fault, "detail", words);
    (void)json_array_append_new(problem->errors, fault);
}

void problem_add_member(struct problem *problem, const char *name, json_t *value)
{
    static const char *const defined[] = {"type",   "title",    "status",
                                          "detail", "instance", "errors"};

    for (size_t i = 0; i < COUNT_OF(defined); i++) {
        if (strcmp(defined[i], name) == 0) {
            json_decref(value);
            return;
        }
    }
    if (!problem->extra)
        problem->extra = json_object();
    (void)json_object_set_new(problem->extra, name, value);
}

struct problem problem_ref(const struct problem *problem)
{
    json_incref(problem->errors);
    json_incref(problem->extra);
    return *problem;
}

void problem_free(struct problem *problem)
{
    json_decref(problem->errors);
    json_decref(problem->extra);
    *problem = (struct problem)PROBLEM_INIT;
}

/* The detail, or one made from the faults. */
static void write_detail(const struct problem *problem, char *ret, size_t size)
{
    const json_t *first = json_array_get(problem->errors, 0);
    const char *pointer = json_member_string(first, "pointer");

    if (problem->detail[0] || !first)
        (void)snprintf(ret, size, "%s",
                       problem->detail[0] ? problem->detail : problem->type->title);
    else if (problem->n_faults == 1)
        (void)snprintf(ret, size, "%s: %s", pointer && *pointer ? pointer : "the body",
                       json_member_string(first, "detail"));
    else if (problem->n_faults <= PROBLEM_FAULTS_MAX)
        (void)snprintf(ret, size, "%zu faults, each named in \"errors\"", problem->n_faults);
    else
        (void)snprintf(ret, size, "%zu faults, the first %d of them named in \"errors\"",
                       problem->n_faults, PROBLEM_FAULTS_MAX);
}

json_t *problem_encode(const struct problem *problem, const char *instance)
{
    struct problem shown = *problem;
    char uri[128], detail[sizeof shown.detail + 512];

    if (!shown.type)
        shown.type = problem_type(NULL);
    write_detail(&shown, detail, sizeof detail);
    (void)snprintf(uri, sizeof uri, PROBLEM_URI_PREFIX "%s", shown.type->name);
    json_t *ret = json_object();
    int failed = set_text(ret, "type", uri) | set_text(ret, "title", shown.type->title) |
                 json_object_set_new(ret, "status", json_integer(shown.type->status)) |
                 set_text(ret, "detail", detail);
    if (instance)
        failed |= set_text(ret, "instance", instance);
    if (shown.errors)
        failed |= json_object_set(ret, "errors", shown.errors);
    if (shown.extra)
        failed |= json_object_update(ret, shown.extra);
    if (!failed)
        return ret;
    json_decref(ret);
    return NULL;
}
