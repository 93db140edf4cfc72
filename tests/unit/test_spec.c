/* The plan as sent: what is taken, what is refused, and by which pointer and code. */
#include <criterion/criterion.h>
#include <regex.h>
#include <stdio.h>

#include "api/spec.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"

/* A long string in a case is written {count*character}. */
static char *expand(const char *pattern)
{
    struct text text = TEXT_INIT;

    for (const char *c = pattern; *c; c++) {
        char *end = NULL;
        unsigned long count = *c == '{' ? strtoul(c + 1, &end, 10) : 0;
        if (count > 0 && end[0] == '*' && end[2] == '}') {
            while (count-- > 0)
                text_add_bytes(&text, end + 1, 1);
            c = end + 2;
        } else {
            text_add_bytes(&text, c, 1);
        }
    }
    return text_take(&text);
}

static int decode(const char *pattern, struct spec *ret, struct problem *problem)
{
    CLEANUP_FREE char *text = expand(pattern);
    struct error err = ERROR_INIT;
    CLEANUP_JSON json_t *body = json_parse_request(text, strlen(text), &err);

    cr_assert(body, "%s: %s", pattern, err.text);
    return spec_decode(body, ret, problem);
}

/* "pointer code" of each fault, in order, separated by "; ". */
static char *faults(const struct problem *problem)
{
    struct text text = TEXT_INIT;

    for (size_t i = 0; i < json_array_size(problem->errors); i++) {
        const json_t *fault = json_array_get(problem->errors, i);
        text_addf(&text, "%s%s %s", i ? "; " : "", json_member_string(fault, "pointer"),
                  json_member_string(fault, "code"));
        cr_assert(strlen(json_member_string(fault, "detail")) > 8);
    }
    return text_take(&text);
}

Test(plan_decode, least_plan_gets_the_defaults)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;

    cr_assert_eq(decode("{\"command\":[\"true\"]}", &spec, &problem), 0);
    cr_assert_null(problem.type);
    cr_assert_null(spec.slug);
    cr_assert_str_eq(spec.backend, "auto");
    cr_assert_str_eq(spec.image, "builtin:busybox");
    cr_assert_null(spec.workdir);
    cr_assert_eq(spec.disk_mib, 0);
    cr_assert_eq(spec.cpus, 1);
    cr_assert_eq(spec.memory_mib, 256);
    cr_assert_eq(spec.command.count, 1);
    cr_assert_str_eq(spec.command.items[0], "true");
    cr_assert_null(spec.command.items[1]);
    cr_assert_eq(spec.env.count + spec.allow.count + spec.rules.count + spec.labels.count, 0);
    cr_assert(!spec.git_gate && !spec.supervise);
    cr_assert_str_eq(spec.engine, "auto");
    spec_free(&spec);
    spec_free(&spec); /* a second time is harmless */
}

Test(plan_decode, whole_plan)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;
    const char *plan =
        "{\"slug\":\"fix-flaky-test\",\"backend\":\"qemu\",\"image\":\"builtin:busybox\","
        "\"command\":[\"sh\",\"-c\",\"echo hello\",\"\"],\"workdir\":\"/workspace/.x/..y\","
        "\"env\":{\"Z\":\"1\",\"A\":\" $HOME 'q' \\\"d\\\"\\n \",\"_\":\"\"},"
        "\"resources\":{\"cpus\":16,\"memory_mib\":128},"
        "\"egress\":{\"allow\":[\"API.example.com.\",\"*.pypi.org\",\"registry.example:8443\","
        "\"192.0.2.1:80\"]},"
        "\"sidecars\":{\"git_gate\":{},\"supervise\":{}},\"labels\":{\"team/"
        "ci\":\"\",\"b\":\"x\"}}";

    cr_assert_eq(decode(plan, &spec, &problem), 0);
    cr_assert_eq(spec.command.count, 4);
    cr_assert_str_eq(spec.env.items[0].name, "Z", "the order is kept");
    cr_assert_str_eq(string_map_get(&spec.env, "A"), " $HOME 'q' \"d\"\n ");
    cr_assert_str_eq(string_map_get(&spec.env, "_"), "");
    cr_assert_null(string_map_get(&spec.env, "B"));
    cr_assert_str_eq(spec.allow.items[0], "API.example.com.");
    cr_assert_eq(spec.rules.count, 4);
    cr_assert_str_eq(spec.rules.items[0].host, "api.example.com");
    cr_assert(spec.rules.items[1].suffix && !spec.rules.items[0].suffix);
    cr_assert_str_eq(spec.rules.items[1].host, "pypi.org");
    cr_assert_eq(spec.rules.items[2].port, 8443);
    cr_assert(spec.git_gate && spec.supervise);
    cr_assert_eq(spec.labels.count, 2);
    cr_assert_eq(json_object_size(spec.json), 10);
    spec_free(&spec);
}

Test(plan_decode, rules_as_objects)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;

    cr_assert_eq(decode("{\"command\":[\"x\"],\"egress\":{\"engine\":\"squid\",\"allow\":["
                        "{\"host\":\"*.LAN.example.:8443\",\"private\":true},\"b.example\","
                        "{\"host\":\"c.example\",\"private\":false},{\"host\":\"10.0.0.7\"}]}}",
                        &spec, &problem),
                 0);
    cr_assert_str_eq(spec.engine, "squid");
    cr_assert_eq(spec.rules.count, 4);
    const struct egress_rule *rules = spec.rules.items;
    cr_assert_str_eq(rules[0].host, "lan.example");
    cr_assert(rules[0].suffix && rules[0].port == 8443 && rules[0].private_ok);
    cr_assert_str_eq(rules[1].host, "b.example");
    cr_assert(!rules[1].private_ok && !rules[2].private_ok && !rules[3].private_ok);
    cr_assert_str_eq(rules[3].host, "10.0.0.7");
    spec_free(&spec);
}

Test(plan_decode, faults_of_rules_as_objects)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;

    cr_assert_eq(decode("{\"command\":[\"x\"],\"egress\":{\"engine\":\"tinyproxy\",\"allow\":["
                        "{},{\"host\":\"*\"},{\"host\":\"a.example\",\"private\":1},"
                        "{\"host\":\"b.example\",\"privat\":true},7,"
                        "{\"host\":\"A.example.\",\"private\":true},{\"host\":null}]}}",
                        &spec, &problem),
                 -1);
    CLEANUP_FREE char *got = faults(&problem);
    cr_assert_str_eq(got, "/egress/engine unknown-value; /egress/allow/0/host required; "
                          "/egress/allow/1/host pattern; /egress/allow/2/private wrong-type; "
                          "/egress/allow/3/privat unknown-field; /egress/allow/4 wrong-type; "
                          "/egress/allow/6/host wrong-type; /egress/allow/5 duplicate");
    problem_free(&problem);
}

/* A request may carry an escaped NUL as far as the decoder, which names the field. */
Test(plan_decode, nul_is_refused_where_it_is)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;
    CLEANUP_JSON json_t *body =
        json_pack("{s:[s, s%], s:{s:s%}, s:s%}", "command", "x", "a\0b", (size_t)3, "env", "A",
                  "\0", (size_t)1, "slug", "a\0", (size_t)2);

    cr_assert_eq(spec_decode(body, &spec, &problem), -1);
    CLEANUP_FREE char *got = faults(&problem);
    cr_assert_str_eq(got, "/command/1 pattern; /env/A pattern; /slug pattern");
    problem_free(&problem);
}

Test(plan_decode, every_byte_of_a_value_is_kept)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;
    char value[128 * 3] = {0};
    size_t length = 0;

    for (unsigned c = 1; c < 256; c++) {
        if (c >= 128)
            value[length++] = (char)(0xc0 | (c >> 6));
        value[length++] = (char)(c >= 128 ? 0x80 | (c & 0x3f) : c);
    }
    CLEANUP_JSON json_t *body = json_pack("{s:[s], s:{s:s}}", "command", value, "env", "V", value);
    cr_assert_eq(spec_decode(body, &spec, &problem), 0);
    cr_assert_str_eq(spec.command.items[0], value);
    cr_assert_str_eq(string_map_get(&spec.env, "V"), value);
    spec_free(&spec);
}

#define C "\"command\":[\"x\"]"

static const struct {
    const char *body, *faults;
} refused[] = {
    {"[]", " wrong-type"},
    {"null", " wrong-type"},
    {"\"x\"", " wrong-type"},
    {"{}", "/command required"},
    {"{\"command\":[]}", "/command too-short"},
    {"{\"command\":null}", "/command wrong-type"},
    {"{\"command\":\"ls\"}", "/command wrong-type"},
    {"{\"command\":[1,\"x\",null]}", "/command/0 wrong-type; /command/2 wrong-type"},
    {"{\"command\":[\"\",\"\"]}", "/command/0 too-short"},
    {"{\"command\":[\"{131072*a}\"]}", "/command/0 too-long; /command too-long"},
    {"{\"command\":[\"{65535*a}\",\"{65536*a}\"]}", "/command too-long"},
    {"{" C ",\"comand\":1}", "/comand unknown-field"},
    {"{" C ",\"a/b~c\":1}", "/a~1b~0c unknown-field"},
    {"{" C ",\"\":1}", "/ unknown-field"},
    {"{" C ",\"{300*k}\":1}", " unknown-field"},
    {"{" C ",\"slug\":\"\"}", "/slug too-short"},
    {"{" C ",\"slug\":\"A\"}", "/slug pattern"},
    {"{" C ",\"slug\":\"a\\n\"}", "/slug pattern"},
    {"{" C ",\"slug\":\"{64*a}\"}", "/slug too-long"},
    {"{" C ",\"slug\":1}", "/slug wrong-type"},
    {"{" C ",\"backend\":\"docker\"}", "/backend unknown-value"},
    {"{" C ",\"backend\":\"QEMU\"}", "/backend unknown-value"},
    {"{" C ",\"image\":\"alpine:3.20\"}", "/image unsupported"},
    {"{" C ",\"image\":\"alpine:3.20\",\"backend\":\"qemu\"}", "/image unsupported"},
    {"{" C ",\"image\":\"-x\",\"backend\":\"smolmachines\"}", "/image pattern"},
    {"{" C ",\"image\":\"oci:srv/image\"}", "/image unsupported"},
    {"{" C ",\"image\":\"dir:/srv/../etc\"}", "/image unsupported"},
    {"{\"image\":\"alpine:3.20\",\"backend\":\"smolmachines\"}", "/command required"},
    {"{" C ",\"image\":\"a b\"}", "/image pattern"},
    {"{" C ",\"image\":\"{256*a}\"}", "/image too-long; /image unsupported"},
    {"{" C ",\"workdir\":\"\"}", "/workdir too-short"},
    {"{" C ",\"workdir\":\"x\"}", "/workdir pattern"},
    {"{" C ",\"workdir\":\"/x/\"}", "/workdir pattern"},
    {"{" C ",\"workdir\":\"/x/../y\"}", "/workdir pattern"},
    {"{" C ",\"workdir\":\"/{4095*x}\"}", "/workdir too-long"},
    {"{" C ",\"env\":[]}", "/env wrong-type"},
    {"{" C ",\"env\":{\"A\":1}}", "/env/A wrong-type"},
    {"{" C ",\"env\":{\"1A\":\"\",\"A=B\":\"\",\"\":\"\",\"A B\":\"\"}}",
     "/env/1A pattern; /env/A=B pattern; /env/ too-short; /env/A B pattern"},
    {"{" C ",\"env\":{\"{257*A}\":\"\"}}", "/env too-long"},
    {"{" C ",\"env\":{\"A\":\"{130815*x}\"}}", "/env/A too-long"},
    {"{" C ",\"env\":{\"HTTPS_PROXY\":\"x\",\"no_proxy\":\"\",\"Http_Proxy\":\"\"}}",
     "/env/HTTPS_PROXY reserved; /env/no_proxy reserved; /env/Http_Proxy reserved"},
    {"{" C ",\"env\":{\"GIT_GATE_URL\":\"x\",\"NODE_USE_ENV_PROXY\":\"0\"}}",
     "/env/GIT_GATE_URL reserved; /env/NODE_USE_ENV_PROXY reserved"},
    {"{" C ",\"resources\":{\"cpus\":0,\"memory_mib\":65537}}",
     "/resources/cpus out-of-range; /resources/memory_mib out-of-range"},
    {"{" C ",\"resources\":{\"cpus\":1.0,\"memory_mib\":\"256\"}}",
     "/resources/cpus wrong-type; /resources/memory_mib wrong-type"},
    {"{" C ",\"resources\":{\"cpus\":4294967297}}", "/resources/cpus out-of-range"},
    {"{" C ",\"resources\":{\"cpus\":-9223372036854775808}}", "/resources/cpus out-of-range"},
    {"{" C ",\"resources\":{\"cpus\":true}}", "/resources/cpus wrong-type"},
    {"{" C ",\"resources\":{\"disk_mib\":1}}", "/resources/disk_mib out-of-range"},
    {"{" C ",\"resources\":{\"disk_mib\":1048577}}", "/resources/disk_mib out-of-range"},
    {"{" C ",\"cpus\":2}", "/cpus unknown-field"},
    {"{" C ",\"egress\":{\"allow\":\"x\"}}", "/egress/allow wrong-type"},
    {"{" C ",\"egress\":{\"allow\":[1,1,\"a.example\"]}}",
     "/egress/allow/0 wrong-type; /egress/allow/1 wrong-type"},
    {"{" C ",\"egress\":{\"allowed\":[]}}", "/egress/allowed unknown-field"},
    {"{" C ",\"egress\":{\"allow\":[\"*\",\"http://x\",\"ok.example\",\"x:0\"]}}",
     "/egress/allow/0 pattern; /egress/allow/1 pattern; /egress/allow/3 pattern"},
    {"{" C
     ",\"egress\":{\"allow\":[\"a.example\",\"*.a.example\",\"A.EXAMPLE.\",\"a.example:443\"]}}",
     "/egress/allow/2 duplicate"},
    {"{" C ",\"sidecars\":{\"git_gate\":true}}", "/sidecars/git_gate wrong-type"},
    {"{" C ",\"sidecars\":{\"git_gate\":{\"x\":1}}}", "/sidecars/git_gate/x unknown-field"},
    {"{" C ",\"sidecars\":{\"supervise\":null}}", "/sidecars/supervise wrong-type"},
    {"{" C ",\"labels\":{\"a b\":\"\",\"{64*a}\":\"\",\"x\":\"{257*y}\"}}",
     "/labels/a b pattern; /labels/{64*a} too-long; /labels/x too-long"},
    {"{" C ",\"ttl_seconds\":0}", "/ttl_seconds out-of-range"},
    {"{" C ",\"ttl_seconds\":1.0}", "/ttl_seconds wrong-type"},
    {"{" C ",\"restart\":{\"policy\":\"sometimes\",\"max_retries\":-1,\"backoff_seconds\":0}}",
     "/restart/policy unknown-value; /restart/max_retries out-of-range; "
     "/restart/backoff_seconds out-of-range"},
};

Test(plan_decode, bad_input_names_pointer_and_code)
{
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        struct spec spec = {.cpus = 77};
        struct problem problem = PROBLEM_INIT;
        CLEANUP_FREE char *wanted = expand(refused[i].faults);
        cr_expect_eq(decode(refused[i].body, &spec, &problem), -1, "%.80s", refused[i].body);
        cr_assert_not_null(problem.type, "%.80s", refused[i].body);
        cr_expect_str_eq(problem.type->name, "invalid-plan");
        CLEANUP_FREE char *got = faults(&problem);
        cr_expect_str_eq(got, wanted, "%.80s: %s, wanted %s", refused[i].body, got, wanted);
        cr_expect_eq(spec.cpus, 77, "the output is untouched");
        problem_free(&problem);
    }
}

Test(plan_decode, every_fault_at_once)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;
    const char *body =
        "{\"slug\":\"-\",\"backend\":7,\"command\":[],\"workdir\":\"w\",\"env\":{\"=\":"
        "1},\"resources\":{\"cpus\":99,\"x\":0},\"egress\":{\"allow\":[\"*\"]},"
        "\"labels\":[],\"mounts\":{},\"comand\":[]}";

    cr_assert_eq(decode(body, &spec, &problem), -1);
    CLEANUP_FREE char *got = faults(&problem);
    cr_assert_str_eq(got,
                     "/slug pattern; /backend wrong-type; /command too-short; /workdir pattern; "
                     "/env/= pattern; /env/= wrong-type; /resources/cpus out-of-range; "
                     "/resources/x unknown-field; /egress/allow/0 pattern; /labels wrong-type; "
                     "/mounts wrong-type; /comand unknown-field");
    problem_free(&problem);
}

Test(plan_decode, many_faults_are_counted_and_cut)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;
    CLEANUP_JSON json_t *body = json_pack("{s:[s]}", "command", "x");

    for (int i = 0; i < 5000; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "zz%d", i);
        json_object_set_new(body, name, json_null());
    }
    cr_assert_eq(spec_decode(body, &spec, &problem), -1);
    cr_assert_eq(problem.n_faults, 5000);
    cr_assert_eq(json_array_size(problem.errors), PROBLEM_FAULTS_MAX);
    CLEANUP_JSON json_t *shown = problem_encode(&problem, NULL);
    cr_assert(strstr(json_member_string(shown, "detail"), "5000 faults"));
    problem_free(&problem);
}

Test(plan_decode, nearest_field_is_named)
{
    static const struct {
        const char *body, *words;
    } cases[] = {
        {"{" C ",\"comand\":1}", "did you mean \"command\"?"},
        {"{" C ",\"Slug\":1}", "did you mean \"slug\"?"},
        {"{" C ",\"evn\":1}", "did you mean \"env\"?"},
        {"{" C ",\"wrokdri\":1}", "did you mean \"workdir\"?"},
        {"{" C ",\"wurkdri_\":1}", "there is no field \"wurkdri_\""},
        {"{" C ",\"memory_mib\":1}", "did you mean \"/resources/memory_mib\"?"},
        {"{" C ",\"allow\":[]}", "did you mean \"/egress/allow\"?"},
        {"{" C ",\"sidecars\":{\"git-gate\":{}}}", "did you mean \"git_gate\"?"},
        {"{" C ",\"resources\":{\"memory_mb\":1}}", "did you mean \"memory_mib\"?"},
        {"{" C ",\"entirely_else\":1}", "there is no field \"entirely_else\""},
    };

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct spec spec;
        struct problem problem = PROBLEM_INIT;
        cr_assert_eq(decode(cases[i].body, &spec, &problem), -1);
        const char *detail = json_member_string(json_array_get(problem.errors, 0), "detail");
        cr_expect(strstr(detail, cases[i].words), "%s: %s", cases[i].body, detail);
        problem_free(&problem);
    }
}

/* {"a":{"b":value}} from "/a/b", with a command beside it; an object in a list from
 * "/allow/(any)/b". */
static json_t *body_with(const char *pointer, json_t *value)
{
    json_t *body = json_object();
    json_t *at = body;
    char part[32];

    for (int used; sscanf(pointer, "/%31[^/]%n", part, &used) == 1; pointer += used) {
        if (strcmp(part, "*") == 0)
            (void)snprintf(part, sizeof part, "k");
        if (!pointer[used])
            json_object_set_new(at, part, value);
        else if (strncmp(pointer, "/mounts/*/", 10) == 0) {
            json_object_set_new(at, part,
                                json_pack("[{s:s, s:s}]", "source", "/s", "target", "/t"));
            at = json_array_get(json_object_get(at, part), 0);
            used += 2;
            continue;
        } else if (strncmp(pointer, "/allow/*/", 9) == 0) {
            json_object_set_new(at, part, json_pack("[{}]"));
            at = json_array_get(json_object_get(at, part), 0);
            used += 2;
            continue;
        } else
            json_object_set_new(at, part, json_object());
        at = json_object_get(at, part);
    }
    if (!json_object_get(body, "command"))
        json_object_set_new(body, "command", json_pack("[s]", "x"));
    return body;
}

/* Whether a value at the pointer is refused there with that code; NULL: whether it is taken. Takes
 * it over. */
static bool meets(const char *pointer, json_t *value, const char *code)
{
    struct spec spec;
    struct problem problem = PROBLEM_INIT;
    CLEANUP_JSON json_t *body = body_with(pointer, value);

    if (spec_decode(body, &spec, &problem) == 0) {
        spec_free(&spec);
        return !code;
    }
    bool ret =
        code && strcmp(json_member_string(json_array_get(problem.errors, 0), "code"), code) == 0;
    problem_free(&problem);
    return ret;
}

Test(plan_decode, every_row_holds_its_type_and_bounds)
{
    size_t count;
    const struct spec_field *fields = spec_fields(&count);

    cr_assert_gt(count, 20);
    for (size_t i = 0; i < count; i++) {
        const struct spec_field *row = &fields[i];
        cr_expect(row->doc && strlen(row->doc) > 5, "%s has no words", row->pointer);
        if (strcmp(row->pointer, "/command/*") == 0 || strcmp(row->pointer, "/egress/allow/*") == 0)
            continue; /* array items: in the table of bad input */
        if (row->unsupported) {
            cr_expect(meets(row->pointer, json_null(), "unsupported"), "%s", row->pointer);
            continue;
        }
        cr_expect(meets(row->pointer, json_null(), "wrong-type"), "%s", row->pointer);
        cr_expect(meets(row->pointer, json_real(1.0), "wrong-type"), "%s", row->pointer);
        if (strcmp(row->type, "integer") == 0) {
            cr_expect(meets(row->pointer, json_integer(row->minimum), NULL));
            cr_expect(meets(row->pointer, json_integer(row->maximum), NULL));
            cr_expect(meets(row->pointer, json_integer(row->minimum - 1), "out-of-range"));
            cr_expect(meets(row->pointer, json_integer(row->maximum + 1), "out-of-range"));
            /* 0 or -1, where out of bounds: what is absent means something of its own. */
            cr_expect(row->fallback_number <= row->maximum &&
                      (row->fallback_number >= row->minimum || row->fallback_number <= 0));
        } else if (strcmp(row->type, "string") == 0) {
            CLEANUP_FREE char *high = calloc((size_t)row->maximum + 2, 1);
            memset(high, 'a', (size_t)row->maximum + 1);
            cr_expect(
                meets(row->pointer, json_string(high), row->values ? "unknown-value" : "too-long"),
                "%s", row->pointer);
            if (row->fallback)
                cr_expect(meets(row->pointer, json_string(row->fallback), NULL), "%s",
                          row->pointer);
        }
    }
}

Test(plan_decode, counts_are_bounded)
{
    static const struct {
        const char *pointer;
        bool named;
        int most;
    } cases[] = {{"/command", false, 256},
                 {"/env", true, 1024},
                 {"/labels", true, 64},
                 {"/egress/allow", false, 1000}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        for (int extra = 0; extra < 2; extra++) {
            json_t *value = cases[i].named ? json_object() : json_array();
            for (int k = 0; k < cases[i].most + extra; k++) {
                char name[32];
                (void)snprintf(name, sizeof name, "n%d", k);
                if (cases[i].named)
                    json_object_set_new(value, name, json_string(""));
                else
                    json_array_append_new(value, json_string(name));
            }
            cr_expect(meets(cases[i].pointer, value, extra ? "too-long" : NULL), "%s %d",
                      cases[i].pointer, extra);
        }
    }
}

Test(plan_decode, environment_is_bounded_in_all)
{
    CLEANUP_FREE char *big = calloc(1, 130001);
    json_t *value = json_object();

    memset(big, 'x', 130000);
    for (char name[] = "A"; *name < 'G'; (*name)++)
        json_object_set_new(value, name, json_string(big));
    cr_assert(meets("/env", json_deep_copy(value), NULL), "six of 130,000 bytes are taken");
    json_object_set_new(value, "G", json_string(big));
    cr_assert(meets("/env", value, "too-long"), "seven are above 900,000");
}

/* The patterns that clients see say what the checks do. Where a pattern says less, what it refuses
 * is refused. */
Test(plan_decode, patterns_agree_with_the_checks)
{
    static const char *const samples[] = {"a",        "A",       "0",         "-",
                                          "_",        "a-",      "-a",        "a-b",
                                          "a--b",     "a_b",     "a.b",       "a/b",
                                          "/",        "//",      "/a",        "/a/",
                                          "/a/b",     "/.",      "/..",       "/...",
                                          "/.a",      "/..a",    "/a/./b",    "/a/../b",
                                          "/a/.b",    "a b",     "a\n",       "\n",
                                          "*.a",      "*.",      "*",         "*a",
                                          "a:1",      "a:0",     "a:",        "a:65536",
                                          "a:99999",  "1.2.3.4", "a.",        "a..",
                                          "A=B",      "a@b",     "a:b",       "builtin:busybox",
                                          "\xc3\xa9", "auto",    "a/b.c_d-e", "a\x7f",
                                          "1a",       "a1"};
    size_t count;
    const struct spec_field *fields = spec_fields(&count);

    for (size_t i = 0; i < count; i++) {
        const struct spec_field *row = &fields[i];
        regex_t pattern;
        if (!row->pattern || strcmp(row->pointer, "/image") == 0)
            continue;
        bool rule = strncmp(row->pointer, "/egress/allow/*", 15) == 0;
        cr_assert_eq(regcomp(&pattern, row->pattern, REG_EXTENDED | REG_NOSUB), 0);
        for (size_t k = 0; k < COUNT_OF(samples); k++) {
            bool matches = regexec(&pattern, samples[k], 0, NULL, 0) == 0;
            bool taken = rule ? meets("/egress/allow", json_pack("[s]", samples[k]), NULL)
                              : meets(row->pointer, json_string(samples[k]), NULL);
            cr_expect(rule ? matches || !taken : matches == taken, "%s: %s", row->pointer,
                      samples[k]);
        }
        regfree(&pattern);
    }
}

Test(slug, rule)
{
    static const struct {
        const char *slug;
        bool valid;
    } cases[] = {{"a", true},    {"0", true},       {"a-b", true},      {"a--b", true},
                 {"", false},    {"-", false},      {"-a", false},      {"a-", false},
                 {"A", false},   {"a_b", false},    {"a.b", false},     {"a b", false},
                 {"a\n", false}, {"a/../b", false}, {"\xc3\xa9", false}};

    for (size_t i = 0; i < COUNT_OF(cases); i++)
        cr_expect_eq(slug_valid(cases[i].slug), cases[i].valid, "%s", cases[i].slug);
    CLEANUP_FREE char *longest = expand("{63*a}"), *longer = expand("{64*a}");
    cr_expect(slug_valid(longest) && !slug_valid(longer));
}

Test(slug, made_ones_are_valid_and_differ)
{
    char a[64], b[64];

    slug_make(a);
    slug_make(b);
    cr_assert(slug_valid(a) && slug_valid(b));
    cr_assert_str_neq(a, b);
}
