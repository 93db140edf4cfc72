/* Secrets on the host: the memory that they lie in, what the operator allows, reading them, and the
 * way through the shim. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/plan.h"
#include "base/file.h"
#include "base/json.h"
#include "base/secret.h"
#include "base/text.h"
#include "base/util.h"
#include "server/secrets.h"
#include "shim/secrets.h"

static char folder[64];

static void make_folder(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/secrets-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    (void)directory_remove(folder, NULL, NULL);
}

static char *path_of(const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static void put(const char *name, const void *bytes, size_t length)
{
    CLEANUP_FREE char *path = path_of(name);

    cr_assert_eq(file_write(path, bytes, length, 0600, false, NULL), 0);
}

/* ── memory ── */

Test(secret, is_bounded_and_wiped)
{
    struct secret secret;

    cr_assert_eq(secret_make(&secret, 8, NULL), 0);
    cr_expect_eq(secret_add(&secret, "12345", 5), 0);
    cr_expect_eq(secret_add(&secret, "6789", 4), -1);
    cr_expect_eq(secret.length, 5);
    cr_expect_eq(secret_add(&secret, "678", 3), 0);
    cr_expect_arr_eq(secret.bytes, "12345678", 8);
    secret_wipe(&secret);
    cr_expect_eq(secret.length, 0);
    cr_expect_arr_eq(secret.bytes, "\0\0\0\0\0\0\0\0", 8);
    secret_free(&secret);
    cr_expect_null(secret.bytes);
    secret_free(&secret);
}

static int read_back(size_t in_file, size_t room, size_t most, struct secret *ret)
{
    uint8_t bytes[64];
    int fd = memfd_create("test", MFD_CLOEXEC);

    memset(bytes, 'x', sizeof bytes);
    cr_assert_eq(write_all(fd, bytes, in_file), 0);
    cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
    cr_assert_eq(secret_make(ret, room, NULL), 0);
    int result = secret_read(ret, fd, most);
    int saved = errno;
    (void)close(fd);
    errno = saved;
    return result;
}

Test(secret, reads_no_more_than_it_may)
{
    static const struct {
        size_t in_file, room, most;
        int result;
    } rows[] = {{10, 20, 10, 0}, {10, 10, 20, 0}, {11, 20, 10, -1}, {11, 10, 20, -1}, {0, 1, 0, 0}};

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct secret secret;
        int result = read_back(rows[i].in_file, rows[i].room, rows[i].most, &secret);
        cr_expect_eq(result, rows[i].result, "row %zu", i);
        if (result < 0)
            cr_expect_eq(errno, EFBIG);
        else
            cr_expect_eq(secret.length, rows[i].in_file);
        secret_free(&secret);
    }
}

Test(secret, is_in_no_core_dump)
{
    struct secret secret;
    struct rlimit limit;
    char line[256], flags[256] = "";
    bool ours = false;

    secret_no_dumps();
    cr_assert_eq(getrlimit(RLIMIT_CORE, &limit), 0);
    cr_expect(limit.rlim_cur <= 1 && limit.rlim_max <= 1);
    cr_assert_eq(secret_make(&secret, 4096, NULL), 0);
    FILE *maps = fopen("/proc/self/smaps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        char *rest;
        uintptr_t begin = strtoul(line, &rest, 16);
        if (*rest == '-') /* the first line of a mapping */
            ours = begin <= (uintptr_t)secret.bytes &&
                   (uintptr_t)secret.bytes < strtoul(rest + 1, NULL, 16);
        else if (ours && strncmp(line, "VmFlags:", 8) == 0)
            (void)snprintf(flags, sizeof flags, "%s", line);
    }
    (void)fclose(maps);
    cr_expect(strstr(flags, " dd "), "not dumped: %s", flags);
    secret_free(&secret);
}

/* ── in a plan ── */

#define COMMAND "\"command\":[\"x\"]"

static const struct {
    const char *body, *faults; /* "pointer code", in order, with "; " between */
} plans[] = {
    {"{" COMMAND ",\"secrets\":[]}", "/secrets wrong-type"},
    {"{" COMMAND ",\"secrets\":{\"A\":{},\"B\":\"x\",\"C\":{\"from_file\":\"/"
     "a\",\"from_env\":\"B\"}}}",
     "/secrets/A too-short; /secrets/B wrong-type; /secrets/C too-long"},
    {"{" COMMAND ",\"secrets\":{\"A\":{\"from_file\":1},\"B\":{\"from_files\":\"/x\"},\"1\":{"
     "\"from_env\":\"B\"}}}",
     "/secrets/A/from_file wrong-type; /secrets/B/from_files unknown-field; /secrets/1 pattern"},
    {"{" COMMAND ",\"secrets\":{\"A\":{\"from_file\":\"a\"},\"B\":{\"from_file\":\"/a/../b\"},"
     "\"C\":{\"from_env\":\"a b\"},\"D\":{\"from_env\":\"\"}}}",
     "/secrets/A/from_file pattern; /secrets/B/from_file pattern; /secrets/C/from_env pattern; "
     "/secrets/D/from_env too-short"},
    {"{" COMMAND ",\"env\":{\"A\":\"\"},\"secrets\":{\"A\":{\"from_env\":\"A\"},\"No_Proxy\":{"
     "\"from_env\":\"A\"}}}",
     "/secrets/A duplicate; /secrets/No_Proxy reserved"},
    {"{" COMMAND ",\"reload_signal\":\"KILL\"}", "/reload_signal unknown-value"},
    {"{" COMMAND
     ",\"reload_signal\":\"HUP\",\"secrets\":{\"Z\":{\"from_file\":\"/run/secrets/..data/"
     "z\"},\"A\":{\"from_env\":\"CI_TOKEN\"}}}",
     ""},
};

static char *faults_of(const struct problem *problem)
{
    struct text text = TEXT_INIT;

    for (size_t i = 0; i < json_array_size(problem->errors); i++) {
        const json_t *fault = json_array_get(problem->errors, i);
        text_addf(&text, "%s%s %s", i ? "; " : "", json_member_string(fault, "pointer"),
                  json_member_string(fault, "code"));
    }
    return text_take(&text);
}

Test(secrets, are_references_in_a_plan)
{
    struct spec spec = {0};

    for (size_t i = 0; i < COUNT_OF(plans); i++) {
        struct problem problem = PROBLEM_INIT;
        CLEANUP_JSON json_t *body = json_parse(plans[i].body, strlen(plans[i].body), NULL);
        cr_assert_not_null(body, "%s", plans[i].body);
        int result = spec_decode(body, &spec, &problem);
        cr_expect_eq(result, plans[i].faults[0] ? -1 : 0);
        CLEANUP_FREE char *got = faults_of(&problem);
        cr_expect_str_eq(got, plans[i].faults, "%s: %s", plans[i].body, got);
        problem_free(&problem);
    }
    cr_assert_eq(spec.secrets.count, 2);
    cr_expect_str_eq(spec.secrets.names[0], "Z", "the order is kept");
    cr_expect_str_eq(spec_secret(&spec, "Z")->from_file, "/run/secrets/..data/z");
    cr_expect_null(spec_secret(&spec, "Z")->from_env);
    cr_expect_str_eq(spec_secret(&spec, "A")->from_env, "CI_TOKEN");
    cr_expect_null(spec_secret(&spec, "B"));
    cr_expect_str_eq(spec.reload_signal, "HUP");
    spec_free(&spec);
    spec_free(&spec); /* a second time is harmless */
}

Test(secrets, win_over_an_images_variables)
{
    struct problem problem = PROBLEM_INIT;
    struct string_map env = {0};
    struct spec spec = {0};
    char variable[] = "TOKEN=the image's", kept[] = "OTHER=its own", empty[] = "";
    char *variables[] = {variable, kept, NULL};
    const struct image_config image = {.env = {variables, 2}, .workdir = empty, .user = empty};
    static const char body[] =
        "{" COMMAND ",\"secrets\":{\"TOKEN\":{\"from_env\":\"A\"},\"PATH\":{\"from_env\":\"B\"}}}";
    CLEANUP_JSON json_t *json = json_parse(body, strlen(body), NULL);

    cr_assert_eq(spec_decode(json, &spec, &problem), 0);
    cr_assert_eq(env_build(&spec, &image, &env), 0);
    cr_expect_str_eq(string_map_get(&env, "OTHER"), "its own");
    cr_expect_null(string_map_get(&env, "TOKEN"));
    cr_expect_null(string_map_get(&env, "PATH"));
    string_map_free(&env);
    spec_free(&spec);
}

/* ── reading ── */

static void decode(const char *secrets, struct spec *ret)
{
    struct problem problem = PROBLEM_INIT;
    CLEANUP_FREE char *text = NULL;

    cr_assert_geq(asprintf(&text, "{\"command\":[\"x\"],\"secrets\":%s}", secrets), 0);
    CLEANUP_JSON json_t *body = json_parse(text, strlen(text), NULL);
    cr_assert_not_null(body, "%s", text);
    cr_assert_eq(spec_decode(body, ret, &problem), 0);
}

Test(secrets, are_taken_out_of_the_environment)
{
    char variables[] = "TEST_TOKEN,TEST_ABSENT,,", roots[] = "";
    const struct config config = {.secret_roots = roots, .secret_env = variables};
    struct problem problem = PROBLEM_INIT;
    struct secret secret = {0};
    struct spec spec;
    char entry[] = "TEST_TOKEN=a value", other[] = "TEST_TOKEN=another",
         left[] = "TEST_TOKENS=stays";
    char *own[] = {left, entry, other, NULL};

    environ = own;
    struct secrets *secrets = secrets_new(&config, NULL);
    cr_assert_not_null(secrets);
    cr_expect_null(getenv("TEST_TOKEN"));
    cr_expect_arr_eq(entry, "TEST_TOKEN=\0\0\0\0\0\0\0", sizeof entry,
                     "nor where the kernel shows it");
    cr_expect_arr_eq(other, "TEST_TOKEN=\0\0\0\0\0\0\0", sizeof other);
    cr_expect_str_eq(left, "TEST_TOKENS=stays");
    decode("{\"A\":{\"from_env\":\"TEST_TOKEN\"}}", &spec);
    cr_assert_eq(secrets_read(secrets, &spec, &secret, &problem), 0);
    cr_expect_arr_eq(secret.bytes, "A=a value", 10);
    cr_expect_eq(secret.length, 10);
    spec_free(&spec);
    secret_free(&secret);
    decode("{\"A\":{\"from_env\":\"TEST_ABSENT\"},\"B\":{\"from_env\":\"TEST_TOKENS\"}}", &spec);
    cr_assert_eq(secrets_read(secrets, &spec, &secret, &problem), -1);
    cr_expect_str_eq(problem.type->name, "secrets-unavailable");
    cr_expect_eq(problem.n_faults, 2);
    cr_expect_null(secret.bytes);
    spec_free(&spec);
    problem_free(&problem);
    secrets_free(secrets);
    secrets_free(NULL);
}

Test(secrets, come_from_files_below_a_root, .init = make_folder, .fini = remove_folder)
{
    char none[] = "";
    CLEANUP_FREE char *roots = NULL, *text = NULL, *inside = path_of("in"),
                      *data = path_of("..data");
    struct problem problem = PROBLEM_INIT;
    struct secret secret = {0};
    struct spec spec;

    cr_assert_geq(asprintf(&roots, "/nowhere:%s/", folder), 0);
    const struct config config = {.secret_roots = roots, .secret_env = none};
    put("one", "1\n", 2);
    cr_assert_eq(mkdir(data, 0700), 0);
    put("..data/two", "\xff", 1);
    cr_assert_eq(symlink("..data/two", inside), 0);
    struct secrets *secrets = secrets_new(&config, NULL);
    cr_assert_geq(asprintf(&text,
                           "{\"Z\":{\"from_file\":\"%s/one\"},\"A\":{\"from_file\":\"%s/in\"}}",
                           folder, folder),
                  0);
    decode(text, &spec);
    secrets_check(secrets, &spec, &problem);
    cr_assert_null(problem.type);
    cr_assert_eq(secrets_read(secrets, &spec, &secret, &problem), 0);
    cr_expect_eq(secret.length, 9);
    cr_expect_arr_eq(secret.bytes, "Z=1\n\0A=\xff", 9, "in the plan's order, as it is in the file");
    secret_free(&secret);
    spec_free(&spec);
    secrets_free(secrets);
}

/* Of a plan that comes in: one that is stored is read all the same. */
Test(secrets, a_mount_may_not_hide_them)
{
    static char roots[] = "/", none[] = "";
    const struct config config = {.secret_roots = roots, .secret_env = none};
    struct secrets *secrets = secrets_new(&config, NULL);
    struct problem problem = PROBLEM_INIT;
    struct spec spec;

    decode("{\"A\":{\"from_file\":\"/a\"}},\"mounts\":["
           "{\"source\":\"/s\",\"target\":\"/run/secretsx\"},"
           "{\"source\":\"/s\",\"target\":\"/run/secrets/x\"}]",
           &spec);
    secrets_check(secrets, &spec, &problem);
    cr_assert_eq(problem.n_faults, 1);
    cr_expect_str_eq(json_member_string(json_array_get(problem.errors, 0), "pointer"),
                     "/mounts/1/target");
    problem_free(&problem);
    spec_free(&spec);
    secrets_free(secrets);
}

/* ── through the shim ── */

static int load(const void *bytes, size_t length, int64_t count, struct launch *ret)
{
    int fd = memfd_create("test", 0);

    cr_assert_eq(write_all(fd, bytes, length), 0);
    cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
    int kept = dup(fd);
    char found[64] = "?";
    *ret = (struct launch){.n_secrets = count};
    int result = secrets_load(fd, ret, NULL);
    cr_expect_eq(pread(kept, found, sizeof found, 0), 0, "nothing is left where it lay");
    (void)close(kept);
    return result;
}

Test(secrets, are_read_once_by_the_shim)
{
    static const struct {
        const char *bytes;
        size_t length;
        int64_t count;
        int result;
    } rows[] = {{"A=1\0B=2\n", 9, 2, 0},
                {"A=1\0B=2", 7, 2, -1},
                {"A=1", 4, 2, -1},
                {"", 0, 1, -1},
                {"A=1\0B=2", 8, 1, -1}};

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct launch launch;
        cr_expect_eq(load(rows[i].bytes, rows[i].length, rows[i].count, &launch), rows[i].result,
                     "row %zu", i);
        if (rows[i].result == 0)
            cr_expect_arr_eq(launch.secrets.bytes, rows[i].bytes, rows[i].length);
        else
            cr_expect_null(launch.secrets.bytes);
        secret_free(&launch.secrets);
    }
}
