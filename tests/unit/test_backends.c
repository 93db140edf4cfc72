/* The backends' table, what their preflights say of a bare machine, and what they prepare on a
 * furnished one. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/backend.h"
#include "backends/engines.h"
#include "backends/krun_api.h"
#include "backends/qemu.h"
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "base/text.h"
#include "base/util.h"

/* A machine of our own: every path below one temporary directory. */
struct machine {
    char root[64], tools[96], libexec[96], guest[96];
    struct host host;
};

static void touch(const char *directory, const char *name, mode_t mode)
{
    char path[256];
    struct error err = ERROR_INIT;

    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    cr_assert_eq(file_write(path, "x", 1, mode, false, &err), 0, "%s", err.text);
}

static void machine_make(struct machine *machine)
{
    char images[128], boot[128];

    *machine = (struct machine){.root = "/tmp/bottled-unit-XXXXXX"};
    cr_assert_not_null(mkdtemp(machine->root));
    (void)snprintf(machine->tools, sizeof machine->tools, "%s/tools", machine->root);
    (void)snprintf(machine->libexec, sizeof machine->libexec, "%s/libexec", machine->root);
    (void)snprintf(machine->guest, sizeof machine->guest, "%s/guest", machine->root);
    (void)snprintf(images, sizeof images, "%s/images", machine->guest);
    (void)snprintf(boot, sizeof boot, "%s/root", machine->guest);
    const char *const directories[] = {machine->tools, machine->libexec, machine->guest, images,
                                       boot};
    for (size_t i = 0; i < COUNT_OF(directories); i++)
        cr_assert_eq(mkdir(directories[i], 0700), 0);
    machine->host = (struct host){.tools_path = machine->tools,
                                  .libexec_dir = machine->libexec,
                                  .guest_dir = machine->guest,
                                  .state_dir = machine->root,
                                  .run_dir = machine->root,
                                  .git_gate_program = "",
                                  .supervise_program = "",
                                  .accelerator = "tcg"};
}

static void machine_furnish(const struct machine *machine)
{
    static const char *const programs[] = {"gvproxy", "bwrap", "qemu-system-x86_64", "smolvm",
                                           "pipelock"};
    static const char *const ours[] = {"bottle-shim", "bottle-cell", "bottle-krun",
                                       "bottle-private.so"};
    static const char *const files[] = {"vmlinuz", "initramfs.img", "root/init.krun",
                                        "images/busybox.erofs"};

    for (size_t i = 0; i < COUNT_OF(programs); i++)
        touch(machine->tools, programs[i], 0700);
    for (size_t i = 0; i < COUNT_OF(ours); i++)
        touch(machine->libexec, ours[i], 0700);
    for (size_t i = 0; i < COUNT_OF(files); i++)
        touch(machine->guest, files[i], 0600);
}

static void machine_remove(const struct machine *machine)
{
    (void)directory_remove(machine->root, NULL, NULL);
}

static void decode(const char *body, struct spec *ret)
{
    struct problem problem = PROBLEM_INIT;
    CLEANUP_JSON json_t *json = json_parse(body, strlen(body), NULL);

    cr_assert_eq(spec_decode(json, ret, &problem), 0, "%s", problem.detail);
}

static struct plan *resolve(const struct machine *machine, const char *body)
{
    const struct allocation allocation = {.subnet = 50, .host_ports = {51001, 51002, 51003}};
    const struct plan_dirs dirs = {machine->root, machine->root, NULL};
    struct error err = ERROR_INIT;
    struct spec spec;

    decode(body, &spec);
    if (!spec.slug)
        spec.slug = strdup("unit");
    struct plan *plan = plan_resolve(&spec, &allocation, &dirs, &err);
    cr_assert_not_null(plan, "%s", err.text);
    return plan;
}

static const struct tool *row(const struct preflight *preflight, const char *name)
{
    for (size_t i = 0; i < preflight->count; i++)
        if (strcmp(preflight->tools[i].name, name) == 0)
            return &preflight->tools[i];
    return NULL;
}

Test(preflight, each_missing_tool_is_named_with_what_to_do)
{
    struct machine machine;
    struct preflight preflight;

    machine_make(&machine);
    for (size_t i = 0; i < n_backends; i++) {
        backends[i].preflight(&machine.host, NULL, &preflight);
        cr_expect_not(preflight.ok, "%s", backends[i].name);
        cr_expect_gt(preflight.count, 3);
        for (size_t k = 0; k < preflight.count; k++) {
            const struct tool *tool = &preflight.tools[k];
            cr_expect(tool->found || (tool->hint && tool->hint[0] && tool->detail[0]), "%s: %s",
                      backends[i].name, tool->name);
        }
        const struct tool *gvproxy = row(&preflight, "gvproxy");
        cr_assert_not_null(gvproxy);
        cr_expect_not(gvproxy->found);
        cr_expect_not_null(strstr(gvproxy->hint, "go install"));
    }
    machine_remove(&machine);
}

Test(preflight, one_missing_tool_is_the_only_one_named)
{
    static const char *const removed[] = {"tools/gvproxy", "libexec/bottle-cell", "guest/vmlinuz",
                                          "guest/images/busybox.erofs"};
    static const char *const names[] = {"gvproxy", "bottle-cell", "guest kernel", "guest image"};
    struct machine machine;
    struct preflight preflight;
    char path[256];

    machine_make(&machine);
    for (size_t i = 0; i < COUNT_OF(removed); i++) {
        machine_furnish(&machine);
        (void)snprintf(path, sizeof path, "%s/%s", machine.root, removed[i]);
        cr_assert_eq(unlink(path), 0);
        backend_find("qemu")->preflight(&machine.host, NULL, &preflight);
        cr_expect_not(preflight.ok);
        for (size_t k = 0; k < preflight.count; k++)
            cr_expect_eq(preflight.tools[k].found, strcmp(preflight.tools[k].name, names[i]) != 0,
                         "%s without %s", preflight.tools[k].name, removed[i]);
    }
    machine_remove(&machine);
}

/* The library of the tests: it exports what the table names, less one. */
static void make_library(const struct machine *machine, const char *name, const char *less)
{
    char source[256], library[256];
    CLEANUP_TEXT struct text code = TEXT_INIT;
    struct error err = ERROR_INIT;
    char *output = NULL;
    int status = -1;

    for (size_t i = 0; i < n_krun_functions; i++)
        if (krun_functions[i].needed_in & 2 && strcmp(krun_functions[i].name, less) != 0)
            text_addf(&code, "int %s(void) { return 0; }\n", krun_functions[i].name);
    (void)snprintf(source, sizeof source, "%s/library.c", machine->root);
    (void)snprintf(library, sizeof library, "%s/%s", machine->tools, name);
    cr_assert_eq(file_write(source, code.data, code.length, 0600, false, &err), 0);
    const char *const argv[] = {"/usr/bin/cc", "-shared", "-fPIC", "-Wl,-soname,libkrun.so.2",
                                "-o",          library,   source,  NULL};
    const char *const env[] = {"PATH=/usr/bin:/bin", NULL};
    cr_assert_eq(process_run(argv, env, 30000, 4096, &output, &status, &err), 0, "%s", err.text);
    cr_assert_eq(status, 0, "%s", output);
    free(output);
}

/* A machine on which smolmachines could launch. */
static void machine_furnish_smolmachines(struct machine *machine)
{
    machine_furnish(machine);
    make_library(machine, "libkrun.so", "");
    touch(machine->tools, "libkrunfw.so.5", 0600);
    machine->host.kvm_works = true;
    (void)snprintf(machine->host.kvm_detail, sizeof machine->host.kvm_detail, "KVM works");
}

Test(preflight, smolmachines_names_the_one_thing_that_is_missing)
{
    static const char *const removed[][2] = {
        {"tools/gvproxy", "gvproxy"},           {"tools/libkrunfw.so.5", "libkrunfw"},
        {"libexec/bottle-krun", "bottle-krun"}, {"guest/root/init.krun", "guest root"},
        {"tools/libkrun.so", "libkrun"},        {"tools/smolvm", "smolvm"},
    };
    struct machine machine;
    struct preflight preflight;
    char path[256];

    machine_make(&machine);
    machine_furnish_smolmachines(&machine);
    backend_find("smolmachines")->preflight(&machine.host, NULL, &preflight);
    cr_expect(preflight.ok);
    cr_expect_str_eq(row(&preflight, "libkrun")->version, "libkrun.so.2");
    for (size_t i = 0; i < COUNT_OF(removed); i++) {
        machine_furnish_smolmachines(&machine);
        (void)snprintf(path, sizeof path, "%s/%s", machine.root, removed[i][0]);
        cr_assert_eq(unlink(path), 0);
        backend_find("smolmachines")->preflight(&machine.host, NULL, &preflight);
        cr_expect_not(preflight.ok, "%s", removed[i][0]);
        cr_expect_not(row(&preflight, removed[i][1])->found, "%s", removed[i][0]);
    }
    machine_furnish_smolmachines(&machine);
    machine.host.kvm_works = false;
    backend_find("smolmachines")->preflight(&machine.host, NULL, &preflight);
    cr_expect_not(row(&preflight, "KVM")->found);
    machine_remove(&machine);
}

Test(preflight, a_library_that_lacks_a_function_is_named_with_it)
{
    struct machine machine;
    struct preflight preflight;
    char path[256];

    machine_make(&machine);
    machine_furnish_smolmachines(&machine);
    make_library(&machine, "libkrun.so", "krun_add_disk");
    backend_find("smolmachines")->preflight(&machine.host, NULL, &preflight);
    cr_expect_not(row(&preflight, "libkrun")->found);
    cr_expect_str_eq(row(&preflight, "libkrun")->detail,
                     "libkrun of the second generation (libkrun.so.2) lacks krun_add_disk");
    touch(machine.tools, "libkrun.so", 0700);
    backend_find("smolmachines")->preflight(&machine.host, NULL, &preflight);
    cr_expect_not_null(strstr(row(&preflight, "libkrun")->detail, "is not a library"));
    (void)snprintf(path, sizeof path, "%s/elsewhere.so", machine.tools);
    machine.host.libkrun = path;
    backend_find("smolmachines")->preflight(&machine.host, NULL, &preflight);
    cr_expect_not_null(strstr(row(&preflight, "libkrun")->detail, "elsewhere.so is not there"));
    make_library(&machine, "elsewhere.so", "");
    backend_find("smolmachines")->preflight(&machine.host, NULL, &preflight);
    cr_expect(preflight.ok);
    machine_remove(&machine);
}

Test(preflight, a_plan_that_asks_for_a_sidecar_needs_its_program)
{
    struct machine machine;
    struct preflight preflight;
    struct spec spec;
    char program[256];

    machine_make(&machine);
    machine_furnish(&machine);
    decode("{\"command\":[\"true\"],\"sidecars\":{\"git_gate\":{}}}", &spec);
    backend_find("qemu")->preflight(&machine.host, &spec, &preflight);
    cr_expect_not(preflight.ok);
    cr_assert_not_null(row(&preflight, "git-gate"));
    cr_expect_not_null(strstr(row(&preflight, "git-gate")->hint, "git_gate_program"));
    touch(machine.tools, "gate", 0700);
    (void)snprintf(program, sizeof program, "%s/gate", machine.tools);
    machine.host.git_gate_program = program;
    backend_find("qemu")->preflight(&machine.host, &spec, &preflight);
    cr_expect(preflight.ok);
    spec_free(&spec);
    machine_remove(&machine);
}

Test(backends, every_row_prepares_its_files)
{
    static const char *const own_file[] = {"smolfile.toml", "qemu.json"};
    struct machine machine;
    struct error err = ERROR_INIT;

    machine_make(&machine);
    machine_furnish(&machine);
    cr_assert_eq(n_backends, COUNT_OF(own_file));
    for (size_t i = 0; i < n_backends; i++) {
        struct plan *plan = resolve(&machine, "{\"command\":[\"true\"]}");
        plan->backend = backends[i].name;
        cr_assert_eq(backends[i].prepare(&machine.host, plan, &err), 0, "%s", err.text);
        cr_expect_not_null(plan_find_file(plan, "gvproxy.yaml"));
        cr_expect_not_null(plan_find_file(plan, own_file[i]), "%s", backends[i].name);
        cr_expect_not_null(plan_find_file(plan, "pipelock.yaml"));
        cr_expect_str_eq(plan->engine, "pipelock");
        plan_free(plan);
    }
    machine_remove(&machine);
}

Test(backends, smolmachines_launches_the_rendered_argv)
{
    struct machine machine;
    struct error err = ERROR_INIT;
    json_t *vm = NULL;

    machine_make(&machine);
    machine_furnish_smolmachines(&machine);
    struct plan *plan = resolve(&machine, "{\"command\":[\"true\"]}");
    plan->backend = "smolmachines";
    cr_assert_eq(backend_find("smolmachines")->prepare(&machine.host, plan, &err), 0, "%s",
                 err.text);
    cr_expect_str_eq(plan->accelerator, "kvm");
    cr_assert_eq(backend_find("smolmachines")->launch(&machine.host, plan, &vm, &err), 0, "%s",
                 err.text);
    const struct plan_file *file = plan_find_file(plan, "krun.json");
    CLEANUP_JSON json_t *shown = json_parse(file->content, file->length, &err);
    cr_expect(json_equal(json_object_get(shown, "argv"), json_object_get(vm, "argv")));
    cr_expect(json_is_true(json_object_get(vm, "dev_kvm")));
    json_decref(vm);
    plan_free(plan);
    machine_remove(&machine);
}

Test(backends, why_is_told)
{
    struct machine machine;
    char why[512];

    machine_make(&machine);
    machine_furnish_smolmachines(&machine);
    struct plan *plan = resolve(&machine, "{\"command\":[\"true\"]}");
    machine.host.kvm_works = true;
    (void)snprintf(machine.host.kvm_detail, sizeof machine.host.kvm_detail, "a guest booted");
    plan->backend = "smolmachines";
    backend_explain(&machine.host, plan, why, sizeof why);
    cr_expect_str_eq(why, "auto: smolmachines is taken; a guest booted");
    machine.host.kvm_works = false;
    (void)snprintf(machine.host.kvm_detail, sizeof machine.host.kvm_detail, "no such device");
    plan->backend = "qemu";
    backend_explain(&machine.host, plan, why, sizeof why);
    cr_expect_str_eq(why, "auto: smolmachines can't run here (KVM: no such device); qemu is taken; "
                          "no such device");
    plan_free(plan);
    plan = resolve(&machine, "{\"command\":[\"true\"],\"backend\":\"qemu\"}");
    plan->backend = "qemu";
    backend_explain(&machine.host, plan, why, sizeof why);
    cr_expect_str_eq(why, "the plan asks for qemu; no such device");
    plan_free(plan);
    machine_remove(&machine);
}

Test(backends, smolmachines_says_why_it_can_not_launch)
{
    struct machine machine;
    struct error err = ERROR_INIT;
    json_t *vm = NULL;

    machine_make(&machine);
    machine_furnish_smolmachines(&machine);
    struct plan *plan = resolve(&machine, "{\"command\":[\"true\"]}");
    plan->backend = "smolmachines";
    cr_assert_eq(backend_find("smolmachines")->prepare(&machine.host, plan, &err), 0);
    machine.host.kvm_works = false;
    (void)snprintf(machine.host.kvm_detail, sizeof machine.host.kvm_detail, "no such device");
    cr_expect_eq(backend_find("smolmachines")->launch(&machine.host, plan, &vm, &err), -1);
    cr_expect_str_eq(err.kind, "preflight-failed");
    cr_expect_not_null(strstr(err.text, "no such device"));
    machine.host.kvm_works = true;
    machine.host.tools_path = "/nonexistent";
    cr_expect_eq(backend_find("smolmachines")->launch(&machine.host, plan, &vm, &err), -1);
    cr_expect_not_null(strstr(err.text, "libkrun was not found"));
    plan_free(plan);
    machine_remove(&machine);
}

Test(backends, auto_and_unknown_names)
{
    struct machine machine;

    machine_make(&machine);
    machine_furnish(&machine);
    cr_expect_str_eq(backend_choose(&machine.host, "auto")->name, "qemu");
    cr_expect_str_eq(backend_choose(&machine.host, "smolmachines")->name, "smolmachines");
    cr_expect_null(backend_choose(&machine.host, "docker"));
    machine_furnish_smolmachines(&machine);
    cr_expect_str_eq(backend_choose(&machine.host, "auto")->name, "smolmachines");
    machine.host.kvm_works = false;
    cr_expect_str_eq(backend_choose(&machine.host, "auto")->name, "qemu");
    machine_remove(&machine);
}

Test(backends, the_launch_spec_runs_exactly_the_rendered_argv)
{
    struct machine machine;
    struct error err = ERROR_INIT;

    machine_make(&machine);
    machine_furnish(&machine);
    struct plan *plan =
        resolve(&machine, "{\"command\":[\"echo\",\"a b\"],\"env\":{\"K\":\"v\\n\"}}");
    plan->backend = "qemu";
    cr_assert_eq(backend_find("qemu")->prepare(&machine.host, plan, &err), 0, "%s", err.text);
    CLEANUP_JSON json_t *spec = launch_spec(&machine.host, plan, 1234, "token", &err);
    cr_assert_not_null(spec, "%s", err.text);
    const struct plan_file *file = plan_find_file(plan, "qemu.json");
    CLEANUP_JSON json_t *rendered = json_parse(file->content, file->length, &err);
    cr_expect(json_equal(json_object_get(json_object_get(spec, "vm"), "argv"),
                         json_object_get(rendered, "argv")));
    cr_expect_eq(json_member_integer(spec, "uid", -1), 1234);
    cr_expect_eq(json_array_size(json_object_get(spec, "sidecars")), 1);
    plan_free(plan);
    machine_remove(&machine);
}

/* --- Templates -------------------------------------------------------------------------------- */

static struct plan *prepared(struct machine *machine, const char *body)
{
    struct error err = ERROR_INIT;
    struct plan *plan = resolve(machine, body);

    plan->backend = "qemu";
    cr_assert_eq(backend_find("qemu")->prepare(&machine->host, plan, &err), 0, "%s", err.text);
    return plan;
}

static char *template_lines(struct machine *machine, const struct plan *plan)
{
    struct error err = ERROR_INIT;
    struct text text = TEXT_INIT;

    cr_assert_eq(qemu_templating.lines(&machine->host, plan, &text, &err), 0, "%s", err.text);
    return text_take(&text);
}

Test(templates, what_makes_a_template_another)
{
    static const struct {
        const char *body;
        bool same;
    } cases[] = {
        {"{\"command\":[\"true\"]}", true},
        {"{\"slug\":\"other\",\"command\":[\"sh\"],\"env\":{\"A\":\"b\"}}", true},
        {"{\"command\":[\"true\"],\"resources\":{\"memory_mib\":512}}", false},
        {"{\"command\":[\"true\"],\"resources\":{\"cpus\":2}}", false},
        {"{\"command\":[\"true\"],\"resources\":{\"disk_mib\":64}}", false},
    };
    struct machine machine;

    machine_make(&machine);
    machine_furnish(&machine);
    struct plan *plan = prepared(&machine, cases[0].body);
    CLEANUP_FREE char *first = template_lines(&machine, plan);
    plan_free(plan);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        plan = prepared(&machine, cases[i].body);
        CLEANUP_FREE char *lines = template_lines(&machine, plan);
        cr_expect_eq(strcmp(lines, first) == 0, cases[i].same, "case %zu", i);
        plan_free(plan);
    }
    static const char *const files[] = {"vmlinuz", "initramfs.img", "images/busybox.erofs"};
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        touch(machine.guest, files[i], 0600); /* a new one in its place */
        plan = prepared(&machine, cases[0].body);
        CLEANUP_FREE char *lines = template_lines(&machine, plan);
        cr_expect_str_neq(lines, first, "%s", files[i]);
        plan_free(plan);
    }
    machine_remove(&machine);
}

Test(templates, a_bottle_reads_it_and_its_maker_writes_it)
{
    struct machine machine;
    struct error err = ERROR_INIT;
    json_t *use = NULL, *vm = NULL, *save = NULL;

    machine_make(&machine);
    machine_furnish(&machine);
    struct plan *plan = prepared(&machine, "{\"command\":[\"true\"]}");
    cr_assert_eq(qemu_templating.use(&machine.host, plan, "/t/one", &use, &err), 0, "%s", err.text);
    cr_assert_eq(qemu_templating.make(&machine.host, plan, "/t/new", &vm, &save, &err), 0);
    const json_t *files[] = {json_object_get(use, "binds"), json_object_get(vm, "binds")};
    bool seen[2] = {false, false};
    for (size_t i = 0; i < 2; i++) {
        size_t n;
        const json_t *bind;
        json_array_foreach(files[i], n, bind)
        {
            bool ram = strcmp(json_string_value(json_array_get(bind, 1)), QEMU_TEMPLATE_RAM) == 0;
            bool writable = json_is_true(json_array_get(bind, 2));
            cr_expect(!writable || (ram && i == 1));
            seen[i] |= ram && writable == (i == 1);
        }
    }
    cr_expect(seen[0] && seen[1]);
    const struct plan_file *file = plan_find_file(plan, "qemu.json");
    CLEANUP_JSON json_t *rendered = json_parse(file->content, file->length, &err);
    cr_expect(json_equal(json_object_get(use, "argv"), json_object_get(rendered, "restore")),
              "what runs is what was shown");
    cr_expect_str_eq(json_member_string(use, "state"), "/t/one/state");
    cr_expect_str_eq(json_member_string(save, "state"), "/t/new/state");
    cr_expect_null(backend_find("smolmachines")->templating);
    json_decref(use);
    json_decref(vm);
    json_decref(save);
    plan_free(plan);
    machine_remove(&machine);
}

/* What a plan may ask for, in the field's table, is "auto" and the proxy's rows in their order. */
Test(engines, names_are_those_of_the_field)
{
    size_t count, named = 1;
    const struct spec_field *fields = spec_fields(&count), *field = NULL;

    for (size_t i = 0; i < count; i++)
        if (strcmp(fields[i].pointer, "/egress/engine") == 0)
            field = &fields[i];
    cr_assert_not_null(field);
    cr_expect_str_eq(field->values[0], "auto");
    for (size_t i = 0; i < n_engines; i++)
        if (engines[i].sidecar == SIDECAR_PIPELOCK)
            cr_expect_str_eq(field->values[named++], engines[i].name);
    cr_expect_null(field->values[named]);
}

/* A plan's word comes first, then what the bottle has, then what is found. */
Test(engines, which_one_a_bottle_gets)
{
    static const struct {
        const char *plan, *had, *gets;
    } cases[] = {
        {"{\"command\":[\"true\"]}", NULL, "pipelock"},
        {"{\"command\":[\"true\"],\"egress\":{\"engine\":\"squid\"}}", NULL, "squid"},
        {"{\"command\":[\"true\"],\"egress\":{\"engine\":\"pipelock\"}}", "squid", "pipelock"},
        {"{\"command\":[\"true\"],\"egress\":{\"engine\":\"auto\"}}", "squid", "squid"},
    };
    struct machine machine;
    struct error err = ERROR_INIT;

    machine_make(&machine);
    machine_furnish(&machine);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct plan *plan = resolve(&machine, cases[i].plan);
        plan->engine = cases[i].had;
        cr_assert_eq(engines_prepare(&machine.host, plan, &err), 0, "%s", err.text);
        cr_expect_str_eq(plan->engine, cases[i].gets, "case %zu", i);
        cr_expect_not_null(plan_find_file(plan, engine_find(cases[i].gets)->file));
        plan_free(plan);
    }
    machine_remove(&machine);
}

Test(preflight, the_engine_that_was_asked_for_is_missing)
{
    struct machine machine;
    struct preflight preflight;
    struct spec spec;

    machine_make(&machine);
    machine_furnish(&machine); /* pipelock is there */
    decode("{\"command\":[\"true\"],\"egress\":{\"engine\":\"squid\"}}", &spec);
    machine.host.tools_path = machine.tools;
    backend_find("qemu")->preflight(&machine.host, &spec, &preflight);
    cr_assert_not_null(row(&preflight, "squid"));
    cr_expect_null(row(&preflight, "pipelock"));
    cr_expect_eq(preflight.ok, row(&preflight, "squid")->found);
    spec_free(&spec);
    machine_remove(&machine);
}

Test(engines, rows_are_whole)
{
    for (size_t i = 0; i < n_engines; i++) {
        cr_expect(engines[i].name && engines[i].hint);
        cr_expect_eq(engines[i].file == NULL, engines[i].render == NULL, "%s", engines[i].name);
        cr_expect(engines[i].sidecar < N_SIDECARS);
        /* Each that has a config can check a new one, and says when it is in force. */
        cr_expect_eq(engines[i].file == NULL, engines[i].check[0] == NULL, "%s", engines[i].name);
        cr_expect_eq(engines[i].file == NULL, engines[i].in_force == NULL, "%s", engines[i].name);
        cr_expect_eq(engine_find(engines[i].name) != NULL, engines[i].sidecar == SIDECAR_PIPELOCK);
    }
}
