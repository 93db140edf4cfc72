/* What a supervisor is told, and the jails that it makes of that. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/json.h"
#include "base/util.h"
#include "guest/protocol.h"
#include "shim/jail.h"
#include "shim/limits.h"
#include "shim/protocol.h"
#include "tests/unit/launch_case.h"

/* ── launch spec ── */

Test(launch_spec, decodes)
{
    struct launch launch;
    struct error err = ERROR_INIT;
    struct frame frame;
    struct start_message start;

    cr_assert_eq(launch_decode(good_spec, strlen(good_spec), &launch, &err), 0, "%s", err.text);
    cr_expect_eq(launch.uid, 7);
    cr_expect_eq(launch.n_forwards, 1);
    cr_expect_eq(launch.sidecars[0].host_port, 20001);
    cr_assert_eq(launch.n_rules, 2);
    cr_expect(launch.rules[0].suffix && launch.rules[0].port == 8443);
    cr_expect_str_eq(launch.rules[1].host, "inner.example");
    cr_expect(launch.rules[1].private_ok);
    cr_expect_str_eq(launch.vm.argv[2], "microvm");
    cr_assert_eq(frame_parse(launch.start, launch.start_length, START_PAYLOAD_MAX, &frame),
                 (int64_t)launch.start_length);
    cr_assert_eq(start_message_parse(frame.payload, frame.length, &start), 0);
    cr_expect_str_eq(start.args[2], "exit 7");
    cr_expect_str_eq(start.env[1], "B=a\nb ");
    start_message_free(&start);
    cr_expect_null(launch.template.program.argv);
    cr_expect_eq(launch.template.state_file, -1);
    launch_free(&launch);
}

Test(launch_spec, every_member_is_needed)
{
    static const char *const members[] = {
        "slug",       "run_dir", "log_dir",         "log_bytes", "uid",      "gid",
        "daemon_uid", "token",   "bwrap",           "gvproxy",   "forwards", "sidecars",
        "vm",         "guest",   "boot_timeout_ms", "resources", "rules"};

    for (size_t i = 0; i < COUNT_OF(members); i++) {
        struct launch launch;
        struct error err = ERROR_INIT;
        CLEANUP_JSON json_t *spec = json_parse(good_spec, strlen(good_spec), NULL);
        cr_assert_eq(json_object_del(spec, members[i]), 0);
        CLEANUP_FREE char *text = json_text(spec);
        cr_expect_eq(launch_decode(text, strlen(text), &launch, &err), -1, "%s", members[i]);
        cr_expect_not_null(strstr(err.text, "launch spec"));
    }
}

Test(launch_spec, a_sidecar_is_on_the_loopback_and_nowhere_else)
{
    static const char *const lists[] = {"forwards", "sidecars"};
    static const char *const hosts[] = {"127.0.7.1", "127.0.0.2", "10.0.0.1", "0.0.0.0", ""};

    for (size_t i = 0; i < COUNT_OF(lists); i++)
        for (size_t j = 0; j < COUNT_OF(hosts); j++) {
            struct launch launch;
            struct error err = ERROR_INIT;
            CLEANUP_JSON json_t *spec = json_parse(good_spec, strlen(good_spec), NULL);
            json_t *row = json_array_get(json_object_get(spec, lists[i]), 0);
            cr_assert_eq(json_object_set_new(row, "host", json_string(hosts[j])), 0);
            CLEANUP_FREE char *text = json_text(spec);
            int result = launch_decode(text, strlen(text), &launch, &err);
            cr_expect_eq(result, j == 0 ? 0 : -1, "%s", hosts[j]);
            if (result == 0)
                launch_free(&launch);
            else
                cr_expect(strstr(err.text, "host"), "%s", err.text);
        }
}

/* ── jails ── */

static bool has(const struct argv *argv, const char *one, const char *two, const char *three)
{
    for (size_t i = 0; i + 2 < argv->count; i++)
        if (strcmp(argv->items[i], one) == 0 && (!two || strcmp(argv->items[i + 1], two) == 0) &&
            (!three || strcmp(argv->items[i + 2], three) == 0))
            return true;
    return false;
}

Test(jail, what_each_may_see)
{
    struct launch launch;
    struct argv cell = ARGV_INIT, vm = ARGV_INIT, sidecar = ARGV_INIT;

    cr_assert_eq(launch_decode(good_spec, strlen(good_spec), &launch, NULL), 0);
    launch.net_dir = "net";
    launch.proxy_dir = "proxy";
    launch.config_dir = "config";
    jail_cell(&cell, &launch);
    jail_vm(&vm, &launch, &launch.vm);
    jail_sidecar(&sidecar, &launch, &launch.sidecars[0].program);
    const struct argv *const jails[] = {&cell, &vm, &sidecar};
    for (size_t i = 0; i < COUNT_OF(jails); i++) {
        cr_expect(has(jails[i], "--unshare-user", NULL, NULL));
        cr_expect(has(jails[i], "--unshare-pid", NULL, NULL));
        cr_expect(has(jails[i], "--die-with-parent", NULL, NULL));
        cr_expect(has(jails[i], "--clearenv", NULL, NULL));
        cr_expect(has(jails[i], "--cap-drop", "ALL", NULL));
        cr_expect(has(jails[i], "--remount-ro", "/", NULL));
        cr_expect(has(jails[i], "--seccomp", "10", NULL));
        cr_expect(has(jails[i], "/proc/self/exe", "--limited", "core=1"));
        cr_expect(has(jails[i], "nproc=300", NULL, NULL));
    }
    cr_expect(has(&cell, "--unshare-net", NULL, NULL));
    cr_expect(has(&vm, "--unshare-net", NULL, NULL));
    cr_expect_not(has(&sidecar, "--unshare-net", NULL, NULL), "the proxy is the way out");
    cr_expect_not(has(&cell, "--ro-bind", "/usr", "/usr"), "a static gvproxy needs no library");
    cr_expect(has(&cell, "11", "12", "8888"));
    cr_expect_not(has(&sidecar, "--bind", "net", NULL), "the proxy has no business with the wire");
    cr_expect(has(&sidecar, "--bind", "proxy/pipelock", "/run/proxy"), "a directory of its own");
    cr_expect_not(has(&sidecar, "--bind", "proxy", NULL));
    cr_expect_not(has(&vm, "--dev-bind", "/dev/kvm", NULL));
    argv_free(&cell);
    argv_free(&vm);
    argv_free(&sidecar);
    launch_free(&launch);
}

Test(jail, limits_come_from_the_spec)
{
    struct launch launch;
    struct argv cell = ARGV_INIT, vm = ARGV_INIT, sidecar = ARGV_INIT, own = ARGV_INIT;

    cr_assert_eq(launch_decode(good_spec, strlen(good_spec), &launch, NULL), 0);
    limits_add(&cell, LIMITS_GVPROXY, &launch);
    limits_add(&vm, LIMITS_VM, &launch);
    limits_add(&sidecar, LIMITS_SIDECAR, &launch);
    cr_expect(has(&cell, "data=104857600", NULL, NULL));
    cr_expect(has(&vm, "data=335544320", NULL, NULL));
    cr_expect(has(&sidecar, "data=209715200", NULL, NULL));
    cr_expect(has(&cell, "fsize=0", NULL, NULL));
    launch.uid = 0; /* the user's own processes count too: no such limit */
    limits_add(&own, LIMITS_GVPROXY, &launch);
    cr_expect_not(has(&own, "nproc=300", NULL, NULL));
    argv_free(&cell);
    argv_free(&vm);
    argv_free(&sidecar);
    argv_free(&own);
    launch_free(&launch);
}
