/* krun.json: the argument vector of bottle-krun, exactly as the shim runs it in the VM's jail.
 *
 * Theory: bottle-krun knows no default, so that the file says all that the machine has: a root
 * directory to boot from, one read-only disk with the image, a writable one of the bottle's own
 * where it has one, one virtio-net card on gvproxy's unixgram socket, one console and the agent's
 * port. A probe's machine has no card. The card is the one of smolfile.toml's device table: both
 * are rendered from the same two structs. */
#include <jansson.h>
#include <stdlib.h>

#include "renderers/check.h"
#include "renderers/render.h"

enum { FIRST_FREE_FD = 3, CPUS_MAX = 255 }; /* krun_set_vm_config takes the number as a byte */

static int check_config(const struct krun_config *config, struct error *err)
{
    bool good = check_jail_path(config->binary) && check_jail_path(config->library) &&
                check_jail_path(config->firmware) && check_jail_path(config->root);

    if (!good)
        return error_set(err, NULL, "krun.json: the machine is not well-formed");
    if (config->guest->cpus > CPUS_MAX)
        return error_set(err, NULL, "krun.json: libkrun gives a machine %d processors at most",
                         CPUS_MAX);
    good = check_jail_path(config->image) && (!config->disk || check_jail_path(config->disk)) &&
           (!config->network || check_mac(config->network->guest_mac)) && config->guest->cpus > 0 &&
           config->guest->memory_mib > 0 && config->agent_fd >= FIRST_FREE_FD;
    return good ? 0 : error_set(err, NULL, "krun.json: the machine is not well-formed");
}

static json_t *argv_of(const struct krun_config *config)
{
    json_t *argv =
        json_pack("[s, s, s, s, s, s, s, s, s]", config->binary, "--library", config->library,
                  "--firmware", config->firmware, "--root", config->root, "--disk", config->image);
    json_t *numbers =
        json_pack("[s, o, s, o, s, o]", "--cpus", json_sprintf("%u", config->guest->cpus),
                  "--memory", json_sprintf("%u", config->guest->memory_mib), "--agent-fd",
                  json_sprintf("%d", config->agent_fd));

    (void)json_array_extend(argv, numbers);
    json_decref(numbers);
    if (config->disk) {
        json_t *disk = json_pack("[s, s]", "--own-disk", config->disk);
        (void)json_array_extend(argv, disk);
        json_decref(disk);
    }
    for (unsigned i = 0; i < config->n_mounts; i++) {
        json_t *mount = json_pack("[s, o]", config->mounts_read_only[i] ? "--mount-ro" : "--mount",
                                  json_sprintf("fs%u", i));
        (void)json_array_extend(argv, mount);
        json_decref(mount);
    }
    if (!config->network)
        return argv;
    json_t *card = json_pack("[s, s, s, s, s, s]", "--net", JAIL_NET_SOCKET, "--net-local",
                             JAIL_VM_SOCKET, "--mac", config->network->guest_mac);
    (void)json_array_extend(argv, card);
    json_decref(card);
    return argv;
}

int render_krun(const struct krun_config *config, struct text *out, struct error *err)
{
    if (check_config(config, err) < 0)
        return -1;
    json_t *root = json_pack("{s:o}", "argv", argv_of(config));
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;

    json_decref(root);
    if (text) {
        text_add(out, text);
        text_add(out, "\n");
        free(text);
    }
    return text && !out->failed ? 0 : error_set(err, NULL, "krun.json: out of memory");
}
