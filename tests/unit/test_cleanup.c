/* The cleanup plan: items, ids, tag, outcomes. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "api/cleanup.h"
#include "base/json.h"
#include "base/util.h"

static void fill(struct cleanup_plan *plan)
{
    (void)snprintf(plan->slug, sizeof plan->slug, "a");
    cr_assert_eq(cleanup_add(plan, CLEANUP_PROCESS, "qemu (pid 12)", "runs", "kill", 0), 0);
    cr_assert_eq(cleanup_add(plan, CLEANUP_PORT, "127.0.0.1:20000", "held", "release", 0), 0);
    cr_assert_eq(cleanup_add(plan, CLEANUP_DIRECTORY, "/s/bottles/a", "files", "remove", 4096), 0);
    cr_assert_eq(cleanup_add(plan, CLEANUP_RECORD, "bottles/a", "row", "delete", 4), 0);
}

Test(cleanup, kinds_are_named)
{
    for (int i = 0; i < N_CLEANUP_KINDS; i++)
        cr_expect(cleanup_kind_names[i] && strlen(cleanup_kind_names[i]) > 3);
}

Test(cleanup, encoded)
{
    struct cleanup_plan plan = {0};

    fill(&plan);
    cleanup_outcome(&plan.items[3], "failed: the disk is full");
    cleanup_outcome(&plan.items[3], "removed");
    CLEANUP_JSON json_t *json = cleanup_encode(&plan);
    cr_assert_str_eq(json_member_string(json, "slug"), "a");
    cr_assert(json_is_false(json_object_get(json, "empty")));
    cr_assert_eq(json_member_integer(json, "total_bytes", 0), 4100);
    const json_t *items = json_object_get(json, "items");
    cr_assert_eq(json_array_size(items), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *item = json_array_get(items, i);
        cr_expect_eq(strlen(json_member_string(item, "id")), 12);
        cr_expect_str_eq(json_member_string(item, "owner"), "a");
        for (size_t k = 0; k < i; k++)
            cr_expect_str_neq(json_member_string(item, "id"),
                              json_member_string(json_array_get(items, k), "id"));
    }
    cr_assert_null(json_object_get(json_array_get(items, 0), "outcome"));
    cr_assert_str_eq(json_member_string(json_array_get(items, 3), "outcome"), "removed");
    cr_assert_str_eq(json_member_string(json_array_get(items, 0), "kind"), "process");
    cleanup_free(&plan);
    cleanup_free(&plan);
}

Test(cleanup, empty)
{
    struct cleanup_plan plan = {.slug = "b"};
    CLEANUP_JSON json_t *json = cleanup_encode(&plan);
    CLEANUP_FREE char *text = json_text(json);

    cr_assert_str_eq(text, "{\"slug\":\"b\",\"empty\":true,\"total_bytes\":0,\"items\":[]}");
}

Test(cleanup, ids_come_from_kind_and_name)
{
    struct cleanup_plan a = {.slug = "a"}, b = {.slug = "b"};

    (void)cleanup_add(&a, CLEANUP_FILE, "/x", "r", "remove", 1);
    (void)cleanup_add(&b, CLEANUP_SOCKET, "/x", "r", "remove", 1);
    (void)cleanup_add(&b, CLEANUP_FILE, "/x", "other words", "remove", 9);
    CLEANUP_JSON json_t *one = cleanup_encode(&a), *two = cleanup_encode(&b);
    const char *id = json_member_string(json_array_get(json_object_get(one, "items"), 0), "id");
    const json_t *others = json_object_get(two, "items");
    cr_assert_str_neq(id, json_member_string(json_array_get(others, 0), "id"));
    cr_assert_str_eq(id, json_member_string(json_array_get(others, 1), "id"));
    cleanup_free(&a);
    cleanup_free(&b);
}

Test(cleanup, tag_is_of_what_would_be_removed)
{
    struct cleanup_plan a = {0}, b = {0};
    char before[17], after[17];

    fill(&a);
    fill(&b);
    cleanup_tag(&a, before);
    cr_assert_eq(strlen(before), 16);
    cr_assert_eq(strspn(before, "0123456789abcdef"), 16);
    b.items[2].bytes = 99;
    cleanup_outcome(&b.items[2], "removed");
    cleanup_tag(&b, after);
    cr_assert_str_eq(before, after, "neither sizes nor outcomes count");
    cr_assert_eq(cleanup_add(&b, CLEANUP_FILE, "/x", "r", "remove", 0), 0);
    cleanup_tag(&b, after);
    cr_assert_str_neq(before, after);
    b.count--;
    free(b.items[b.count].name);
    free(b.items[b.count].reason);
    free(b.items[b.count].action);
    b.items[0].name[11] = '3';
    cleanup_tag(&b, after);
    cr_assert_str_neq(before, after, "another process is another plan");
    b.items[0].name[11] = '2';
    b.slug[0] = 'b';
    cleanup_tag(&b, after);
    cr_assert_str_neq(before, after, "another bottle's is another plan");
    cleanup_free(&a);
    cleanup_free(&b);
}

Test(cleanup, many_items)
{
    struct cleanup_plan plan = {.slug = "a"};
    char name[32];

    for (int i = 0; i < 1000; i++) {
        (void)snprintf(name, sizeof name, "/x/%d\xff", i);
        cr_assert_eq(cleanup_add(&plan, CLEANUP_FILE, name, "r", "remove", 1), 0);
    }
    CLEANUP_JSON json_t *json = cleanup_encode(&plan);
    cr_assert_eq(json_array_size(json_object_get(json, "items")), 1000);
    cr_assert_eq(json_member_integer(json, "total_bytes", 0), 1000);
    cleanup_free(&plan);
}

Test(cleanup, appended)
{
    struct cleanup_plan plan = {0}, more = {0};

    for (int i = 0; i < 3; i++)
        fill(&more);
    cr_assert_eq(cleanup_append(&plan, &more), 0);
    cr_assert_eq(plan.count, 12);
    cr_assert_eq(more.count, 0);
    cleanup_free(&more);
    cr_expect_str_eq(plan.items[11].name, "bottles/a");
    cleanup_free(&plan);
}

Test(cleanup, decoded)
{
    struct cleanup_plan plan = {0}, again = {0};

    fill(&plan);
    cleanup_outcome(&plan.items[0], "killed");
    cleanup_outcome(&plan.items[2], "failed: the disk is full");
    CLEANUP_JSON json_t *json = cleanup_encode(&plan);
    cr_assert_eq(cleanup_add(&again, CLEANUP_PORT, "127.0.0.1:20000", "held", "release", 0), 0);
    cr_assert_eq(cleanup_decode(json, &again), 0);
    cr_assert_eq(again.count, 4);
    cr_expect_eq(again.items[1].kind, CLEANUP_PROCESS);
    cr_expect_str_eq(again.items[1].reason, "runs");
    cr_expect_str_eq(again.items[1].outcome, "killed");
    cr_expect_null(again.items[2].outcome);
    cr_expect_eq(again.items[2].bytes, 4096);
    cleanup_free(&plan);
    cleanup_free(&again);
}

Test(cleanup, not_a_plan)
{
    static const char *const texts[] = {
        "{}", "{\"items\":{}}", "{\"items\":[1]}", "{\"items\":[{\"kind\":\"moon\"}]}",
        "{\"items\":[{\"kind\":\"port\",\"name\":\"a\",\"reason\":\"b\"}]}"};

    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct cleanup_plan plan = {0};
        CLEANUP_JSON json_t *json = json_parse(texts[i], strlen(texts[i]), NULL);
        cr_expect_eq(cleanup_decode(json, &plan), -1, "%s", texts[i]);
        cleanup_free(&plan);
    }
}
