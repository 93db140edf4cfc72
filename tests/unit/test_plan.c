/* Resolving a plan: addresses, ports, environment, files, and what a person and a client are shown.
 */
#include <criterion/criterion.h>

#include "api/plan.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"
#include "renderers/render.h"

static const struct plan_dirs dirs = {"/var/lib/bottled", "/run/bottled", NULL};

static void spec_of(const char *text, struct spec *ret)
{
    struct error err = ERROR_INIT;
    struct problem problem = PROBLEM_INIT;
    CLEANUP_JSON json_t *body = json_parse(text, strlen(text), &err);

    cr_assert(body, "%s", err.text);
    cr_assert_eq(spec_decode(body, ret, &problem), 0, "%s", problem.detail);
}

static struct plan *plan_of(const char *text, const struct allocation *allocation)
{
    struct spec spec;
    struct error err = ERROR_INIT;

    spec_of(text, &spec);
    struct plan *plan = plan_resolve(&spec, allocation, &dirs, &err);
    cr_assert(plan, "%s", err.text);
    cr_assert_null(spec.slug, "the spec was taken over");
    return plan;
}

#define LEAST "{\"slug\":\"one\",\"command\":[\"true\"]}"
#define FULL                                                                                       \
    "{\"slug\":\"full\",\"backend\":\"qemu\",\"command\":[\"sh\",\"-c\",\"echo hi\"],"             \
    "\"env\":{\"B\":\"2\",\"PATH\":\"/bin\",\"A\":\"1\"},\"workdir\":\"/w\","                      \
    "\"resources\":{\"cpus\":2,\"memory_mib\":512},"                                               \
    "\"egress\":{\"allow\":[\"a.example\",\"*.b.example:8443\"]},"                                 \
    "\"sidecars\":{\"git_gate\":{},\"supervise\":{}},\"labels\":{\"team\":\"ci\"}}"

static const struct allocation one_port = {50, 0, {51001}};
static const struct allocation three_ports = {254, 0, {51001, 51002, 51003}};

Test(plan_resolve, addresses_and_paths)
{
    struct plan *plan = plan_of(LEAST, &one_port);
    char digest[SHA256_HEX_SIZE], wanted[64];

    cr_assert_str_eq(plan->subnet, "192.168.50.0/24");
    cr_assert_str_eq(plan->gateway, "192.168.50.1");
    cr_assert_str_eq(plan->guest_ip, "192.168.50.2");
    cr_assert_str_eq(plan->mac, "5a:94:ef:00:00:32");
    cr_assert_str_eq(plan->stage_dir, "/var/lib/bottled/bottles/one");
    sha256_hex("one", 3, digest);
    (void)snprintf(wanted, sizeof wanted, "/run/bottled/b/%.16s", digest);
    cr_assert_str_eq(plan->run_dir, wanted);
    cr_assert_eq(strlen(plan->id), 16);
    cr_assert_eq(plan->network.zone.records, &plan->network.record);
    cr_assert_null(plan->backend);
    plan_free(plan);
    plan_free(NULL);
}

/* A bottle past the first addresses' ports and the /24s: the same in all that is rendered. */
Test(plan_resolve, another_loopback_address_and_a_28)
{
    static const struct allocation allocation = {33022 + 17, 255, {20001}};
    struct plan *plan = plan_of(LEAST, &allocation);
    const struct proxy_config proxy = {.loopback = 255, .port = 20001};
    struct text files[3] = {TEXT_INIT, TEXT_INIT, TEXT_INIT};
    const char *const words[][2] = {
        {"subnet: \"10.0.1.16/28\"\n", "host: \"127.0.255.1\"\n"},
        {"http_port 127.0.255.1:20001\n", "http_port 127.0.255.1:20001\n"},
        {"\"127.0.255.1:20001\"", "\"127.0.255.9:20001\""},
    };

    cr_assert_str_eq(plan->loopback, "127.0.255.1");
    cr_assert_str_eq(plan->guest_ip, "10.0.1.18");
    cr_assert_eq(render_gvproxy(&plan->network, &files[0], NULL), 0);
    cr_assert_eq(render_squid(&proxy, &files[1], NULL), 0);
    cr_assert_eq(render_pipelock(&proxy, &files[2], NULL), 0);
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        CLEANUP_FREE char *text = text_take(&files[i]);
        for (size_t j = 0; j < 2; j++)
            cr_expect(strstr(text, words[i][j]), "%s\n%s", words[i][j], text);
    }
    plan_free(plan);
}

Test(plan_resolve, one_host_port_per_active_sidecar)
{
    struct plan *least = plan_of(LEAST, &one_port), *full = plan_of(FULL, &three_ports);

    cr_assert_eq(least->network.n_forwards, 1);
    cr_assert_str_eq(least->network.forwards[0].sidecar, "pipelock");
    cr_assert_eq(least->network.forwards[0].gateway_port, 8888);
    cr_assert_eq(least->network.forwards[0].host_port, 51001);
    cr_assert_eq(full->network.n_forwards, 3);
    for (size_t i = 0; i < N_SIDECARS; i++) {
        cr_expect_str_eq(full->network.forwards[i].sidecar, sidecars[i].name);
        cr_expect_eq(full->network.forwards[i].gateway_port, 8888 + i);
        cr_expect_eq(full->network.forwards[i].host_port, 51001 + i);
        cr_expect_str_eq(full->network.forwards[i].host, "127.0.0.1");
    }
    plan_free(least);
    plan_free(full);
}

/* Each sidecar by itself: the plan field that its row names is the one that asks for it. */
Test(plan_resolve, sidecar_rows_name_their_field)
{
    for (int i = 0; i < N_SIDECARS; i++) {
        struct spec spec;
        size_t count;
        const struct spec_field *fields = spec_fields(&count);
        bool known = !sidecars[i].plan_field;
        for (size_t k = 0; k < count && !known; k++)
            known = strcmp(fields[k].pointer, sidecars[i].plan_field) == 0;
        cr_assert(known, "%s", sidecars[i].name);
        char body[128];
        (void)snprintf(body, sizeof body, "{\"command\":[\"x\"],\"sidecars\":{%s%s%s}}",
                       known && sidecars[i].plan_field ? "\"" : "",
                       sidecars[i].plan_field ? strrchr(sidecars[i].plan_field, '/') + 1 : "",
                       sidecars[i].plan_field ? "\":{}" : "");
        spec_of(body, &spec);
        for (int k = 0; k < N_SIDECARS; k++)
            cr_expect_eq(sidecar_active(&spec, (enum sidecar)k), k == i || k == SIDECAR_PIPELOCK);
        spec_free(&spec);
    }
}

Test(plan_resolve, a_sidecar_without_a_port_is_refused)
{
    struct spec spec;
    struct error err = ERROR_INIT;

    spec_of(FULL, &spec);
    cr_assert_null(plan_resolve(&spec, &one_port, &dirs, &err));
    cr_assert(strstr(err.text, "git-gate"));
    cr_assert_str_eq(spec.slug, "full", "the spec is still the caller's");
    spec_free(&spec);
    spec_of("{\"command\":[\"x\"]}", &spec);
    cr_assert_null(plan_resolve(&spec, &one_port, &dirs, &err), "no slug");
    spec_free(&spec);
}

Test(plan_resolve, environment_in_order)
{
    static const char *const wanted =
        "HTTP_PROXY=http://proxy.internal:8888\nHTTPS_PROXY=http://proxy.internal:8888\n"
        "ALL_PROXY=http://proxy.internal:8888\nNO_PROXY=localhost,127.0.0.1,::1,proxy.internal\n"
        "http_proxy=http://proxy.internal:8888\nhttps_proxy=http://proxy.internal:8888\n"
        "all_proxy=http://proxy.internal:8888\nno_proxy=localhost,127.0.0.1,::1,proxy.internal\n"
        "NODE_USE_ENV_PROXY=1\nGIT_GATE_URL=http://proxy.internal:8889\n"
        "SUPERVISE_URL=http://proxy.internal:8890\nHOME=/root\nB=2\nPATH=/bin\nA=1\n";
    struct plan *plan = plan_of(FULL, &three_ports), *least = plan_of(LEAST, &one_port);
    struct text got = TEXT_INIT;

    for (size_t i = 0; i < plan->env.count; i++) {
        text_addf(&got, "%s=%s\n", plan->env.items[i].name, plan->env.items[i].value);
        cr_expect_eq(plan->guest.env[i].value, plan->env.items[i].value);
    }
    cr_assert_str_eq(got.data, wanted);
    cr_assert_null(string_map_get(&least->env, "GIT_GATE_URL"));
    cr_assert_null(string_map_get(&least->env, "SUPERVISE_URL"));
    cr_assert_str_eq(string_map_get(&least->env, "HOME"), "/root");
    cr_assert(strstr(string_map_get(&least->env, "PATH"), "/usr/bin"));
    text_free(&got);
    plan_free(plan);
    plan_free(least);
}

/* What bottled sets is what a plan may not, and the gateway ports in it are the sidecars' rows'. */
Test(plan_resolve, own_variables_are_reserved)
{
    struct plan *plan = plan_of(FULL, &three_ports);
    static const char *const ports[] = {"HTTPS_PROXY", "GIT_GATE_URL", "SUPERVISE_URL"};

    for (size_t i = 0; i < plan->env.count; i++) {
        const char *name = plan->env.items[i].name;
        bool free_name =
            strlen(name) == 1 || strcmp(name, "PATH") == 0 || strcmp(name, "HOME") == 0;
        cr_expect_eq(env_reserved(name), !free_name, "%s", name);
    }
    cr_expect(env_reserved("Https_Proxy") && !env_reserved("git_gate_url"));
    cr_expect(!env_reserved("FTP_PROXY") && !env_reserved("") && !env_reserved("HTTP_PROXY_"));
    for (size_t i = 0; i < N_SIDECARS; i++) {
        char wanted[64];
        (void)snprintf(wanted, sizeof wanted, "http://proxy.internal:%u",
                       (unsigned)sidecars[i].gateway_port);
        cr_expect_str_eq(string_map_get(&plan->env, ports[i]), wanted);
    }
    plan_free(plan);
}

Test(plan_resolve, long_run_dir_is_refused)
{
    char run_dir[128] = {0};
    struct error err = ERROR_INIT;

    /* run_dir + "/b/" + 16 digits + "/net/net.sock" is 107 bytes with 75 of them. */
    for (size_t length = 75; length <= 76; length++) {
        struct spec spec;
        const struct plan_dirs deep = {"/s", run_dir, NULL};
        memset(run_dir, 'r', length);
        run_dir[0] = '/';
        spec_of(LEAST, &spec);
        struct plan *plan = plan_resolve(&spec, &one_port, &deep, &err);
        cr_expect_eq(plan != NULL, length == 75, "%zu", length);
        plan_free(plan);
        spec_free(&spec);
    }
    cr_assert_str_eq(err.kind, "socket-path-too-long");
    cr_assert_eq(problem_type(err.kind)->status, 422);
    cr_assert(strstr(err.text, "--run-dir"));
}

Test(plan_files, named_once_with_their_digest)
{
    struct plan *plan = plan_of(LEAST, &one_port);
    struct error err = ERROR_INIT;
    char digest[SHA256_HEX_SIZE];

    cr_assert_eq(plan_add_file(plan, "a.txt", strdup("abc"), &err), 0);
    plan_file_digest(&plan->files[0], digest);
    cr_assert_str_eq(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    cr_assert_eq(plan_find_file(plan, "a.txt")->length, 3);
    cr_assert_null(plan_find_file(plan, "b.txt"));
    cr_assert_eq(plan_add_file(plan, "a.txt", strdup("x"), &err), -1, "a second one of that name");
    cr_assert_eq(plan_add_file(plan, "n.txt", NULL, &err), -1, "memory was short");
    static const char *const names[] = {"1", "2", "3", "4", "5", "6", "7", "8"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        cr_expect_eq(plan_add_file(plan, names[i], strdup(""), &err), i < 7 ? 0 : -1);
    plan_free(plan);
}

static char *full_plan_json(bool with_content)
{
    struct plan *plan = plan_of(FULL, &three_ports);
    struct error err = ERROR_INIT;

    plan->backend = "qemu";
    plan->accelerator = "tcg";
    plan->engine = "squid";
    plan->limits_note = strdup("does not look inside TLS");
    cr_assert_eq(plan_add_file(plan, "gvproxy.yaml", strdup("subnet: \"x\"\n"), &err), 0);
    CLEANUP_JSON json_t *json = plan_encode(plan, with_content);
    plan_free(plan);
    return json_text(json);
}

Test(plan_encode, whole_object)
{
    CLEANUP_FREE char *got = full_plan_json(true);
    static const char wanted[] =
        "{\"slug\":\"full\",\"backend\":\"qemu\",\"accelerator\":\"tcg\",\"engine\":\"squid\","
        "\"stage_dir\":\"/var/lib/bottled/bottles/full\",\"subnet\":\"10.128.0.0/24\","
        "\"gateway\":\"10.128.0.1\",\"guest_ip\":\"10.128.0.2\",\"mac\":\"5a:94:ef:00:00:fe\","
        "\"dns\":[{\"zone\":\".\",\"records\":[{\"name\":\"proxy.internal\",\"ip\":\"10.128.0.1\"}]"
        "}],"
        "\"port_forwards\":[{\"sidecar\":\"pipelock\",\"gateway_port\":8888,\"host\":\"127.0.0.1\","
        "\"host_port\":51001},{\"sidecar\":\"git-gate\",\"gateway_port\":8889,\"host\":\"127.0.0."
        "1\","
        "\"host_port\":51002},{\"sidecar\":\"supervise\",\"gateway_port\":8890,\"host\":\"127.0.0."
        "1\","
        "\"host_port\":51003}],\"guest\":{\"image\":\"builtin:busybox\",\"image_id\":null,"
        "\"image_digest\":null,\"command\":[\"sh\",\"-c\","
        "\"echo hi\"],\"workdir\":\"/w\",\"user\":null,\"env\":{\"HTTP_PROXY\":";

    cr_assert_eq(strncmp(got, wanted, strlen(wanted)), 0, "%s", got);
    cr_assert(strstr(got, "\"cpus\":2,\"memory_mib\":512,\"disk_mib\":0,\"mounts\":[]},\"limits\":["
                          "\"does not look inside TLS\"],"
                          "\"files\":[{\"name\":\"gvproxy.yaml\",\"sha256\":\""));
    cr_assert(
        strstr(got, "\"bytes\":12,\"content\":\"subnet: \\\"x\\\"\\n\"}],\"spec\":{\"slug\":"));
}

Test(plan_encode, content_only_when_asked)
{
    CLEANUP_FREE char *got = full_plan_json(false);

    cr_assert_null(strstr(got, "\"content\""));
}

Test(plan_encode, same_input_same_bytes)
{
    CLEANUP_FREE char *a = full_plan_json(true), *b = full_plan_json(true);

    cr_assert_str_eq(a, b);
}

Test(plan_encode, undecided_backend_is_null)
{
    struct plan *plan = plan_of(LEAST, &one_port);
    CLEANUP_JSON json_t *json = plan_encode(plan, false);

    cr_assert(json_is_null(json_object_get(json, "backend")));
    cr_assert(json_is_null(json_object_get(json, "accelerator")));
    cr_assert_eq(json_array_size(json_object_get(json, "limits")), 0);
    cr_assert_eq(json_array_size(json_object_get(json, "files")), 0);
    plan_free(plan);
}

Test(plan_page, says_what_matters)
{
    struct plan *plan = plan_of(FULL, &three_ports);
    static const char *const wanted[] = {"Bottle full\n",
                                         "backend              qemu (tcg)\n",
                                         "\"echo hi\"\n",
                                         "proxy.internal:8888 -> 127.0.0.1:51001 on the host\n",
                                         "  a.example, ports 443 and 80\n",
                                         "  *.b.example:8443\n",
                                         "no other name is answered",
                                         "10.128.0.0/24",
                                         "512 MiB",
                                         "through the proxy (squid)\n",
                                         "team                 \"ci\"\n",
                                         "Files in /var/lib/bottled/bottles/full\n",
                                         "gvproxy.yaml         1 bytes, sha256 "};
    struct error err = ERROR_INIT;

    plan->backend = "qemu";
    plan->accelerator = "tcg";
    plan->engine = "squid";
    cr_assert_eq(plan_add_file(plan, "gvproxy.yaml", strdup("x"), &err), 0);
    CLEANUP_FREE char *page = plan_page(plan);
    for (size_t i = 0; i < COUNT_OF(wanted); i++)
        cr_expect(strstr(page, wanted[i]), "%s is not in\n%s", wanted[i], page);
    plan_free(plan);
}

/* Nothing that a client chose acts on the reader's terminal, hides, or passes for a line of the
 * page. */
Test(plan_page, hostile_text_is_escaped)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;
    struct error err = ERROR_INIT;
    /* A right-to-left override and a C1 control, spelled so that this source holds no such literal.
     */
    const char reversed[] = {'\xe2', '\x80', '\xae', 'n', 'e', 'v', 'e', 'r', '\xc2', '\x85', '\0'};
    char longest[5001] = {0};

    memset(longest, 'x', 5000);
    CLEANUP_JSON json_t *body =
        json_pack("{s:s, s:[s, s, s], s:{s:s, s:s}, s:{s:s}}", "slug", "h", "command",
                  "a\033[2Jb\nFiles in /", reversed, "q\"\\", "env", "E", "\x7f\t\r", "L", longest,
                  "labels", "l", "\xef\xbb\xbf");
    cr_assert_eq(spec_decode(body, &spec, &problem), 0);
    struct plan *plan = plan_resolve(&spec, &one_port, &dirs, &err);
    CLEANUP_FREE char *page = plan_page(plan);
    for (const char *c = page; *c; c++)
        cr_assert(*c == '\n' || (*c >= ' ' && *c < 0x7f), "byte %d in\n%s", *c, page);
    cr_expect(strstr(page, "\"a\\u{1b}[2Jb\\nFiles in /\"\n"));
    cr_expect(strstr(page, "\"\\u{202e}never\\u{85}\"\n"));
    cr_expect(strstr(page, "\"q\\\"\\\\\"\n"));
    cr_expect(strstr(page, "\"\\u{7f}\\t\\r\"\n"));
    cr_expect(strstr(page, "\"\\u{feff}\"\n"));
    cr_expect(strstr(page, "xxx\"... (5000 bytes in all)\n"));
    cr_expect_lt(strlen(page), 4000);
    plan_free(plan);
}
