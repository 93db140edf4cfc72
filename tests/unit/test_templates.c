/* Templates without a machine: the launch spec's part, START's fresh part, QEMU's monitor, and the
 * table of what is there. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "guest/protocol.h"
#include "server/templates_internal.h"
#include "shim/jail.h"
#include "shim/qmp.h"
#include "tests/unit/launch_case.h"

/* What a restored machine must not share is new in each, and nothing of it is left. */
Test(launch_spec, start_is_fresh_when_it_is_sent)
{
    uint8_t entropy[2][START_ENTROPY_SIZE];
    struct error err = ERROR_INIT;

    for (int i = 0; i < 2; i++) {
        struct launch launch;
        struct frame frame;
        struct start_message start;
        cr_assert_eq(launch_decode(good_spec, strlen(good_spec), &launch, &err), 0);
        cr_assert_eq(launch_refresh_start(&launch, &err), 0, "%s", err.text);
        cr_assert_gt(frame_parse(launch.start, launch.start_length, START_PAYLOAD_MAX, &frame), 0);
        cr_assert_eq(start_message_parse(frame.payload, frame.length, &start), 0);
        cr_expect_lt(llabs((long long)start.wall_ms - (long long)clock_wall_ms()), 1000);
        cr_expect_arr_eq(start.mac, "\x5a\x94\xef\0\0\x32", 6);
        memcpy(entropy[i], start.entropy, START_ENTROPY_SIZE);
        start_message_free(&start);
        launch_forget_start(&launch);
        cr_expect_null(launch.start);
        launch_free(&launch);
    }
    cr_expect_arr_neq(entropy[0], entropy[1], START_ENTROPY_SIZE);
}

static json_t *spec_with_template(void)
{
    json_t *spec = json_parse(good_spec, strlen(good_spec), NULL);

    (void)json_object_set_new(json_object_get(spec, "vm"), "template",
                              json_pack("{s:[s, s], s:[[s, s]], s:{s:s}, s:i, s:s, s:i}", "argv",
                                        "/usr/bin/qemu", "-incoming", "binds", "/t/ram", "/vm/ram",
                                        "env", "LD_PRELOAD", "/vm/p.so", "qmp_fd", 6, "state",
                                        "/t/state", "state_fd", 7));
    return spec;
}

Test(launch_spec, a_template_is_another_way_up)
{
    struct launch launch;
    struct error err = ERROR_INIT;
    struct argv cold = ARGV_INIT, warm = ARGV_INIT;
    CLEANUP_JSON json_t *spec = spec_with_template();
    CLEANUP_FREE char *text = json_text(spec);

    cr_assert_eq(launch_decode(text, strlen(text), &launch, &err), 0, "%s", err.text);
    cr_expect_str_eq(launch.template.state, "/t/state");
    launch.net_dir = "net";
    jail_vm(&cold, &launch, &launch.vm);
    jail_vm(&warm, &launch, &launch.template.program);
    bool found[2] = {false, false};
    for (size_t i = 0; i + 2 < warm.count; i++) {
        found[0] |=
            strcmp(warm.items[i], "--ro-bind") == 0 && strcmp(warm.items[i + 2], "/vm/ram") == 0;
        found[1] |=
            strcmp(warm.items[i], "--bind") == 0 && strcmp(warm.items[i + 2], "/vm/ram") == 0;
    }
    cr_expect(found[0] && !found[1], "a template's memory is for reading");
    cr_expect_str_eq(warm.items[warm.count - 1], "-incoming");
    cr_expect_str_eq(cold.items[cold.count - 1], "microvm");
    argv_free(&cold);
    argv_free(&warm);
    launch_free(&launch);
}

Test(launch_spec, half_a_template_is_refused)
{
    static const char *const members[] = {"state", "qmp_fd", "state_fd"};

    for (size_t i = 0; i < COUNT_OF(members); i++) {
        struct launch launch;
        struct error err = ERROR_INIT;
        CLEANUP_JSON json_t *spec = spec_with_template();
        (void)json_object_del(json_object_get(json_object_get(spec, "vm"), "template"), members[i]);
        CLEANUP_FREE char *text = json_text(spec);
        cr_expect_eq(launch_decode(text, strlen(text), &launch, &err), -1, "%s", members[i]);
    }
}

/* --- The monitor ------------------------------------------------------------------------------ */

Test(monitor, what_a_restore_says)
{
    int ends[2];
    char said[1024] = "";
    struct error err = ERROR_INIT;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    cr_assert_eq(qmp_restore(ends[0], 7, &err), 0, "%s", err.text);
    cr_assert_gt(read(ends[1], said, sizeof said - 1), 0);
    cr_expect_not_null(strstr(said, "\"qmp_capabilities\""));
    cr_expect_not_null(strstr(said, "\"x-ignore-shared\""));
    cr_expect_not_null(strstr(said, "\"uri\":\"fd:7\""));
    (void)close(ends[0]);
    (void)close(ends[1]);
}

Test(monitor, answers_are_told_apart)
{
    static const struct {
        const char *said;
        int result;
    } cases[] = {
        {"", -1},
        {"{\"return\": {}}", -1}, /* no whole line yet */
        {"{\"return\": {}}\r\n", 0},
        {"{\"QMP\": {\"version\": {}}}\r\n", 0},
        {"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such device\"}}\r\n", 1},
        {"{\"error\": 3}\n", 1},
        {"what?\n", 0},
    };

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP_TEXT struct text said = TEXT_INIT;
        struct error err = ERROR_INIT;
        text_add(&said, cases[i].said);
        cr_expect_eq(qmp_take_line(&said, &err), cases[i].result, "case %zu", i);
        cr_expect(cases[i].result < 0 || said.length == 0);
        cr_expect_eq(err.text[0] != '\0', cases[i].result == 1);
    }
}

/* A monitor that says an error, in place of QEMU's; and one that is silent. */
Test(monitor, a_save_that_fails_says_why)
{
#define DONE "{\"return\":{}}\n"
    static const char *const answers[] = {
        "{\"QMP\":{}}\n{\"error\":{\"desc\":\"not now\"}}\n", "",
        (DONE DONE DONE DONE "{\"return\":{\"status\":\"failed\"}}\n")};
    static const char *const words[] = {"not now", "no answer", "could not save"};

    for (size_t i = 0; i < COUNT_OF(answers); i++) {
        int ends[2];
        struct error err = ERROR_INIT;
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        cr_assert_eq(write_all(ends[1], answers[i], strlen(answers[i])), 0);
        cr_expect_eq(qmp_save(ends[0], ends[1], clock_monotonic_ms() + 50, &err), -1);
        cr_expect_not_null(strstr(err.text, words[i]), "%s", err.text);
        (void)close(ends[0]);
        (void)close(ends[1]);
    }
}

/* --- The table -------------------------------------------------------------------------------- */

struct world {
    char root[64], other[96];
    struct app app;
};

static void world_make(struct world *world, int64_t max_mib)
{
    *world = (struct world){.root = "/tmp/bottled-unit-XXXXXX"};
    cr_assert_not_null(mkdtemp(world->root));
    world->app.host.state_dir = world->root;
    world->app.config.template_max_mib = max_mib;
    (void)snprintf(world->other, sizeof world->other, "%s/kernel", world->root);
    cr_assert_eq(file_write(world->other, "k", 1, 0600, false, NULL), 0);
}

static void world_remove(struct world *world)
{
    templates_free(&world->app);
    (void)directory_remove(world->root, NULL, NULL);
}

static void world_start(struct world *world)
{
    struct error err = ERROR_INIT;

    cr_assert_eq(templates_start(&world->app, &err), 0, "%s", err.text);
    templates_stop(&world->app);
}

/* A template as an earlier daemon left it: its key is one digit, 64 times. */
static void put(const struct world *world, char digit, size_t kib, time_t used, const char *facts)
{
    char folder[256], path[384];
    const struct timespec times[2] = {{.tv_sec = used}, {.tv_sec = used}};
    CLEANUP_FREE char *bytes = malloc(kib * 1024);

    memset(bytes, 1, kib * 1024);
    (void)snprintf(folder, sizeof folder, "%s/templates/", world->root);
    size_t length = strlen(folder);
    memset(folder + length, digit, 64);
    folder[length + 64] = '\0';
    cr_assert_eq(directory_make(folder, 0700, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/ram", folder);
    cr_assert_eq(file_write(path, bytes, kib * 1024, 0444, false, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/made-from", folder);
    cr_assert_eq(file_write(path, facts, strlen(facts), 0600, false, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/state", folder);
    cr_assert_eq(file_write(path, "s", 1, 0600, false, NULL), 0);
    cr_assert_eq(utimensat(AT_FDCWD, path, times, 0), 0);
}

static bool is_there(const struct world *world, char digit)
{
    char key[SHA256_HEX_SIZE] = "", path[256];

    memset(key, digit, sizeof key - 1);
    (void)snprintf(path, sizeof path, "%s/templates/%s/ram", world->root, key);
    struct template_entry *entry = template_find(world->app.templates, key);
    bool known = entry && entry->state == TEMPLATE_READY;
    cr_expect_eq(known, access(path, F_OK) == 0, "table and disk agree on %c", digit);
    return known;
}

/* The facts as they are now. */
static char *facts_now(const struct world *world)
{
    struct text text = TEXT_INIT;
    CLEANUP_FREE char *boot = file_read("/proc/sys/kernel/random/boot_id", 64, NULL, NULL);

    text_addf(&text, "format 1\nboot %s", boot);
    cr_assert_eq(template_file_line(world->other, &text), 0);
    text_add(&text, "disk 0\nargv []\n");
    return text_take(&text);
}

Test(table, keeps_what_is_true_and_removes_the_rest)
{
    struct world world;
    char path[256];

    world_make(&world, 64);
    CLEANUP_FREE char *facts = facts_now(&world);
    put(&world, 'a', 100, 1000, facts);
    put(&world, 'b', 100, 1000, "boot 11111111-2222-3333-4444-555555555555\n");
    put(&world, 'c', 100, 1000, "file /nonexistent/kernel 1 1.000000000 1\n");
    put(&world, 'd', 100, 1000, "");
    put(&world, 'x', 100, 1000, facts); /* no name of ours */
    (void)snprintf(path, sizeof path, "%s/templates/.making/run", world.root);
    cr_assert_eq(directory_make(path, 0700, NULL), 0);
    world_start(&world);
    cr_expect(is_there(&world, 'a'));
    cr_expect_not(is_there(&world, 'b'));
    cr_expect_not(is_there(&world, 'c'));
    cr_expect_not(is_there(&world, 'd'));
    cr_expect_not(is_there(&world, 'x'));
    cr_expect_eq(access(path, F_OK), -1, "what was half-made is gone");
    world_remove(&world);
}

Test(table, a_file_that_changes_makes_it_stale)
{
    struct world world;

    world_make(&world, 64);
    CLEANUP_FREE char *facts = facts_now(&world);
    put(&world, 'a', 100, 1000, facts);
    world_start(&world);
    cr_expect(is_there(&world, 'a'));
    cr_assert_eq(file_write(world.other, "other", 5, 0600, false, NULL), 0);
    templates_sweep(world.app.templates, "");
    cr_expect_not(is_there(&world, 'a'));
    world_remove(&world);
}

Test(table, the_least_used_go_first)
{
    struct world world;

    world_make(&world, 2);
    CLEANUP_FREE char *facts = facts_now(&world);
    put(&world, 'a', 800, 3000, facts);
    put(&world, 'b', 800, 1000, facts);
    put(&world, 'c', 800, 2000, facts);
    world_start(&world);
    cr_expect(is_there(&world, 'a'));
    cr_expect_not(is_there(&world, 'b'));
    cr_expect(is_there(&world, 'c'));
    world_remove(&world);
}

Test(table, without_room_there_is_none)
{
    struct world world;

    world_make(&world, 0);
    CLEANUP_FREE char *facts = facts_now(&world);
    put(&world, 'a', 100, 1000, facts);
    world_start(&world);
    cr_expect_not(is_there(&world, 'a'));
    world_remove(&world);
}
