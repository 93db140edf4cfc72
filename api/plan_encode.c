/* A resolved plan as JSON. */
#include <jansson.h>

#include "api/plan.h"

/* json_pack's "s" fails on NULL; this gives null. */
static json_t *words(const char *string)
{
    return string ? json_string(string) : json_null();
}

static json_t *encode_dns(const struct network *network)
{
    json_t *records = json_array();

    for (size_t i = 0; i < network->zone.n_records; i++)
        (void)json_array_append_new(records,
                                    json_pack("{s:s, s:s}", "name", network->zone.records[i].name,
                                              "ip", network->zone.records[i].ip));
    return json_pack("[{s:s, s:o}]", "zone", network->zone.zone, "records", records);
}

static json_t *encode_forwards(const struct network *network)
{
    json_t *ret = json_array();

    for (size_t i = 0; i < network->n_forwards; i++) {
        const struct port_forward *forward = &network->forwards[i];
        (void)json_array_append_new(ret,
                                    json_pack("{s:s, s:i, s:s, s:i}", "sidecar", forward->sidecar,
                                              "gateway_port", (int)forward->gateway_port, "host",
                                              forward->host, "host_port", (int)forward->host_port));
    }
    return ret;
}

static json_t *encode_mounts(const struct plan *plan)
{
    json_t *ret = json_array();

    for (size_t i = 0; i < plan->n_mounts; i++) {
        const struct plan_mount *mount = &plan->mounts[i];
        (void)json_array_append_new(ret,
                                    json_pack("{s:s, s:s, s:s, s:b}", "tag", mount->tag, "source",
                                              mount->spec->source, "target", mount->spec->target,
                                              "read_only", (int)mount->spec->read_only));
    }
    return ret;
}

static json_t *encode_guest(const struct plan *plan)
{
    const struct guest_config *guest = &plan->guest;
    json_t *command = json_array(), *env = json_object();

    for (size_t i = 0; i < guest->n_command; i++)
        (void)json_array_append_new(command, json_string(guest->command[i]));
    for (size_t i = 0; i < guest->n_env; i++)
        (void)json_object_set_new(env, guest->env[i].name, json_string(guest->env[i].value));
    return json_pack("{s:s, s:s?, s:s?, s:o, s:s, s:s?, s:o, s:I, s:I, s:I, s:o}", "image",
                     guest->image, "image_id", plan->image_id[0] ? plan->image_id : NULL,
                     "image_digest", plan->image_id[0] ? plan->image_digest : NULL, "command",
                     command, "workdir", guest->workdir, "user", plan->user[0] ? plan->user : NULL,
                     "env", env, "cpus", (json_int_t)guest->cpus, "memory_mib",
                     (json_int_t)guest->memory_mib, "disk_mib", (json_int_t)plan->spec.disk_mib,
                     "mounts", encode_mounts(plan));
}

static json_t *encode_files(const struct plan *plan, bool with_content)
{
    json_t *ret = json_array();

    for (size_t i = 0; i < plan->n_files; i++) {
        const struct plan_file *file = &plan->files[i];
        char digest[SHA256_HEX_SIZE];
        plan_file_digest(file, digest);
        json_t *object = json_pack("{s:s, s:s, s:I}", "name", file->name, "sha256", digest, "bytes",
                                   (json_int_t)file->length);
        if (with_content)
            (void)json_object_set_new(object, "content", json_stringn(file->content, file->length));
        (void)json_array_append_new(ret, object);
    }
    return ret;
}

json_t *plan_encode(const struct plan *plan, bool with_content)
{
    json_t *limits = json_array();

    if (plan->limits_note)
        (void)json_array_append_new(limits, json_string(plan->limits_note));
    return json_pack("{s:s, s:o, s:o, s:o, s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:O}",
                     "slug", plan->spec.slug, "backend", words(plan->backend), "accelerator",
                     words(plan->accelerator), "engine", words(plan->engine), "stage_dir",
                     plan->stage_dir, "subnet", plan->subnet, "gateway", plan->gateway, "guest_ip",
                     plan->guest_ip, "mac", plan->mac, "dns", encode_dns(&plan->network),
                     "port_forwards", encode_forwards(&plan->network), "guest", encode_guest(plan),
                     "limits", limits, "files", encode_files(plan, with_content), "spec",
                     plan->spec.json);
}
