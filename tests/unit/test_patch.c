/* Merge patches: the table of RFC 7396, and what of a plan may be changed. */
#include <criterion/criterion.h>

#include "api/patch.h"
#include "base/json.h"
#include "base/util.h"

static json_t *parse(const char *text)
{
    struct error err = ERROR_INIT;
    json_t *value = json_parse(text, strlen(text), &err);

    cr_assert(value, "%s: %s", text, err.text);
    return value;
}

/* RFC 7396, appendix A; those whose result is null give NULL here. */
static const struct {
    const char *target, *patch, *result;
} rows[] = {
    {"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
    {"{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}"},
    {"{\"a\":\"b\"}", "{\"a\":null}", "{}"},
    {"{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}"},
    {"{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
    {"{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}"},
    {"{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}"},
    {"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
    {"[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]"},
    {"{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]"},
    {"{\"a\":\"foo\"}", "null", NULL},
    {"{\"a\":\"foo\"}", "\"bar\"", "\"bar\""},
    {"{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}"},
    {"[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}"},
    {"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
};

Test(patch, is_the_rfcs)
{
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        CLEANUP_JSON json_t *target = parse(rows[i].target);
        CLEANUP_JSON json_t *patch = parse(rows[i].patch);
        CLEANUP_JSON json_t *got = json_merge_patch(target, patch);
        CLEANUP_FREE char *text = got ? json_text(got) : NULL;
        CLEANUP_FREE char *before = json_text(target);
        if (rows[i].result)
            cr_expect_str_eq(text, rows[i].result, "%s by %s", rows[i].target, rows[i].patch);
        else
            cr_expect_null(got);
        cr_expect_str_eq(before, rows[i].target, "the target is not touched");
    }
}

static const char spec_text[] = "{\"command\":[\"x\"],\"labels\":{\"a\":\"1\"},"
                                "\"egress\":{\"allow\":[\"old.example\"]}}";

Test(patch, of_a_plan)
{
    struct problem problem = PROBLEM_INIT;
    CLEANUP_JSON json_t *spec = parse(spec_text);
    CLEANUP_JSON json_t *patch =
        parse("{\"labels\":{\"b\":\"2\"},\"egress\":{\"allow\":[\"new.example\"]}}");
    CLEANUP_JSON json_t *got = spec_patch(spec, patch, &problem);
    CLEANUP_FREE char *text = json_text(got);

    cr_assert_null(problem.type);
    cr_expect_str_eq(text, "{\"command\":[\"x\"],\"labels\":{\"a\":\"1\",\"b\":\"2\"},"
                           "\"egress\":{\"allow\":[\"new.example\"]}}");
}

Test(patch, names_all_that_can_not_be_changed)
{
    static const char *const expected[][2] = {
        {"/command", "immutable"}, {"/restart", "immutable"}, {"/a~1b", "unknown-field"}};
    struct problem problem = PROBLEM_INIT;
    CLEANUP_JSON json_t *spec = parse(spec_text);
    CLEANUP_JSON json_t *patch =
        parse("{\"command\":null,\"labels\":null,\"restart\":{},\"a/b\":0}");
    CLEANUP_JSON json_t *got = spec_patch(spec, patch, &problem);
    CLEANUP_FREE char *text = json_text(got);

    cr_expect_str_eq(text, "{\"command\":[\"x\"],\"egress\":{\"allow\":[\"old.example\"]}}");
    cr_assert_eq(json_array_size(problem.errors), COUNT_OF(expected));
    for (size_t i = 0; i < COUNT_OF(expected); i++) {
        const json_t *fault = json_array_get(problem.errors, i);
        cr_expect_str_eq(json_member_string(fault, "pointer"), expected[i][0]);
        cr_expect_str_eq(json_member_string(fault, "code"), expected[i][1]);
    }
    problem_free(&problem);
}

Test(patch, that_is_no_object)
{
    static const char *const patches[] = {"[]", "null", "\"x\"", "1"};

    for (size_t i = 0; i < COUNT_OF(patches); i++) {
        struct problem problem = PROBLEM_INIT;
        CLEANUP_JSON json_t *spec = parse(spec_text);
        CLEANUP_JSON json_t *patch = parse(patches[i]);
        cr_expect_null(spec_patch(spec, patch, &problem));
        cr_expect_str_eq(json_member_string(json_array_get(problem.errors, 0), "pointer"), "");
        problem_free(&problem);
    }
}
