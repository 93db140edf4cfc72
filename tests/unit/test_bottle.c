/* States and the bottle object. */
#include <criterion/criterion.h>

#include "api/bottle.h"
#include "base/json.h"
#include "base/util.h"

Test(states, every_row_is_named_and_found)
{
    static const char *const names[] = {"prepared",   "starting", "running", "paused",
                                        "stopping",   "stopped",  "exited",  "failed",
                                        "restarting", "deleting"};

    cr_assert_eq(COUNT_OF(names), N_STATES);
    for (int i = 0; i < N_STATES; i++) {
        cr_expect_str_eq(states[i].name, names[i]);
        cr_expect_eq(state_parse(names[i]), i);
        cr_expect(!(states[i].live && states[i].can_start), "%s", names[i]);
    }
    cr_expect_eq(state_parse("Running"), -1);
    cr_expect_eq(state_parse(""), -1);
}

Test(states, what_can_start)
{
    for (int i = 0; i < N_STATES; i++)
        cr_expect_eq(states[i].can_start, i == STATE_PREPARED || i == STATE_STOPPED ||
                                              i == STATE_EXITED || i == STATE_FAILED ||
                                              i == STATE_RESTARTING);
}

Test(bottle, fresh_one)
{
    const struct bottle bottle = {.slug = "a",
                                  .backend = "qemu",
                                  .guest_ip = "192.168.50.2",
                                  .created_ms = 1767323045678,
                                  .updated_ms = 1767323045678,
                                  .generation = 1};
    CLEANUP_JSON json_t *json = bottle_encode(&bottle);
    CLEANUP_FREE char *text = json_text(json);

    cr_assert_str_eq(
        text,
        "{\"slug\":\"a\",\"state\":\"prepared\",\"reason\":null,\"backend\":\"qemu\","
        "\"accelerator\":null,\"backend_reason\":null,\"engine\":null,\"boot\":null,"
        "\"boot_reason\":null,\"created_at\":"
        "\"2026-01-02T03:04:05.678Z\","
        "\"updated_at\":\"2026-01-02T03:04:05.678Z\",\"started_at\":null,"
        "\"finished_at\":null,\"exit_code\":null,\"guest_ip\":\"192.168.50.2\","
        "\"labels\":{},\"expires_at\":null,\"restarts\":0,\"restart_at\":null,\"generation\":1}");
}

Test(bottle, ended_one)
{
    CLEANUP_JSON json_t *labels = json_pack("{s:s}", "team", "ci");
    const struct bottle bottle = {.slug = "a",
                                  .backend = "qemu",
                                  .accelerator = "tcg",
                                  .engine = "squid",
                                  .reason = "odd \xff bytes",
                                  .state = STATE_EXITED,
                                  .started_ms = 1,
                                  .finished_ms = 2,
                                  .has_exit_code = true,
                                  .exit_code = 0,
                                  .labels = labels,
                                  .generation = 5000000000};
    CLEANUP_JSON json_t *json = bottle_encode(&bottle);

    cr_assert_str_eq(json_member_string(json, "state"), "exited");
    cr_assert_str_eq(json_member_string(json, "engine"), "squid");
    cr_assert_eq(json_member_integer(json, "exit_code", -1), 0, "0 is an exit code, not nothing");
    cr_assert_str_eq(json_member_string(json, "started_at"), "1970-01-01T00:00:00.001Z");
    cr_assert_str_eq(json_member_string(json, "reason"), "odd \xef\xbf\xbd bytes");
    cr_assert_eq(json_member_integer(json, "generation", 0), 5000000000);
    cr_assert_neq(json_object_get(json, "labels"), labels, "a copy: the snapshot's is shared");
    cr_assert(json_equal(json_object_get(json, "labels"), labels));
    cr_assert(json_is_null(json_object_get(json, "guest_ip")));
}
