/* smolfile.toml: a guest and its one network card, in two dialects.
 *
 * device: the card is a [[device]] table (virtio-net, backed by gvproxy's unixgram socket). It
 * holds everything exactly as the plan has it. smolvm: what `smolvm machine create --smolfile`
 * takes (keys of smolvm 1.32). It knows no external card, so net = false: a machine made by hand
 * from the file has no network at all. The command keeps some values otherwise than they are
 * written, in silence, and refuses others; those are left out, and a comment says what kind and how
 * many (never the value, which a client chose).
 *
 * TOML 1.0 basic strings (https://toml.io/en/v1.0.0#string) carry every value: what must be escaped
 * is the quotation mark, the backslash, U+0000 to U+001F and U+007F; the rest may stand as it is.
 */
#include <string.h>

#include "renderers/check.h"
#include "renderers/render.h"

enum { SMOLVM_CPUS_MAX = 255, SMOLVM_MEMORY_MIN = 64 }; /* u8; "memory must be at least 64 MiB" */

#define BUILTIN_PREFIX "builtin:"

static void toml_string(struct text *out, const char *value)
{
    static const char *const short_forms[128] = {
        ['\b'] = "\\b", ['\t'] = "\\t", ['\n'] = "\\n",  ['\f'] = "\\f",
        ['\r'] = "\\r", ['"'] = "\\\"", ['\\'] = "\\\\",
    };

    text_add(out, "\"");
    for (const char *c = value; *c; c++) {
        unsigned char byte = (unsigned char)*c;
        if (byte < 128 && short_forms[byte])
            text_add(out, short_forms[byte]);
        else if (byte < 0x20 || byte == 0x7f)
            text_addf(out, "\\u%04X", byte);
        else
            text_add_bytes(out, c, 1);
    }
    text_add(out, "\"");
}

static void entry(struct text *out, const char *key, const char *value)
{
    text_addf(out, "%s = ", key);
    toml_string(out, value);
    text_add(out, "\n");
}

/* White_Space of Unicode: what smolvm's trim() takes off (tried with every code point up to
 * U+3009). */
static bool is_space(unsigned point)
{
    return (point >= 0x09 && point <= 0x0d) || point == 0x20 || point == 0x85 || point == 0xa0 ||
           point == 0x1680 || (point >= 0x2000 && point <= 0x200a) || point == 0x2028 ||
           point == 0x2029 || point == 0x202f || point == 0x205f || point == 0x3000;
}

static bool ends_in_space(const char *value)
{
    bool space = false;
    unsigned point = 0;
    size_t length;

    for (; (length = utf8_decode(value, &point)) > 0; value += length)
        space = is_space(point);
    return space;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);

    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* A registry reference. smolvm reads "-" from stdin, and paths and archives are resolved against
 * the directory that it runs in. */
static bool is_reference(const char *image)
{
    static const char *const archives[] = {".tar", ".tar.gz", ".tgz"};

    if (strchr("-./_:@", image[0]) || ends_with(image, "/") || strstr(image, "//") ||
        image[strspn(image, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                            "._:@/+-")])
        return false;
    for (size_t i = 0; i < sizeof archives / sizeof archives[0]; i++)
        if (ends_with(image, archives[i]))
            return false;
    return true;
}

static void smolvm_image(struct text *out, const char *image)
{
    if (strncmp(image, BUILTIN_PREFIX, strlen(BUILTIN_PREFIX)) == 0)
        text_add(out, "# image left out: it is built into bottled, and smolvm would ask a "
                      "registry for that name\n");
    else if (!is_reference(image))
        text_add(out, "# image left out: smolvm would not read it as a registry reference\n");
    else
        entry(out, "image", image);
}

static void image(struct text *out, const struct guest_config *guest, bool smolvm)
{
    if (!guest->image)
        return;
    if (smolvm)
        smolvm_image(out, guest->image);
    else
        entry(out, "image", guest->image);
}

static void command(struct text *out, const struct guest_config *guest)
{
    text_add(out, "cmd = [");
    for (size_t i = 0; i < guest->n_command; i++) {
        text_add(out, i ? ", " : "");
        toml_string(out, guest->command[i]);
    }
    text_add(out, "]\n");
}

static void workdir(struct text *out, const struct guest_config *guest, bool smolvm)
{
    if (!guest->workdir)
        return;
    if (smolvm && guest->workdir[0] != '/')
        text_add(out,
                 "# workdir left out: it is not absolute, and smolvm would take it as it is\n");
    else
        entry(out, "workdir", guest->workdir);
}

static void env_entry(struct text *out, const struct env_var *variable)
{
    CLEANUP_TEXT struct text pair = TEXT_INIT;

    text_addf(&pair, "%s=%s", variable->name, variable->value);
    if (pair.failed) {
        out->failed = true;
        return;
    }
    text_add(out, "    ");
    toml_string(out, pair.data);
    text_add(out, ",\n");
}

/* smolvm trims each "NAME=value"; the name has no space to lose, but the value's end has. */
static void environment(struct text *out, const struct guest_config *guest, bool smolvm)
{
    size_t left_out = 0;

    for (size_t i = 0; smolvm && i < guest->n_env; i++)
        left_out += ends_in_space(guest->env[i].value);
    if (left_out)
        text_addf(out,
                  "# env: %zu of %zu entries left out: white space at the end, which smolvm would "
                  "take off\n",
                  left_out, guest->n_env);
    if (left_out == guest->n_env) {
        text_add(out, "env = []\n");
        return;
    }
    text_add(out, "env = [\n");
    for (size_t i = 0; i < guest->n_env; i++)
        if (!smolvm || !ends_in_space(guest->env[i].value))
            env_entry(out, &guest->env[i]);
    text_add(out, "]\n");
}

static void resources(struct text *out, const struct guest_config *guest, bool smolvm)
{
    if (smolvm && guest->cpus > SMOLVM_CPUS_MAX)
        text_addf(out, "# cpus left out: smolvm takes %d at most\n", SMOLVM_CPUS_MAX);
    else
        text_addf(out, "cpus = %u\n", guest->cpus);
    if (smolvm && guest->memory_mib < SMOLVM_MEMORY_MIN)
        text_addf(out, "# memory left out: smolvm takes no less than %d\n", SMOLVM_MEMORY_MIN);
    else
        text_addf(out, "memory = %u\n", guest->memory_mib);
}

static void device(struct text *out, const struct network *network)
{
    text_add(out, "\n[[device]]\n");
    entry(out, "type", "virtio-net");
    entry(out, "backend", "gvproxy");
    entry(out, "socket", "unixgram://" JAIL_NET_SOCKET);
    entry(out, "mac", network->guest_mac);
}

static bool is_variable_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";

    return name && *name && strchr(letters, *name) &&
           !name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789")];
}

static int check_guest(const struct guest_config *guest, const struct network *network,
                       struct error *err)
{
    bool good = (!guest->image || check_utf8(guest->image)) &&
                (!guest->workdir || check_utf8(guest->workdir)) && guest->n_command > 0 &&
                guest->cpus > 0 && guest->memory_mib > 0 && check_mac(network->guest_mac);

    for (size_t i = 0; good && i < guest->n_command; i++)
        good = check_utf8(guest->command[i]);
    for (size_t i = 0; good && i < guest->n_env; i++)
        good = is_variable_name(guest->env[i].name) && check_utf8(guest->env[i].value);
    return good ? 0 : error_set(err, NULL, "smolfile.toml: the guest is not well-formed");
}

int render_smolfile(const struct guest_config *guest, const struct network *network,
                    enum smolfile_dialect dialect, struct text *out, struct error *err)
{
    bool smolvm = dialect == SMOLFILE_SMOLVM;

    if (check_guest(guest, network, err) < 0)
        return -1;
    image(out, guest, smolvm);
    command(out, guest);
    workdir(out, guest, smolvm);
    environment(out, guest, smolvm);
    resources(out, guest, smolvm);
    if (smolvm)
        text_add(out, "net = false\n");
    else
        device(out, network);
    return out->failed ? error_set(err, NULL, "smolfile.toml: out of memory") : 0;
}
