/* The table of problems, and the object that a client gets. */
#include <criterion/criterion.h>

#include "api/problem.h"
#include "base/json.h"
#include "base/util.h"

Test(problem_types, every_row_is_whole_and_unique)
{
    for (size_t i = 0; i < n_problem_types; i++) {
        const struct problem_type *row = &problem_types[i];
        cr_expect(row->status >= 400 && row->status < 600, "%s", row->name);
        cr_expect(strlen(row->title) > 10, "%s", row->name);
        cr_expect_eq(strspn(row->name, "abcdefghijklmnopqrstuvwxyz-"), strlen(row->name));
        cr_expect_eq(problem_type(row->name), row, "%s is there twice", row->name);
    }
}

Test(problem_types, statuses)
{
    static const struct {
        const char *name;
        int status;
    } cases[] = {{"internal", 500},
                 {"malformed-json", 400},
                 {"invalid-query", 400},
                 {"unauthorized", 401},
                 {"forbidden-host", 403},
                 {"not-found", 404},
                 {"method-not-allowed", 405},
                 {"not-acceptable", 406},
                 {"slug-taken", 409},
                 {"wrong-state", 409},
                 {"precondition-failed", 412},
                 {"body-too-large", 413},
                 {"unsupported-media-type", 415},
                 {"invalid-plan", 422},
                 {"unsupported-rule", 422},
                 {"socket-path-too-long", 422},
                 {"launch-unavailable", 501},
                 {"preflight-failed", 503},
                 {"no-free-port", 503},
                 {"no-free-subnet", 503},
                 {"store-failed", 503},
                 {"too-many-connections", 503},
                 {"timeout", 504},
                 {"boot-failed", 504},
                 {"stage-unwritable", 507},
                 {"not-ready", 503},
                 {"launch-failed", 500},
                 {"forbidden", 403},
                 {"shutting-down", 503}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        cr_expect_str_eq(problem_type(cases[i].name)->name, cases[i].name);
        cr_expect_eq(problem_type(cases[i].name)->status, cases[i].status, "%s", cases[i].name);
    }
    cr_expect_str_eq(problem_type(NULL)->name, "internal");
    cr_expect_str_eq(problem_type("no-such-thing")->name, "internal");
}

Test(problem, whole_object)
{
    struct problem problem = PROBLEM_INIT;

    problem_set(&problem, "wrong-state", "it is %s", "deleting");
    problem_add_member(&problem, "state", json_string("deleting"));
    problem_add_member(&problem, "status", json_integer(200));
    CLEANUP_JSON json_t *json = problem_encode(&problem, "/bottles/x/start");
    CLEANUP_FREE char *text = json_text(json);
    cr_assert_str_eq(text,
                     "{\"type\":\"urn:bottled:problem:wrong-state\",\"title\":\"The bottle's state "
                     "does not allow it\",\"status\":409,\"detail\":\"it is deleting\","
                     "\"instance\":\"/bottles/x/start\",\"state\":\"deleting\"}");
    problem_free(&problem);
    cr_assert_null(problem.type);
    problem_free(&problem);
}

Test(problem, fault_sets_the_type_once)
{
    struct problem a = PROBLEM_INIT, b = PROBLEM_INIT;

    problem_add_fault(&a, "/x", "pattern", "is %d", 1);
    problem_set(&b, "invalid-query", "the query");
    problem_add_fault(&b, "", "pattern", "is wrong");
    cr_assert_str_eq(a.type->name, "invalid-plan");
    cr_assert_str_eq(b.type->name, "invalid-query");
    problem_free(&a);
    problem_free(&b);
}

Test(problem, detail_is_made_from_the_faults)
{
    struct problem problem = PROBLEM_INIT;

    problem_add_fault(&problem, "", "wrong-type", "expected an object");
    CLEANUP_JSON json_t *whole = problem_encode(&problem, NULL);
    cr_assert_str_eq(json_member_string(whole, "detail"), "the body: expected an object");
    cr_assert_null(json_object_get(whole, "instance"));
    problem_free(&problem);
    problem_add_fault(&problem, "/a", "x", "is bad");
    CLEANUP_JSON json_t *one = problem_encode(&problem, NULL);
    cr_assert_str_eq(json_member_string(one, "detail"), "/a: is bad");
    problem_add_fault(&problem, "/b", "x", "is bad");
    CLEANUP_JSON json_t *two = problem_encode(&problem, NULL);
    cr_assert(strstr(json_member_string(two, "detail"), "2 faults"));
    cr_assert_eq(json_array_size(json_object_get(two, "errors")), 2);
    problem_free(&problem);
    CLEANUP_JSON json_t *none = problem_encode(&problem, NULL);
    cr_assert_eq(json_member_integer(none, "status", 0), 500);
    cr_assert(strlen(json_member_string(none, "detail")) > 0);
}

Test(problem, from_error_takes_kind_and_text)
{
    struct problem problem = PROBLEM_INIT;
    struct error err = ERROR_INIT;

    error_set(&err, "no-free-port", "none left");
    problem_from_error(&problem, &err);
    cr_assert_eq(problem.type->status, 503);
    cr_assert_str_eq(problem.detail, "none left");
    error_set(&err, NULL, "odd");
    problem_from_error(&problem, &err);
    cr_assert_eq(problem.type->status, 500);
}

/* Bytes that are no UTF-8 and words too long never cost the answer. */
Test(problem, odd_text_is_still_answered)
{
    struct problem problem = PROBLEM_INIT;
    char big[4096] = {0};

    for (size_t i = 0; i + 2 < sizeof big; i += 2)
        memcpy(big + i, "\xc3\xa9", 2);
    problem_set(&problem, "internal", "x%s", big);
    problem_add_fault(&problem, "/\xff/\xc3", "pattern", "%s", big);
    CLEANUP_JSON json_t *json = problem_encode(&problem, "/bottles/\xff");
    cr_assert_not_null(json);
    cr_assert_eq(json_string_length(json_object_get(json, "detail")) >= 760, 1);
    const json_t *fault = json_array_get(json_object_get(json, "errors"), 0);
    cr_assert_str_eq(json_member_string(fault, "pointer"), "/\xef\xbf\xbd/\xef\xbf\xbd");
    cr_assert_not_null(json_member_string(fault, "detail"));
    problem_free(&problem);
}
