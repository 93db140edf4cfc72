/* The host's directories: which are allowed and how they are found, their order, what the machines
 * and the jails are told of them, and what those that serve them can't do. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/plan.h"
#include "backends/mounts.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "guest/room.h"
#include "renderers/render.h"
#include "shim/filter.h"
#include "shim/jail.h"
#include "shim/limits.h"

/* ── roots ── */

Test(mounts, the_longest_root_that_holds_the_source)
{
    static const struct {
        const char *roots, *source, *root, *below;
    } rows[] = {
        {"/srv", "/srv", "/srv", ""},
        {"/srv/", "/srv/a/b", "/srv/", "a/b"},
        {"/srv:/srv/a", "/srv/a/b", "/srv/a", "b"},
        {"/srv/a:/srv", "/srv/b", "/srv", "b"},
        {"/", "/srv", "/", "srv"},
        {"/srv", "/srvx", NULL, NULL},
        {"/srv/a", "/srv", NULL, NULL},
        {"", "/srv", NULL, NULL},
        {":", "/srv", NULL, NULL},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char root[PATH_MAX] = "";
        const char *below = NULL;
        int result = mount_root(rows[i].roots, rows[i].source, root, &below);
        cr_assert_eq(result, rows[i].root ? 0 : -1, "row %zu", i);
        if (result < 0)
            continue;
        cr_expect_str_eq(root, rows[i].root);
        cr_expect_str_eq(below, rows[i].below);
    }
}

static char folder[64];

static void make(void)
{
    char path[128];
    static const char *const folders[] = {"root", "root/a", "root/a/deep", "other", "state"};
    static const char *const links[][2] = {{"a", "root/inside"},    {"../other", "root/out"},
                                           {"/etc", "root/etc"},    {"../../other", "root/a/up"},
                                           {"../a", "root/a/back"}, {"loop", "root/loop"}};

    (void)snprintf(folder, sizeof folder, "/tmp/mounts-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    for (size_t i = 0; i < COUNT_OF(folders); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, folders[i]);
        cr_assert_eq(mkdir(path, 0755), 0);
    }
    for (size_t i = 0; i < COUNT_OF(links); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, links[i][1]);
        cr_assert_eq(symlink(links[i][0], path), 0);
    }
    (void)snprintf(path, sizeof path, "%s/root/file", folder);
    cr_assert_eq(file_write(path, "x", 1, 0644, false, NULL), 0);
}

static void unmake(void)
{
    (void)directory_remove(folder, NULL, NULL);
}

Test(mounts, no_link_leads_out_of_the_root, .init = make, .fini = unmake)
{
    static const struct {
        const char *below, *words; /* NULL: it is found */
    } rows[] = {
        {"", NULL},
        {"a", NULL},
        {"inside/deep", NULL},
        {"a/back/deep", NULL},
        {"out", "leads out"},
        {"etc", "leads out"},
        {"a/up", "leads out"},
        {"..", "leads out"},
        {"a/../../other", "leads out"},
        {"missing", "make it first"},
        {"file", "no directory"},
        {"loop", "too many links"},
    };
    char root[128];

    (void)snprintf(root, sizeof root, "%s/root", folder);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct error err = ERROR_INIT;
        int fd = mount_open(root, rows[i].below, &err);
        cr_expect_eq(fd >= 0, !rows[i].words, "%s: %s", rows[i].below, err.text);
        if (fd >= 0)
            (void)close(fd);
        else
            cr_expect(rows[i].words && strstr(err.text, rows[i].words), "%s: %s", rows[i].below,
                      err.text);
    }
}

static struct spec spec_of(const char *text)
{
    CLEANUP_JSON json_t *body = json_parse(text, strlen(text), NULL);
    struct problem problem = PROBLEM_INIT;
    struct spec spec = {0};

    cr_assert_eq(spec_decode(body, &spec, &problem), 0);
    return spec;
}

static char *faults_of(const struct host *host, const char *source)
{
    char *text, *ret;
    struct problem problem = PROBLEM_INIT;

    cr_assert_geq(
        asprintf(&text, "{\"command\":[\"x\"],\"mounts\":[{\"source\":\"%s\",\"target\":\"/w\"}]}",
                 source),
        0);
    struct spec spec = spec_of(text);
    mounts_check(host, &spec, &problem);
    const json_t *fault = json_array_get(problem.errors, 0);
    cr_assert_geq(asprintf(&ret, "%s %s", fault ? json_member_string(fault, "pointer") : "",
                           fault ? json_member_string(fault, "detail") : ""),
                  0);
    problem_free(&problem);
    spec_free(&spec);
    free(text);
    return ret;
}

Test(mounts, bottleds_own_files_are_not_for_guests, .init = make, .fini = unmake)
{
    char state[128], below[160], good[128];
    struct host host = {.mount_roots = folder, .state_dir = state};

    (void)snprintf(state, sizeof state, "%s/state", folder);
    (void)snprintf(below, sizeof below, "%s/a", state);
    (void)snprintf(good, sizeof good, "%s/root/a", folder);
    cr_assert_eq(mkdir(below, 0700), 0);
    const char *const sources[] = {state, below, folder};
    for (size_t i = 0; i < COUNT_OF(sources); i++) {
        CLEANUP_FREE char *got = faults_of(&host, sources[i]);
        cr_expect(strstr(got, "/mounts/0/source ") && strstr(got, "its own files"), "%s", got);
    }
    CLEANUP_FREE char *none = faults_of(&host, good);
    cr_expect_str_eq(none, " ");
    CLEANUP_FREE char *elsewhere = faults_of(&host, "/usr");
    cr_expect(strstr(elsewhere, "mount_roots"), "%s", elsewhere);
    host.mount_roots = "";
    CLEANUP_FREE char *nowhere = faults_of(&host, good);
    cr_expect(strstr(nowhere, "mount_roots"), "%s", nowhere);
}

Test(mounts, bad_ones_are_named)
{
    static const struct {
        const char *mounts, *faults; /* pointers and codes */
    } rows[] = {
        {"{}", "/mounts wrong-type;"},
        {"[1,{},{\"source\":\"/s\",\"target\":\"/t\",\"readonly\":true}]",
         "/mounts/0 wrong-type;/mounts/1/source required;/mounts/1/target required;"
         "/mounts/2/readonly unknown-field;"},
        {"[{\"source\":\"s\",\"target\":\"/a/../b\",\"read_only\":1}]",
         "/mounts/0/source pattern;/mounts/0/target pattern;/mounts/0/read_only wrong-type;"},
        {"[{\"source\":\"/s\",\"target\":\"/t\"},{\"source\":\"/s\",\"target\":\"/t\"}]",
         "/mounts/1/target duplicate;"},
        {"[{\"source\":\"/s\",\"target\":\"/\"},{\"source\":\"/s\",\"target\":\"/proc/x\"},"
         "{\"source\":\"/s\",\"target\":\"/dev\"}]",
         "/mounts/0/target pattern;/mounts/1/target reserved;/mounts/2/target reserved;"},
        {"[{},{},{},{},{},{},{},{},{}]", "/mounts too-long;"},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct problem problem = PROBLEM_INIT;
        struct spec spec = {0};
        struct text got = TEXT_INIT;
        json_t *body = json_pack("{s:[s], s:o}", "command", "x", "mounts",
                                 json_loads(rows[i].mounts, 0, NULL));
        cr_assert_eq(spec_decode(body, &spec, &problem), -1, "row %zu", i);
        for (size_t k = 0; k < json_array_size(problem.errors); k++) {
            const json_t *fault = json_array_get(problem.errors, k);
            text_addf(&got, "%s %s;", json_member_string(fault, "pointer"),
                      json_member_string(fault, "code"));
        }
        cr_expect_str_eq(got.data, rows[i].faults);
        text_free(&got);
        problem_free(&problem);
        json_decref(body);
    }
}

/* ── plan ── */

Test(mounts, what_lies_above_another_is_mounted_first)
{
    struct spec spec = spec_of("{\"slug\":\"s\",\"command\":[\"x\"],\"mounts\":["
                               "{\"source\":\"/1\",\"target\":\"/a/b/c\",\"read_only\":true},"
                               "{\"source\":\"/2\",\"target\":\"/z\"},"
                               "{\"source\":\"/3\",\"target\":\"/a/b\"},"
                               "{\"source\":\"/4\",\"target\":\"/a\"}]}");
    struct allocation allocation = {.host_ports = {20000}};
    struct plan_dirs dirs = {"/s", "/r", NULL};
    struct plan *plan = plan_resolve(&spec, &allocation, &dirs, NULL);
    static const char *const order[] = {"/z", "/a", "/a/b", "/a/b/c"};

    cr_assert_eq(plan->n_mounts, 4);
    for (size_t i = 0; i < COUNT_OF(order); i++) {
        char tag[8];
        (void)snprintf(tag, sizeof tag, "fs%zu", i);
        cr_expect_str_eq(plan->mounts[i].spec->target, order[i]);
        cr_expect_str_eq(plan->mounts[i].tag, tag);
    }
    CLEANUP_FREE char *page = plan_page(plan);
    cr_expect(strstr(page, "  read-only            \"/1\"\n    seen at            \"/a/b/c\"\n"),
              "%s", page);
    struct host host = {.mount_roots = "/1:/2:/3:/4"};
    CLEANUP_JSON json_t *encoded = mounts_encode(&host, plan, NULL);
    const json_t *last = json_array_get(json_object_get(encoded, "list"), 3);
    cr_expect_str_eq(json_member_string(last, "root"), "/1");
    cr_expect_str_eq(json_member_string(last, "below"), "");
    cr_expect(json_is_true(json_object_get(last, "read_only")));
    plan_free(plan);
}

Test(mounts, are_the_images_users)
{
    static const struct {
        const char *user, *numbers;
        int uid, gid; /* -1: refused */
    } rows[] = {
        {"", "", 0, 0},
        {"app", "1000:50", 1000, 50},
        {"0:7", "0:7", 0, 7},
        {"app", "", -1, -1},
        {"1000", "", -1, -1},
        {"x", "1:2:3", -1, -1},
        {"x", "4294967295:0", -1, -1},
    };
    struct host host = {.mount_roots = ""};

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char user[16], numbers[16];
        (void)snprintf(user, sizeof user, "%s", rows[i].user);
        (void)snprintf(numbers, sizeof numbers, "%s", rows[i].numbers);
        struct plan plan = {.user = user, .user_numbers = numbers};
        struct error err = ERROR_INIT;
        CLEANUP_JSON json_t *got = mounts_encode(&host, &plan, &err);
        cr_expect_eq(got != NULL, rows[i].uid >= 0, "row %zu", i);
        cr_expect_eq(json_member_integer(got, "uid", -1), rows[i].uid, "row %zu", i);
        cr_expect_eq(json_member_integer(got, "gid", -1), rows[i].gid, "row %zu", i);
        if (!got)
            cr_expect(strstr(err.text, "import it again"), "%s", err.text);
    }
}

/* ── machines ── */

Test(mounts, in_qemus_machine)
{
    struct qemu_config config = {.binary = "/usr/bin/qemu-system-x86_64",
                                 .kernel = "/vm/kernel",
                                 .initrd = "/vm/initrd",
                                 .image = "/vm/image",
                                 .cpus = 1,
                                 .memory_mib = 256,
                                 .guest_mac = "5a:94:ef:00:00:32",
                                 .agent_fd = 5,
                                 .qmp_fd = 6,
                                 .mount_fd = 16};
    struct text without = TEXT_INIT, with = TEXT_INIT, refused = TEXT_INIT;

    cr_assert_eq(render_qemu(&config, &without, NULL), 0);
    cr_expect(!strstr(without.data, "vhost") && !strstr(without.data, "memfd") &&
              !strstr(without.data, "force-legacy"));
    config.n_mounts = 2;
    cr_assert_eq(render_qemu(&config, &with, NULL), 0);
    static const char *const parts[] = {
        "rtc=on,memory-backend=memory\"", "\"memory-backend-memfd,id=memory,size=256M,share=on\"",
        "\"socket,id=fs0,fd=16\"", "\"socket,id=fs1,fd=17\"",
        "\"vhost-user-fs-device,chardev=fs1,tag=fs1,queue-size=1024\""};
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        cr_expect(strstr(with.data, parts[i]), "%s", parts[i]);
    config.mount_fd = 5;
    cr_expect_eq(render_qemu(&config, &refused, NULL), -1, "the agent's own");
    text_free(&without);
    text_free(&with);
    text_free(&refused);
}

Test(mounts, in_libkruns_machine)
{
    static const bool read_only[] = {false, true};
    const struct guest_config guest = {.cpus = 1, .memory_mib = 256};
    const struct krun_config config = {.binary = "/vm/bottle-krun",
                                       .library = "/vm/libkrun.so",
                                       .firmware = "/vm/libkrunfw.so.5",
                                       .root = "/vm/root",
                                       .image = "/vm/image",
                                       .guest = &guest,
                                       .agent_fd = 5,
                                       .mounts_read_only = read_only,
                                       .n_mounts = 2};
    struct text out = TEXT_INIT;

    cr_assert_eq(render_krun(&config, &out, NULL), 0);
    cr_expect(strstr(out.data, "\"--mount\",\n    \"fs0\",\n    \"--mount-ro\",\n    \"fs1\""));
    text_free(&out);
}

/* ── jails ── */

static struct launch two_mounts(void)
{
    return (struct launch){
        .bwrap = "/b",
        .run_dir = "/r",
        .net_dir = "net",
        .fs_of_qemu = true,
        .mount_uid = 1000,
        .mount_gid = 50,
        .n_mounts = 2,
        .mounts = {{.tag = "fs0", .root = "/s", .below = "a", .path = "fs/fs0"},
                   {.tag = "fs1", .root = "/s", .below = "", .path = "fs/fs1", .read_only = true}},
        .resources = {.vm_mib = 256, .pids = 9, .sidecar_mib = 64}};
}

/* The words, each with a space before and after. */
static char *joined(struct argv *argv)
{
    struct text text = TEXT_INIT;

    text_add(&text, " ");
    for (size_t i = 0; i < argv->count; i++)
        text_addf(&text, "%s ", argv->items[i]);
    argv_free(argv);
    return text_take(&text);
}

Test(mounts, who_serves_one_sees_it_and_no_other)
{
    struct launch launch = two_mounts();
    struct argv argv = ARGV_INIT, other = ARGV_INIT, rust = ARGV_INIT;

    launch.fs_binary = "/usr/lib/qemu/virtiofsd";
    jail_fs(&argv, &launch, 1);
    CLEANUP_FREE char *words = joined(&argv);
    cr_expect(strstr(words, " --mounted ro /s  fs/fs1 -- /proc/self/exe --limited "), "%s", words);
    cr_expect(strstr(words, " --ro-bind fs/fs1 /tree ") && !strstr(words, "fs/fs0"), "%s", words);
    cr_expect(strstr(words, " --uid 1000 --gid 50 ") && strstr(words, " --unshare-net ") &&
                  strstr(words, " --cap-drop ALL ") && strstr(words, " --seccomp 10 "),
              "%s", words);
    launch.uid = launch.gid = 7; /* as root the shim has mounted it already */
    jail_fs(&other, &launch, 0);
    CLEANUP_FREE char *as_root = joined(&other);
    cr_expect(!strstr(as_root, "--mounted") && strstr(as_root, " --bind fs/fs0 /tree "), "%s",
              as_root);
    launch.fs_of_qemu = false;
    jail_fs(&rust, &launch, 0);
    CLEANUP_FREE char *in_rust = joined(&rust);
    cr_expect(!strstr(in_rust, "--cap-add") && strstr(in_rust, " --shared-dir=/tree "), "%s",
              in_rust);
}

Test(mounts, a_machine_that_serves_them_itself)
{
    struct launch launch = two_mounts();
    const char *vm[] = {"/vm", NULL};
    struct argv argv = ARGV_INIT, alone = ARGV_INIT;

    launch.vm.argv = vm;
    jail_vm(&argv, &launch, &launch.vm);
    CLEANUP_FREE char *words = joined(&argv);
    cr_expect(strstr(words, " --mounted rw /s a fs/fs0 ro /s  fs/fs1 -- "), "%s", words);
    cr_expect(strstr(words, " --bind fs/fs0 /run/mounts/fs0 --ro-bind fs/fs1 /run/mounts/fs1 "),
              "%s", words);
    cr_expect(strstr(words, " nofile=") && !strstr(words, " fsize="), "%s", words);
    launch.fs_binary = "/v"; /* else another does, and the machine sees nothing of it */
    jail_vm(&alone, &launch, &launch.vm);
    CLEANUP_FREE char *other = joined(&alone);
    cr_expect(!strstr(other, "fs/fs0") && !strstr(other, "--uid"), "%s", other);
    cr_expect(strstr(other, " fsize=268435456 "), "its memory is a file: %s", other);
}

/* ── room ── */

Test(mounts, the_kernels_own_count_of_what_it_remembers)
{
    static const char text[] = "slabinfo - version: 2.1\n"
                               "# name            <active_objs> <num_objs>\n"
                               "fuse_inode_x           9      9\n"
                               "fuse_inode         16980  17000    832   19    4 : tunables\n"
                               "inode_cache            5      6";

    cr_expect_eq(room_count(text, "fuse_inode"), 16980);
    cr_expect_eq(room_count(text, "inode_cache"), 5);
    cr_expect_eq(room_count(text, "fuse"), -1);
    cr_expect_eq(room_count("", "fuse_inode"), -1);
}

/* ── filter ── */

/* What a child under the filter gets for a call: its errno, 0 for none. */
static int under_filter(enum filter_kind kind, long call, const long arguments[4])
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (filter_load(kind, NULL) < 0)
            _exit(255);
        _exit(syscall(call, arguments[0], arguments[1], arguments[2], arguments[3], 0L, 0L) < 0
                  ? errno
                  : 0);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(mounts, who_serves_them_makes_no_owner_and_no_privileged_program)
{
    static const enum filter_kind servers[] = {FILTER_FS, FILTER_KRUN_FS, FILTER_VM_FS};
    static const char name[] = "/nonexistent/x";
    const struct {
        long call, arguments[4];
        int answer;
    } rows[] = {
        {SYS_setresuid, {-1, 12345, -1}, 0},
        {SYS_setresgid, {-1, 12345, -1}, 0},
        {SYS_setgroups, {0, 0}, 0},
        {SYS_fchownat, {AT_FDCWD, (long)name, 1, 1}, 0},
        {SYS_fchown, {-1, 1, 1}, 0},
        {SYS_fchmodat, {AT_FDCWD, (long)name, 04755}, EPERM},
        {SYS_fchmodat, {AT_FDCWD, (long)name, 02755}, EPERM},
        {SYS_fchmodat, {AT_FDCWD, (long)name, 0755}, ENOENT},
        {SYS_fchmod, {-1, 04755}, EPERM},
        {SYS_openat, {AT_FDCWD, (long)name, O_CREAT, 04755}, EPERM},
        {SYS_openat, {AT_FDCWD, (long)name, O_CREAT, 0755}, ENOENT},
        {SYS_mknodat, {AT_FDCWD, (long)name, S_IFREG | 06755}, EPERM},
        {SYS_mknodat, {AT_FDCWD, (long)name, S_IFCHR | 0600}, EPERM},
        {SYS_mknodat, {AT_FDCWD, (long)name, S_IFIFO | 0600}, ENOENT},
        {SYS_symlinkat, {(long)"x", AT_FDCWD, (long)name}, ENOENT},
        {SYS_linkat, {AT_FDCWD, (long)name, AT_FDCWD, (long)name}, ENOENT},
        {SYS_renameat2, {AT_FDCWD, (long)name, AT_FDCWD, (long)name}, ENOENT},
        {SYS_fsetxattr, {-1, 0, 0, 0}, ENOSYS},
        {SYS_unshare, {CLONE_FS}, 0},
        {SYS_unshare, {CLONE_NEWUSER}, EPERM},
        {SYS_unshare, {CLONE_NEWNS}, EPERM},
        {SYS_mount, {0}, EPERM},
        {SYS_open_by_handle_at, {-1}, EPERM},
    };

    for (size_t k = 0; k < COUNT_OF(servers); k++)
        for (size_t i = 0; i < COUNT_OF(rows); i++)
            cr_expect_eq(under_filter(servers[k], rows[i].call, rows[i].arguments), rows[i].answer,
                         "kind %zu, row %zu", k, i);
    const long any[4] = {AT_FDCWD, (long)name, 1, 1};
    cr_expect_eq(under_filter(FILTER_VM, SYS_fchownat, any), EPERM);
    cr_expect_eq(under_filter(FILTER_KRUN, SYS_fchownat, any), EPERM);
}
