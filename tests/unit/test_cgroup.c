/* Control groups, on folders that stand for the kernel's. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/util.h"
#include "server/cgroup.h"

static char folder[64];

static void make_folder(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/bottled-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    (void)directory_remove(folder, NULL, NULL);
}

static void make_file(const char *group, const char *name, const char *text)
{
    char path[256];

    (void)snprintf(path, sizeof path, "%s/%s", group, name);
    cr_assert_eq(file_write(path, text, strlen(text), 0600, false, NULL), 0);
}

static void expect_file(const char *group, const char *name, const char *text)
{
    char path[256];

    (void)snprintf(path, sizeof path, "%s/%s", group, name);
    CLEANUP_FREE char *got = file_read(path, 256, NULL, NULL);
    cr_assert_not_null(got);
    cr_expect_str_eq(got, text, "%s: %s", name, got);
}

Test(cgroup, limits_come_from_the_plan, .init = make_folder, .fini = remove_folder)
{
    struct host host = {.vm_overhead_mib = 100,
                        .gvproxy_memory_mib = 20,
                        .sidecar_memory_mib = 30,
                        .bottle_pids = 77,
                        .bottle_cpu_weight = 55,
                        .cgroup_controllers = "memory pids"};
    struct plan plan = {.spec = {.memory_mib = 256, .cpus = 2}, .network = {.n_forwards = 2}};
    struct error err = ERROR_INIT;

    (void)snprintf(host.cgroup_parent, sizeof host.cgroup_parent, "%s", folder);
    CLEANUP_FREE char *path = cgroup_path(&host, "/run/b/0123");
    cr_assert_not_null(path);
    cr_assert_eq(mkdir(path, 0700), 0);
    make_file(path, "memory.max", "");
    make_file(path, "pids.max", "");
    cr_expect_eq(cgroup_make(path, &host, &plan, &err), 0, "%s", err.text);
    expect_file(path, "memory.max", "457179136"); /* 256 + 100 + 20 + 2 * 30 MiB */
    expect_file(path, "pids.max", "77");
    (void)snprintf(host.cgroup_controllers, sizeof host.cgroup_controllers, "cpu");
    cr_expect_eq(cgroup_make(path, &host, &plan, &err), -1, "a limit that can't be set");
    cr_expect_not_null(strstr(err.text, "cpu.weight"));
    make_file(path, "cpu.weight", "");
    make_file(path, "cpu.max", "");
    cr_expect_eq(cgroup_make(path, &host, &plan, &err), 0);
    expect_file(path, "cpu.weight", "55");
    expect_file(path, "cpu.max", "300000 100000");
}

Test(cgroup, none_where_there_is_no_parent)
{
    const struct host host = {.cgroups = true};

    cr_expect_null(cgroup_path(&host, "/run/b/0123"));
}

Test(cgroup, switched_off)
{
    struct host host = {.cgroups = false, .cgroup_parent = "/x"};

    cgroup_settle(&host);
    cr_expect_str_eq(host.cgroup_parent, "");
    cr_expect_str_eq(host.cgroup_detail, "the configuration says so");
}

Test(cgroup, removing_what_is_not_there)
{
    cr_expect_eq(cgroup_remove("/nonexistent/group", true), 0);
}
