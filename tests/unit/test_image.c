/* Image references, what an image says of itself, and what becomes of it and a plan together. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/image.h"
#include "api/plan.h"
#include "base/json.h"
#include "base/util.h"
#include "server/import_internal.h"

/* --- References ------------------------------------------------------------------------------- */

Test(image_reference, forms)
{
    static const struct {
        const char *text;
        enum image_kind kind;
        const char *path, *tag, *registry;
    } rows[] = {
        {"builtin:busybox", IMAGE_BUILTIN, "", "", ""},
        {"oci:/srv/image", IMAGE_OCI, "/srv/image", "", ""},
        {"oci:/srv/image:latest", IMAGE_OCI, "/srv/image", "latest", ""},
        {"oci:/srv/saved.tar:team/app:1.2", IMAGE_OCI, "/srv/saved.tar", "team/app:1.2", ""},
        {"dir:/srv/root", IMAGE_DIR, "/srv/root", "", ""},
        {"dir:/srv/..root/.x", IMAGE_DIR, "/srv/..root/.x", "", ""},
        {"docker://alpine", IMAGE_DOCKER, "", "", "docker.io"},
        {"docker://library/alpine:3", IMAGE_DOCKER, "", "", "docker.io"},
        {"docker://ghcr.io/a/b@sha256:00", IMAGE_DOCKER, "", "", "ghcr.io"},
        {"docker://localhost/a", IMAGE_DOCKER, "", "", "localhost"},
        {"docker://host:5000/a:b", IMAGE_DOCKER, "", "", "host:5000"},
        {"docker://alpine:3.20", IMAGE_DOCKER, "", "", "docker.io"},
        {"0123456789abcdef", IMAGE_ID, "", "", ""},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct image_reference got;
        cr_expect_null(image_reference_parse(rows[i].text, &got), "%s", rows[i].text);
        cr_expect_eq(got.kind, rows[i].kind, "%s", rows[i].text);
        cr_expect_str_eq(got.path, rows[i].path, "%s", rows[i].text);
        cr_expect_str_eq(got.tag, rows[i].tag, "%s", rows[i].text);
        cr_expect_str_eq(got.registry, rows[i].registry, "%s", rows[i].text);
    }
}

Test(image_reference, refused)
{
    static const char *const rows[] = {
        "",         "alpine",           "builtin:other",   "oci:",          "oci:srv",
        "oci:/",    "oci:/srv/",        "oci://srv",       "oci:/srv/../x", "oci:/srv/./x",
        "oci:/..",  "oci:/srv:",        "oci::latest",     "dir:",          "dir:root",
        "dir:/",    "dir:/srv//x",      "docker://",       "docker:///x",   "docker://a//b",
        "docker:x", "0123456789ABCDEF", "0123456789abcde", "http://x",
    };
    char longest[IMAGE_SOURCE_SIZE + 8];
    struct image_reference got;

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_expect_not_null(image_reference_parse(rows[i], &got), "%s", rows[i]);
    memset(longest, 'a', sizeof longest - 1);
    memcpy(longest, "oci:/", 5);
    longest[sizeof longest - 1] = '\0';
    cr_expect_not_null(image_reference_parse(longest, &got));
}

Test(image_reference, registries)
{
    cr_expect(image_registry_allowed("docker.io", "docker.io"));
    cr_expect(image_registry_allowed("ghcr.io,host:5000", "host:5000"));
    cr_expect(!image_registry_allowed("", "docker.io"));
    cr_expect(!image_registry_allowed("docker.io", "docker.i"));
    cr_expect(!image_registry_allowed("docker.io", "ocker.io"));
    cr_expect(!image_registry_allowed("host:5000", "host"));
    cr_expect(!image_registry_allowed("a.docker.io", "docker.io"));
}

/* --- What an image says ----------------------------------------------------------------------- */

static int decode(const char *text, struct image_config *ret, struct error *err)
{
    CLEANUP_JSON json_t *json = json_parse(text, strlen(text), err);

    cr_assert_not_null(json, "%s", text);
    return image_config_decode(json, ret, err);
}

Test(image_config, round_trip)
{
    static const char whole[] =
        "{\"Entrypoint\":[\"/init\",\"\"],\"Cmd\":[\"-c\"],\"Env\":[\"A=1\",\"B= x\\n\"],"
        "\"WorkingDir\":\"/srv\",\"User\":\"app:staff\"}";
    struct image_config config;
    struct error err = ERROR_INIT;

    cr_assert_eq(decode(whole, &config, &err), 0, "%s", err.text);
    CLEANUP_JSON json_t *json = image_config_encode(&config);
    CLEANUP_FREE char *text = json_text(json);
    cr_expect_str_eq(text, whole);
    image_config_free(&config);
    image_config_free(&config); /* a second time is harmless */
}

Test(image_config, what_is_missing_is_none)
{
    static const char *const rows[] = {
        "{}", "{\"Entrypoint\":null,\"Cmd\":[],\"Env\":null,\"WorkingDir\":null,\"User\":null}",
        "{\"Labels\":{\"a\":\"b\"},\"ExposedPorts\":{}}"};

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct image_config config;
        cr_assert_eq(decode(rows[i], &config, NULL), 0, "%s", rows[i]);
        cr_expect_eq(config.entrypoint.count + config.command.count + config.env.count, 0);
        cr_expect_str_eq(config.workdir, "");
        cr_expect_str_eq(config.user, "");
        image_config_free(&config);
    }
}

Test(image_config, names_that_are_none_are_left_out)
{
    struct image_config config;

    cr_assert_eq(
        decode("{\"Env\":[\"NOEQ\",\"=x\",\"OK=1\",\"\"],\"WorkingDir\":\"srv\"}", &config, NULL),
        0);
    cr_expect_eq(config.env.count, 1);
    cr_expect_str_eq(config.env.items[0], "OK=1");
    cr_expect_null(config.env.items[1]);
    cr_expect_str_eq(config.workdir, "/srv", "as Docker takes it");
    image_config_free(&config);
}

#define LARGE ((size_t)300 * 1024)

Test(image_config, refused)
{
    static const char *const rows[] = {"[]",           "{\"Cmd\":\"sh\"}", "{\"Cmd\":[1]}",
                                       "{\"Env\":{}}", "{\"User\":1}",     "{\"WorkingDir\":[]}"};
    CLEANUP_FREE char *large = malloc(LARGE);
    struct image_config config;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct error err = ERROR_INIT;
        cr_expect_eq(decode(rows[i], &config, &err), -1, "%s", rows[i]);
        cr_expect_str_eq(err.kind, "image-refused", "%s", rows[i]);
        image_config_free(&config);
    }
    memset(large, 'x', LARGE);
    memcpy(large, "{\"Cmd\":[\"", 9);
    memcpy(large + LARGE - 5, "\"]}", 4);
    cr_expect_eq(decode(large, &config, NULL), -1);
    image_config_free(&config);
}

/* --- Together with a plan --------------------------------------------------------------------- */

static const struct allocation allocation = {.subnet = 7, .host_ports = {20001, 0, 0}};

static struct plan *resolve(const char *config_text, const char *plan_text, struct error *err)
{
    CLEANUP_IMAGE struct image *image = image_new();
    const struct plan_dirs dirs = {"/s", "/r", image};
    CLEANUP_JSON json_t *json = json_parse(plan_text, strlen(plan_text), NULL);
    struct problem problem = PROBLEM_INIT;
    struct spec spec = {0};

    cr_assert_eq(decode(config_text, &image->config, NULL), 0);
    (void)snprintf(image->id, sizeof image->id, "0123456789abcdef");
    memset(image->digest, 'd', sizeof image->digest - 1);
    cr_assert_eq(spec_decode(json, &spec, &problem), 0, "%s", plan_text);
    struct plan *plan = plan_resolve(&spec, &allocation, &dirs, err);
    spec_free(&spec);
    return plan;
}

#define PLAN "{\"slug\":\"x\",\"image\":\"oci:/i\""
#define IMAGE                                                                                      \
    "{\"Entrypoint\":[\"/init\"],\"Cmd\":[\"a\",\"b\"],\"WorkingDir\":\"/srv\",\"User\":\"app\","  \
    "\"Env\":[\"PATH=/opt\",\"A=image\",\"B=image\",\"HTTP_PROXY=http://evil\"]}"

Test(image_plan, the_images_own)
{
    struct error err = ERROR_INIT;
    struct plan *plan = resolve(IMAGE, PLAN "}", &err);

    cr_assert_not_null(plan, "%s", err.text);
    cr_expect_eq(plan->guest.n_command, 3);
    cr_expect_str_eq(plan->guest.command[0], "/init");
    cr_expect_str_eq(plan->guest.command[2], "b");
    cr_expect_str_eq(plan->guest.workdir, "/srv");
    cr_expect_str_eq(plan->user, "app");
    cr_expect_str_eq(plan->image_id, "0123456789abcdef");
    cr_expect_eq(strncmp(plan->image_file, "/s/images/dddd", 14), 0);
    cr_expect_str_eq(string_map_get(&plan->env, "PATH"), "/opt");
    cr_expect_str_eq(string_map_get(&plan->env, "A"), "image");
    cr_expect_str_eq(string_map_get(&plan->env, "HTTP_PROXY"), "http://proxy.internal:8888");
    cr_expect_null(string_map_get(&plan->env, "HOME"), "the guest knows the user's");
    plan_free(plan);
}

Test(image_plan, the_plan_wins)
{
    struct plan *plan = resolve(
        IMAGE,
        PLAN ",\"command\":[\"sh\"],\"workdir\":\"/w\",\"env\":{\"A\":\"\",\"HOME\":\"/h\"}}",
        NULL);

    cr_assert_not_null(plan);
    cr_expect_eq(plan->guest.n_command, 1, "both ENTRYPOINT and CMD are replaced");
    cr_expect_str_eq(plan->guest.command[0], "sh");
    cr_expect_str_eq(plan->guest.workdir, "/w");
    cr_expect_str_eq(string_map_get(&plan->env, "A"), "");
    cr_expect_str_eq(string_map_get(&plan->env, "B"), "image");
    cr_expect_str_eq(string_map_get(&plan->env, "HOME"), "/h");
    plan_free(plan);
}

Test(image_plan, an_image_that_says_nothing)
{
    struct error err = ERROR_INIT;

    cr_expect_null(resolve("{}", PLAN "}", &err));
    cr_expect_str_eq(err.kind, "invalid-plan");
    cr_expect_null(resolve("{\"Cmd\":[\"\"]}", PLAN "}", &err));
    struct plan *plan = resolve("{}", PLAN ",\"command\":[\"sh\"]}", &err);
    cr_assert_not_null(plan);
    cr_expect_str_eq(plan->guest.workdir, "/");
    cr_expect_str_eq(plan->user, "");
    cr_expect_str_eq(string_map_get(&plan->env, "HOME"), "/root");
    cr_expect_not_null(string_map_get(&plan->env, "PATH"));
    plan_free(plan);
}

/* --- What may be imported --------------------------------------------------------------------- */

Test(import_check, what_the_operator_allowed)
{
    static char roots[] = "/srv/a:/srv/b/:", all[] = "/", registries[] = "docker.io,host:5000";
    const struct config config = {.image_roots = roots, .image_registries = registries};
    static const struct {
        const char *source, *kind; /* NULL: it may */
    } rows[] = {
        {"oci:/anywhere/at/all", NULL},
        {"dir:/srv/a", NULL},
        {"dir:/srv/a/x", NULL},
        {"dir:/srv/b/x", NULL},
        {"dir:/srv/ab", "image-forbidden"},
        {"dir:/srv", "image-forbidden"},
        {"dir:/etc", "image-forbidden"},
        {"dir:/srv/a/../../etc", "invalid-plan"},
        {"docker://alpine", NULL},
        {"docker://docker.io/library/alpine", NULL},
        {"docker://host:5000/x", NULL},
        {"docker://host/x", NULL}, /* a name at docker.io: no '.' and no ':' in it */
        {"docker://ghcr.io/x", "image-forbidden"},
        {"docker://localhost/x", "image-forbidden"},
        {"builtin:busybox", "invalid-plan"},
        {"0123456789abcdef", "invalid-plan"},
        {"docker-daemon:x", "invalid-plan"},
        {"containers-storage:x", "invalid-plan"},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct error err = ERROR_INIT;
        int result = import_check(&config, rows[i].source, &err);
        cr_expect_eq(result, rows[i].kind ? -1 : 0, "%s: %s", rows[i].source, err.text);
        if (rows[i].kind)
            cr_expect_str_eq(err.kind, rows[i].kind, "%s", rows[i].source);
    }
    cr_expect_eq(import_check(&(struct config){.image_roots = all}, "dir:/etc", NULL), 0);
}

/* --- Counting --------------------------------------------------------------------------------- */

static atomic_bool counted;

static void *make_and_remove(void *context)
{
    const int *folder = context;

    while (!counted) {
        int fd = openat(*folder, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        cr_assert_geq(fd, 0);
        cr_assert_eq(write(fd, "abc", 3), 3);
        (void)close(fd);
        cr_assert_eq(unlinkat(*folder, "file", 0), 0);
    }
    return NULL;
}

/* Of one that is being removed a look may tell a size, and no name any more. */
Test(import_count, while_files_go)
{
    char folder[] = "/tmp/import-countXXXXXX";
    int64_t bytes, files;
    pthread_t thread;

    cr_assert_not_null(mkdtemp(folder));
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct work work = {.fd = fd};
    cr_assert_eq(pthread_create(&thread, NULL, make_and_remove, &fd), 0);
    for (int i = 0; i < 30000; i++) {
        cr_assert_eq(import_count(&work, ".", &bytes, &files), 0);
        cr_assert(bytes >= 0 && bytes <= 3 && files <= 2);
    }
    counted = true;
    (void)pthread_join(thread, NULL);
    (void)close(fd);
    (void)rmdir(folder);
}
