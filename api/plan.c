/* Resolving a plan: names, addresses, ports, paths and environment follow from spec and allocation.
 */
#include "api/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/text.h"
#include "base/util.h"

enum { SOCKET_PATH_MAX = 107 }; /* struct sockaddr_un's 108 less the NUL */

/* What is bound below a bottle's run directory. */
static const char *const socket_names[] = {"shim.sock", "net/net.sock", "net/vm.sock",
                                           "net/api.sock"};

const struct sidecar_row sidecars[N_SIDECARS] = {
    [SIDECAR_PIPELOCK] = {"pipelock", NULL, 8888},
    [SIDECAR_GIT_GATE] = {"git-gate", "/sidecars/git_gate", 8889},
    [SIDECAR_SUPERVISE] = {"supervise", "/sidecars/supervise", 8890},
};

bool sidecar_active(const struct spec *spec, enum sidecar sidecar)
{
    switch (sidecar) {
    case SIDECAR_PIPELOCK:
        return true;
    case SIDECAR_GIT_GATE:
        return spec->git_gate;
    case SIDECAR_SUPERVISE:
        return spec->supervise;
    case N_SIDECARS:
        break;
    }
    return false;
}

void plan_id(const char *slug, char ret[PLAN_ID_SIZE])
{
    char digest[SHA256_HEX_SIZE];

    sha256_hex(slug, strlen(slug), digest);
    (void)snprintf(ret, PLAN_ID_SIZE, "%.16s", digest);
}

static int resolve_paths(struct plan *plan, const char *slug, const struct plan_dirs *dirs,
                         struct error *err)
{
    struct text stage = TEXT_INIT, run = TEXT_INIT;

    plan_id(slug, plan->id);
    text_addf(&stage, "%s/bottles/%s", dirs->state_dir, slug);
    text_addf(&run, "%s/b/%s", dirs->run_dir, plan->id);
    plan->stage_dir = text_take(&stage);
    plan->run_dir = text_take(&run);
    if (!plan->stage_dir || !plan->run_dir)
        return error_set(err, NULL, "memory is short");
    for (size_t i = 0; i < COUNT_OF(socket_names); i++) {
        size_t length = strlen(plan->run_dir) + 1 + strlen(socket_names[i]);
        if (length > SOCKET_PATH_MAX)
            return error_set(
                err, "socket-path-too-long",
                "the socket %.300s/%s would have a path of %zu bytes, and the kernel takes "
                "%d: start bottled with a shorter --run-dir",
                plan->run_dir, socket_names[i], length, SOCKET_PATH_MAX);
    }
    return 0;
}

static int resolve_network(struct plan *plan, const struct spec *spec, struct error *err)
{
    struct port_forward forwards[FORWARDS_MAX];
    size_t n_forwards = 0;

    _Static_assert((int)N_SIDECARS == (int)FORWARDS_MAX, "one forward a sidecar");
    loopback_format(plan->allocation.loopback, plan->loopback);
    for (int i = 0; i < N_SIDECARS; i++) {
        if (!sidecar_active(spec, (enum sidecar)i))
            continue;
        if (plan->allocation.host_ports[i] == 0)
            return error_set(err, NULL, "sidecar %s has no host port", sidecars[i].name);
        forwards[n_forwards++] =
            (struct port_forward){sidecars[i].name, sidecars[i].gateway_port, plan->loopback,
                                  plan->allocation.host_ports[i]};
    }
    subnet_format(plan->allocation.subnet, plan->subnet, plan->gateway, plan->guest_ip);
    subnet_mac(plan->allocation.subnet, plan->mac);
    network_build(&plan->network, plan->subnet, plan->gateway, plan->guest_ip, plan->mac, forwards,
                  n_forwards);
    return 0;
}

char *image_file_path(const char *state_dir, const char *digest)
{
    char *path;

    return asprintf(&path, "%s/images/%s.erofs", state_dir, digest) < 0 ? NULL : path;
}

static int add_words(struct string_list *ret, const struct string_list *from)
{
    char **items = realloc(ret->items, (ret->count + from->count + 1) * sizeof *items);

    if (!items)
        return -1;
    ret->items = items;
    items[ret->count] = NULL;
    for (size_t i = 0; i < from->count; i++) {
        if (!(items[ret->count] = strdup(from->items[i])))
            return -1;
        items[++ret->count] = NULL;
    }
    return 0;
}

/* What the plan says wins over what the image says: its command over ENTRYPOINT and CMD, both. */
static int resolve_image(struct plan *plan, const struct spec *spec, const struct plan_dirs *dirs,
                         struct error *err)
{
    static char empty[1];
    static const struct image_config none = {
        .workdir = empty, .user = empty, .user_numbers = empty};
    const struct image *image = dirs->image;
    const struct image_config *config = image ? &image->config : &none;
    const char *workdir = spec->workdir ? spec->workdir : config->workdir;
    int failed = spec->command.count ? add_words(&plan->command, &spec->command)
                                     : add_words(&plan->command, &config->entrypoint) |
                                           add_words(&plan->command, &config->command);

    plan->workdir = strdup(workdir[0] ? workdir : "/");
    plan->user = strdup(config->user);
    plan->user_numbers = strdup(config->user_numbers ? config->user_numbers : "");
    if (image) {
        memcpy(plan->image_id, image->id, sizeof plan->image_id);
        memcpy(plan->image_digest, image->digest, sizeof plan->image_digest);
        plan->image_file = image_file_path(dirs->state_dir, image->digest);
        failed |= plan->image_file ? 0 : -1;
    }
    if (failed || !plan->workdir || !plan->user || !plan->user_numbers ||
        env_build(spec, image ? config : NULL, &plan->env) < 0)
        return error_set(err, NULL, "memory is short");
    if (plan->command.count > 0 && plan->command.items[0][0])
        return 0;
    (void)error_set(
        err, "invalid-plan",
        "the image %.200s has no command of its own (no ENTRYPOINT and no CMD): the plan "
        "needs \"command\"",
        spec->image);
    if (err)
        err->pointer = "/command";
    return -1;
}

static size_t depth(const char *path)
{
    size_t count = 0;

    for (; *path; path++)
        count += *path == '/';
    return count;
}

/* By depth, else as they were sent. */
static void order_mounts(struct plan *plan)
{
    for (size_t i = 0; i < plan->spec.mounts.count; i++) {
        const struct mount_spec *spec = spec_mount(&plan->spec, i);
        size_t at = plan->n_mounts++;
        for (; at > 0 && depth(plan->mounts[at - 1].spec->target) > depth(spec->target); at--)
            plan->mounts[at].spec = plan->mounts[at - 1].spec;
        plan->mounts[at].spec = spec;
    }
    for (size_t i = 0; i < plan->n_mounts; i++)
        (void)snprintf(plan->mounts[i].tag, sizeof plan->mounts[i].tag, "fs%u",
                       (unsigned)i % MOUNTS_MAX);
}

struct plan *plan_resolve(struct spec *spec, const struct allocation *allocation,
                          const struct plan_dirs *dirs, struct error *err)
{
    struct plan *plan = calloc(1, sizeof *plan);

    if (!plan) {
        error_set(err, NULL, "memory is short");
        return NULL;
    }
    plan->allocation = *allocation;
    if (!spec->slug) {
        error_set(err, NULL, "the plan has no slug yet");
        goto fail;
    }
    if (resolve_paths(plan, spec->slug, dirs, err) < 0 || resolve_network(plan, spec, err) < 0)
        goto fail;
    if (resolve_image(plan, spec, dirs, err) < 0)
        goto fail;
    plan->spec = *spec;
    *spec = (struct spec){0};
    order_mounts(plan);
    plan->guest = (struct guest_config){
        .image = plan->spec.image,
        .command = (const char *const *)plan->command.items,
        .n_command = plan->command.count,
        .workdir = plan->workdir,
        .env = plan->env.items,
        .n_env = plan->env.count,
        .cpus = (unsigned)plan->spec.cpus,
        .memory_mib = (unsigned)plan->spec.memory_mib,
    };
    return plan;
fail:
    plan_free(plan);
    return NULL;
}

int plan_add_file(struct plan *plan, const char *name, char *content, struct error *err)
{
    if (!content)
        return error_set(err, NULL, "memory is short");
    if (plan->n_files == PLAN_FILES_MAX || plan_find_file(plan, name)) {
        free(content);
        return error_set(err, NULL, "no place for a file %s among the plan's %zu", name,
                         plan->n_files);
    }
    struct plan_file *file = &plan->files[plan->n_files++];
    file->name = name;
    file->content = content;
    file->length = strlen(content);
    return 0;
}

const struct plan_file *plan_find_file(const struct plan *plan, const char *name)
{
    for (size_t i = 0; i < plan->n_files; i++)
        if (strcmp(plan->files[i].name, name) == 0)
            return &plan->files[i];
    return NULL;
}

void plan_file_digest(const struct plan_file *file, char ret[SHA256_HEX_SIZE])
{
    sha256_hex(file->content, file->length, ret);
}

void plan_free(struct plan *plan)
{
    if (!plan)
        return;
    for (size_t i = 0; i < plan->n_files; i++)
        free(plan->files[i].content);
    spec_free(&plan->spec);
    string_map_free(&plan->env);
    string_list_free(&plan->command);
    free(plan->workdir);
    free(plan->user);
    free(plan->user_numbers);
    free(plan->image_file);
    free(plan->limits_note);
    free(plan->stage_dir);
    free(plan->run_dir);
    free(plan);
}
