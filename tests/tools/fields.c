/* fields: prints the tables that clients see (fields of a plan, problem types, states, kinds of
 * cleanup items, sidecars, routes) as one JSON object, for the test that compares them with
 * openapi.yaml. */
#include <stdio.h>
#include <stdlib.h>

#include "api/bottle.h"
#include "api/cleanup.h"
#include "api/exec_spec.h"
#include "api/plan.h"
#include "base/json.h"
#include "base/util.h"
#include "server/events.h"
#include "server/negotiate.h"
#include "server/routes.h"

static json_t *encode_problems(void)
{
    json_t *ret = json_object();

    for (size_t i = 0; i < n_problem_types; i++)
        json_object_set_new(ret, problem_types[i].name, json_integer(problem_types[i].status));
    return ret;
}

static json_t *encode_names(const char *(*name)(size_t i), size_t count)
{
    json_t *ret = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(ret, json_string(name(i)));
    return ret;
}

static const char *state_name(size_t i)
{
    return states[i].name;
}

static const char *kind_name(size_t i)
{
    return cleanup_kind_names[i];
}

static const char *sidecar_name(size_t i)
{
    return sidecars[i].name;
}

static json_t *encode_signals(void)
{
    json_t *ret = json_array();
    const char *name;
    int number;

    for (size_t i = 0; (name = exec_signal_name(i, &number)); i++)
        json_array_append_new(ret, json_string(name));
    return ret;
}

static json_t *encode_routes(void)
{
    json_t *ret = json_array();

    for (size_t i = 0; i < n_routes; i++) {
        json_t *query = json_array();
        for (size_t k = 0; k < ROUTE_QUERY_MAX && routes[i].query[k].name; k++)
            json_array_append_new(query, json_pack("{s:s, s:i}", "name", routes[i].query[k].name,
                                                   "most", (int)routes[i].query[k].most));
        json_t *media = route_media(&routes[i]) ? json_array() : json_null();
        for (const char *const *one = route_media(&routes[i]); one && *one; one++)
            json_array_append_new(media, json_string(*one));
        json_array_append_new(
            ret, json_pack("{s:s, s:s, s:s, s:b, s:b, s:o, s:o, s:i}", "method", routes[i].method,
                           "path", routes[i].pattern, "role", role_names[routes[i].role], "body",
                           routes[i].body != BODY_NONE, "open", (int)route_open(&routes[i]),
                           "query", query, "media", media, "retry", (int)route_retry(&routes[i])));
    }
    return ret;
}

static json_t *encode_titles(void)
{
    json_t *ret = json_object();

    for (size_t i = 0; i < n_problem_types; i++)
        json_object_set_new(ret, problem_types[i].name, json_string(problem_types[i].title));
    return ret;
}

int main(void)
{
    json_t *events = json_array();

    for (int i = 0; event_type(i); i++)
        json_array_append_new(events, json_string(event_type(i)));
    CLEANUP_JSON json_t *all = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s}", "signals", encode_signals(),
        "events", events, "fields", spec_fields_encode(), "exec", exec_fields_encode(), "problems",
        encode_problems(), "titles", encode_titles(), "states", encode_names(state_name, N_STATES),
        "kinds", encode_names(kind_name, N_CLEANUP_KINDS), "sidecars",
        encode_names(sidecar_name, N_SIDECARS), "routes", encode_routes(), "problem_prefix",
        PROBLEM_URI_PREFIX);
    CLEANUP_FREE char *text = json_text(all);

    return text && puts(text) >= 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
