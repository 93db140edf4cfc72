/* The plan's table of fields, and the rules that need more than one row.
 *
 * Bounds, and where they come from: an argument or a NAME=value with its NUL is at most the
 * kernel's MAX_ARG_STRLEN, 131,072 bytes (execve(2)); a name of 256 leaves 130,814 for the value.
 * Environment and command together stay far below the 2 MiB that the guest's kernel allows in all.
 * A path is at most PATH_MAX less its NUL. */
#include "api/spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/image.h"
#include "api/plan.h"
#include "api/spec_items.h"
#include "base/util.h"

enum {
    ENV_NAME_MAX = 256,
    ENV_VALUE_MAX = ARG_STRING_MAX - ENV_NAME_MAX - 2,
    RULES_MAX = 1000,
    DISK_LEAST_MIB = 16,
};

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

static const char *slug_check(const char *value)
{
    return slug_valid(value)
               ? NULL
               : "may hold a-z, 0-9 and '-', and begins and ends with a letter or digit";
}

static const char *image_check(const char *value)
{
    bool first = *value && strchr(LOWER UPPER DIGITS, *value);

    return first && value[strspn(value, LOWER UPPER DIGITS "._/:@-")] == '\0'
               ? NULL
               : "is no image name: it begins with a letter or digit and holds letters, digits and "
                 "._/:@-";
}

const char *workdir_check(const char *value)
{
    const char *part = value;

    if (strcmp(value, "/") == 0)
        return NULL;
    if (*value != '/')
        return "must be absolute: it begins with '/'";
    while (*part == '/') {
        size_t length = strcspn(++part, "/");
        if (length == 0)
            return "must be normal: no \"//\", and no '/' at its end";
        if (strncmp(part, "..", length) == 0 && length <= 2)
            return "must be normal: no \".\" and no \"..\" in it";
        part += length;
    }
    return NULL;
}

static const char *env_name_check(const char *value)
{
    bool first = *value && !strchr(DIGITS, *value);

    return first && value[strspn(value, LOWER UPPER DIGITS "_")] == '\0'
               ? NULL
               : "must begin with a letter or '_' and hold letters, digits and '_'";
}

static const char *label_name_check(const char *value)
{
    return value[strspn(value, LOWER UPPER DIGITS "._/-")] == '\0'
               ? NULL
               : "may hold letters, digits and . _ / -";
}

static const char *rule_check(const char *value)
{
    struct egress_rule rule = {0};
    const char *wrong = egress_rule_parse(value, &rule);

    free((char *)rule.host);
    return wrong;
}

static const char *const backend_values[] = {"auto", "qemu", "smolmachines", NULL};
static const char *const reload_signal_values[] = {"HUP",  "INT",  "QUIT", "USR1",
                                                   "USR2", "TERM", NULL};
static const char *const restart_values[] = {"never", "on-failure", "always", NULL};
static const char *const engine_values[] = {"auto", "pipelock", "squid", NULL};

const struct field field_argument = {
    .name = "*", .type = FIELD_STRING, .max = ARG_STRING_MAX - 1, .doc = "One argument."};

const struct field field_env_name = {.type = FIELD_STRING,
                                     .min = 1,
                                     .max = ENV_NAME_MAX,
                                     .pattern = "^[A-Za-z_][A-Za-z0-9_]*$",
                                     .check = env_name_check};
const struct field field_env_value = {
    .name = "*",
    .type = FIELD_STRING,
    .max = ENV_VALUE_MAX,
    .doc = "A variable's value; it reaches the guest byte for byte."};

static const struct field label_name = {.type = FIELD_STRING,
                                        .min = 1,
                                        .max = 63,
                                        .pattern = "^[A-Za-z0-9._/-]{1,63}$",
                                        .check = label_name_check};
static const struct field label_value = {
    .name = "*", .type = FIELD_STRING, .max = 256, .doc = "A label's value."};

#define RULE_PATTERN "^([*][.])?[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9._])?(:[1-9][0-9]{0,4})?$"
#define RULE_DOC                                                                                   \
    "A host name, \"*.\" and a suffix, or an IPv4 address; then, if wanted, \":\" and a port. "    \
    "Without a port: 443 and 80."

/* A rule as an object. */
struct rule_form {
    char *host;
    bool private_ok;
};
_Static_assert(sizeof(struct rule_form) <= FIELD_FORM_SIZE, "the decoder's room for it");

static const struct field rule_rows[] = {
    {.name = "host",
     .type = FIELD_STRING,
     .flags = FIELD_REQUIRED,
     .offset = offsetof(struct rule_form, host),
     .min = 1,
     .max = 255,
     .pattern = RULE_PATTERN,
     .check = rule_check,
     .doc = RULE_DOC},
    {.name = "private",
     .type = FIELD_BOOLEAN,
     .offset = offsetof(struct rule_form, private_ok),
     .doc = "True: also where it leads to a loopback, private, link-local or other address that is "
            "not public. Without it those are refused, whatever name leads there."},
};

static const struct field rule_item = {.name = "*",
                                       .type = FIELD_STRING,
                                       .min = 1,
                                       .max = 255,
                                       .pattern = RULE_PATTERN,
                                       .check = rule_check,
                                       .fields = rule_rows,
                                       .n_fields = COUNT_OF(rule_rows),
                                       .doc = RULE_DOC};

static const struct field secret_rows[] = {
    {.name = "from_file",
     .type = FIELD_STRING,
     .offset = offsetof(struct secret_ref, from_file),
     .min = 1,
     .max = 4095,
     .pattern = WORKDIR_PATTERN,
     .check = workdir_check,
     .doc = "A file of the host, below one of the operator's secret_roots."},
    {.name = "from_env",
     .type = FIELD_STRING,
     .offset = offsetof(struct secret_ref, from_env),
     .min = 1,
     .max = ENV_NAME_MAX,
     .pattern = "^[A-Za-z_][A-Za-z0-9_]*$",
     .check = env_name_check,
     .doc = "A variable that bottled was started with, one of the operator's secret_env."},
};

static const struct field secret_item = {.name = "*",
                                         .type = FIELD_OBJECT,
                                         .min = 1,
                                         .max = 1,
                                         .size = sizeof(struct secret_ref),
                                         .fields = secret_rows,
                                         .n_fields = COUNT_OF(secret_rows),
                                         .doc = "Where its value comes from: one of the two."};

static const struct field resource_rows[] = {
    {.name = "cpus",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct spec, cpus),
     .min = 1,
     .max = 16,
     .fallback_number = 1,
     .doc = "Virtual processors."},
    {.name = "memory_mib",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct spec, memory_mib),
     .min = 128,
     .max = 65536,
     .fallback_number = 256,
     .doc = "The guest's memory in MiB."},
    {.name = "disk_mib",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct spec, disk_mib),
     .max = DISK_MAX_MIB,
     .doc = "The size in MiB of a disk for what the guest writes, kept over stop and start; "
            "without it, or 0, that is "
            "in memory, and gone with each stop. 16 at least."},
};

static const struct field egress_rows[] = {
    {.name = "allow",
     .type = FIELD_LIST,
     .offset = offsetof(struct spec, allow),
     .max = RULES_MAX,
     .item = &rule_item,
     .doc = "What the bottle may reach through its proxy; nothing when empty or absent."},
    {.name = "engine",
     .type = FIELD_STRING,
     .offset = offsetof(struct spec, engine),
     .max = 32,
     .values = engine_values,
     .fallback = "auto",
     .doc = "The egress proxy's program; auto takes the first of the list that this host has."},
};

static const struct field sidecar_rows[] = {
    {.name = "git_gate",
     .type = FIELD_FLAG,
     .offset = offsetof(struct spec, git_gate),
     .doc = "Present: the git gate runs beside the bottle."},
    {.name = "supervise",
     .type = FIELD_FLAG,
     .offset = offsetof(struct spec, supervise),
     .doc = "Present: the supervisor runs beside the bottle."},
};

static const struct field restart_rows[] = {
    {.name = "policy",
     .type = FIELD_STRING,
     .offset = offsetof(struct spec, restart.policy),
     .max = 10,
     .values = restart_values,
     .fallback = "never",
     .doc = "on-failure: when the command ends with another code than 0, or the bottle fails; "
            "always: also when the command ends with 0. A stop by a client ends it."},
    {.name = "max_retries",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct spec, restart.max_retries),
     .max = 1000000,
     .fallback_number = -1,
     .doc = "So many times in a row without a healthy run between, then it stays as it ended; "
            "0: no end. Without it 10 with on-failure, no end with always."},
    {.name = "backoff_seconds",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct spec, restart.backoff_seconds),
     .min = 1,
     .max = 86400,
     .fallback_number = 1,
     .doc = "From the end to the first restart; each one after that waits twice as long."},
    {.name = "backoff_max_seconds",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct spec, restart.backoff_max_seconds),
     .min = 1,
     .max = 86400,
     .fallback_number = 60,
     .doc = "The longest such wait."},
    {.name = "healthy_seconds",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct spec, restart.healthy_seconds),
     .min = 1,
     .max = 86400,
     .fallback_number = 60,
     .doc = "A command that ran for so long was healthy: what comes after counts anew."},
};

static const struct field plan_rows[] = {
    {.name = "slug",
     .type = FIELD_STRING,
     .offset = offsetof(struct spec, slug),
     .min = 1,
     .max = SLUG_MAX,
     .pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
     .check = slug_check,
     .doc = "The bottle's name; made up when absent."},
    {.name = "backend",
     .type = FIELD_STRING,
     .offset = offsetof(struct spec, backend),
     .max = 32,
     .values = backend_values,
     .fallback = "auto",
     .doc = "What runs the virtual machine; auto takes the best that this host can run."},
    {.name = "image",
     .type = FIELD_STRING,
     .offset = offsetof(struct spec, image),
     .min = 1,
     .max = 255,
     .pattern = "^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
     .check = image_check,
     .fallback = BUILTIN_IMAGE,
     .doc = "The guest's root file system: \"" BUILTIN_IMAGE
            "\", or an image that was imported before by POST "
            "/images: its source (\"oci:PATH\", \"dir:PATH\", \"docker://NAME\": the newest import "
            "of it) or "
            "its id."},
    {.name = "command",
     .type = FIELD_LIST,
     .offset = offsetof(struct spec, command),
     .min = 1,
     .max = 256,
     .total = ARG_STRING_MAX,
     .item = &field_argument,
     .doc = "The program to run and its arguments; no shell takes part. It replaces the image's "
            "own ENTRYPOINT and "
            "CMD, both; without it those are run. The built-in image has none."},
    {.name = "workdir",
     .type = FIELD_STRING,
     .offset = offsetof(struct spec, workdir),
     .min = 1,
     .max = 4095,
     .pattern = WORKDIR_PATTERN,
     .check = workdir_check,
     .doc = "The directory in the guest that the command starts in; made when it is missing. "
            "Without it the image's "
            "WORKDIR, or /."},
    {.name = "env",
     .type = FIELD_MAP,
     .offset = offsetof(struct spec, env),
     .max = 1024,
     .total = 900000,
     .names = &field_env_name,
     .item = &field_env_value,
     .doc = "Variables for the command. Those that bottled sets itself are refused."},
    {.name = "resources",
     .type = FIELD_OBJECT,
     .fields = resource_rows,
     .n_fields = COUNT_OF(resource_rows),
     .doc = "What the guest gets."},
    {.name = "egress",
     .type = FIELD_OBJECT,
     .fields = egress_rows,
     .n_fields = COUNT_OF(egress_rows),
     .doc = "What the bottle may reach."},
    {.name = "sidecars",
     .type = FIELD_OBJECT,
     .fields = sidecar_rows,
     .n_fields = COUNT_OF(sidecar_rows),
     .doc = "Helpers beside the bottle; the egress proxy is always one."},
    {.name = "labels",
     .type = FIELD_MAP,
     .offset = offsetof(struct spec, labels),
     .max = 64,
     .names = &label_name,
     .item = &label_value,
     .doc = "Names and values for the client's own use; GET /bottles filters by them."},
    {.name = "secrets",
     .type = FIELD_MAP,
     .offset = offsetof(struct spec, secrets),
     .max = SECRETS_MAX,
     .names = &field_env_name,
     .item = &secret_item,
     .doc = "Variables whose values are not in the plan: they are read at each start and each "
            "reload, and reach nothing but the guest's memory, as variables and as files in "
            "/run/secrets."},
    {.name = "reload_signal",
     .type = FIELD_STRING,
     .offset = offsetof(struct spec, reload_signal),
     .max = 5,
     .values = reload_signal_values,
     .doc = "The signal that a reload of the secrets sends to the command's process group; "
            "without it none."},
    {.name = "mounts",
     .type = FIELD_LIST,
     .offset = offsetof(struct spec, mounts),
     .max = MOUNTS_MAX,
     .item = &field_mount,
     .doc = "Directories of the host that the guest sees, live. What it makes in one that is not "
            "read-only belongs on the host to the owner of the directory."},
    {.name = "ttl_seconds",
     .type = FIELD_INTEGER,
     .offset = offsetof(struct spec, ttl_seconds),
     .min = 1,
     .max = TTL_SECONDS_MAX,
     .doc = "So long after it was made, or after a PATCH of this, the bottle is stopped and "
            "deleted with all that it has; without it never."},
    {.name = "restart",
     .type = FIELD_OBJECT,
     .fields = restart_rows,
     .n_fields = COUNT_OF(restart_rows),
     .doc = "Whether and when the bottle is started again by itself once it has ended."},
};

const struct field *spec_rows(size_t *ret_count)
{
    *ret_count = COUNT_OF(plan_rows);
    return plan_rows;
}

/* The program's name; an empty one could never be found. */
static void check_program(const struct spec *spec, struct problem *problem)
{
    if (spec->command.count > 0 && spec->command.items[0][0] == '\0')
        problem_add_fault(problem, "/command/0", "too-short",
                          "the program's name may not be empty");
}

static void check_reserved(const struct spec *spec, struct problem *problem)
{
    for (size_t i = 0; i < spec->env.count; i++) {
        const char *name = spec->env.items[i].name;
        if (!env_reserved(name))
            continue;
        CLEANUP_FREE char *pointer = field_pointer("/env", name);
        problem_add_fault(problem, pointer ? pointer : "/env", "reserved",
                          "bottled sets %s itself; leave it out", name);
    }
}

static void check_secrets(const struct spec *spec, struct problem *problem)
{
    for (size_t i = 0; i < spec->secrets.count; i++) {
        const char *name = spec->secrets.names[i];
        CLEANUP_FREE char *pointer = field_pointer("/secrets", name);
        const char *place = pointer ? pointer : "/secrets";
        if (env_reserved(name))
            problem_add_fault(problem, place, "reserved", "bottled sets %s itself; leave it out",
                              name);
        else if (string_map_get(&spec->env, name))
            problem_add_fault(problem, place, "duplicate", "env has a variable %s too", name);
    }
}

/* Other names can't be started, but backend smolmachines takes them into its file. */
static void check_image(const struct spec *spec, struct problem *problem)
{
    struct image_reference reference;

    if (!spec->image || !spec->backend || image_check(spec->image))
        return;
    const char *wrong = image_reference_parse(spec->image, &reference);
    if (wrong && strcmp(spec->backend, "smolmachines") != 0)
        problem_add_fault(problem, "/image", "unsupported", "%.64s %s", spec->image, wrong);
}

/* An image that was imported may have a command of its own: known when the plan is resolved. */
static void check_command(const struct spec *spec, const json_t *body, struct problem *problem)
{
    struct image_reference reference;

    if (!spec->image || json_object_get(body, "command") ||
        (!image_reference_parse(spec->image, &reference) && reference.kind != IMAGE_BUILTIN))
        return;
    problem_add_fault(problem, "/command", "required", "is missing: the image has none of its own");
}

/* Below that no file system with a journal can be made. */
static void check_disk(const struct spec *spec, struct problem *problem)
{
    if (spec->disk_mib > 0 && spec->disk_mib < DISK_LEAST_MIB)
        problem_add_fault(problem, "/resources/disk_mib", "out-of-range",
                          "must be 0 (none) or at least %d", (int)DISK_LEAST_MIB);
}

static bool same_rule(const struct egress_rule *a, const struct egress_rule *b)
{
    return a->suffix == b->suffix && a->port == b->port && strcmp(a->host, b->host) == 0;
}

/* Parses the rules, which the table has already checked one by one, and finds those that say the
 * same. */
static int build_rules(struct spec *spec, const json_t *sent, struct problem *problem)
{
    struct rule_list rules = {.count = 0};

    if (spec->allow.count > RULES_MAX)
        return 0; /* reported; comparing each with each would take too long */
    rules.items = calloc(spec->allow.count + 1, sizeof *rules.items);
    if (!rules.items)
        return -1;
    for (size_t i = 0; i < spec->allow.count; i++) {
        struct egress_rule rule = {0};
        char pointer[64];
        if (egress_rule_parse(spec->allow.items[i], &rule))
            continue;
        rule.private_ok = json_is_true(json_object_get(json_array_get(sent, i), "private"));
        for (size_t k = 0; k < rules.count; k++) {
            if (!same_rule(&rules.items[k], &rule))
                continue;
            (void)snprintf(pointer, sizeof pointer, "/egress/allow/%zu", i);
            problem_add_fault(problem, pointer, "duplicate", "%s is allowed already",
                              spec->allow.items[i]);
            break;
        }
        rules.items[rules.count++] = rule;
    }
    spec->rules = rules;
    return 0;
}

int spec_decode(const json_t *body, struct spec *ret, struct problem *problem)
{
    struct spec spec = {0};

    field_decode(body, plan_rows, COUNT_OF(plan_rows), &spec, problem);
    if (json_is_object(body)) {
        check_program(&spec, problem);
        check_reserved(&spec, problem);
        check_secrets(&spec, problem);
        check_image(&spec, problem);
        check_command(&spec, body, problem);
        check_disk(&spec, problem);
        spec_check_mounts(&spec, problem);
        if (build_rules(&spec, json_object_get(json_object_get(body, "egress"), "allow"), problem) <
            0)
            problem_set(problem, "internal", "memory is short");
    }
    if (!problem->type) {
        spec.json = json_deep_copy(body);
        if (!spec.json)
            problem_set(problem, "internal", "memory is short");
    }
    if (problem->type) {
        spec_free(&spec);
        return -1;
    }
    *ret = spec;
    return 0;
}

const struct secret_ref *spec_secret(const struct spec *spec, const char *name)
{
    for (size_t i = 0; i < spec->secrets.count; i++)
        if (strcmp(spec->secrets.names[i], name) == 0)
            return (const struct secret_ref *)spec->secrets.items + i;
    return NULL;
}

void spec_free(struct spec *spec)
{
    struct secret_ref *references = spec->secrets.items;

    for (size_t i = 0; references && i < spec->secrets.count; i++) {
        free(references[i].from_file);
        free(references[i].from_env);
    }
    object_map_free(&spec->secrets);
    free(spec->reload_signal);
    free(spec->slug);
    free(spec->backend);
    free(spec->image);
    free(spec->workdir);
    free(spec->engine);
    free(spec->restart.policy);
    string_list_free(&spec->command);
    string_list_free(&spec->allow);
    string_map_free(&spec->env);
    string_map_free(&spec->labels);
    spec_free_mounts(spec);
    for (size_t i = 0; i < spec->rules.count; i++)
        free((char *)spec->rules.items[i].host);
    free(spec->rules.items);
    json_decref(spec->json);
    *spec = (struct spec){0};
}
