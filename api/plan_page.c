/* A resolved plan as a page for a person, who reads it before saying yes.
 *
 * What a client chose is shown quoted, and nothing of it can act on the terminal: control
 * characters and those that reorder or hide text come out as escapes. Long values are cut and say
 * how long they are. */
#include <string.h>

#include "api/plan.h"
#include "base/text.h"
#include "renderers/check.h"

enum { SHOWN_MAX = 160, COLUMN = 20 };

/* Controls (C0, DEL, C1), line and paragraph separators, and format characters that are unseen or
 * turn the direction of text. */
static bool unprintable(unsigned point)
{
    static const struct {
        unsigned first, last;
    } ranges[] = {{0, 0x1f},        {0x7f, 0x9f},     {0xad, 0xad},      {0x61c, 0x61c},
                  {0x180e, 0x180e}, {0x200b, 0x200f}, {0x2028, 0x202e},  {0x2060, 0x206f},
                  {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe0fff}};

    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (point >= ranges[i].first && point <= ranges[i].last)
            return true;
    return false;
}

static void add_quoted(struct text *text, const char *string)
{
    static const char named[] = "\n\t\r", letters[] = "ntr";
    const char *c = string;

    text_add(text, "\"");
    for (int shown = 0; *c && shown < SHOWN_MAX; shown++) {
        unsigned point;
        size_t length = utf8_decode(c, &point);
        const char *name = strchr(named, *c);
        if (name)
            text_addf(text, "\\%c", letters[name - named]);
        else if (*c == '"' || *c == '\\')
            text_addf(text, "\\%c", *c);
        else if (length == 0)
            text_addf(text, "\\x%02x", (unsigned)(unsigned char)*c);
        else if (unprintable(point))
            text_addf(text, "\\u{%x}", point);
        else
            text_add_bytes(text, c, length);
        c += length ? length : 1;
    }
    text_add(text, "\"");
    if (*c)
        text_addf(text, "... (%zu bytes in all)", strlen(string));
    text_add(text, "\n");
}

/* Begins a line with a name in the left column. */
static void add_name(struct text *text, const char *name)
{
    text_addf(text, "  %-*s ", COLUMN, name);
}

static void add_line(struct text *text, const char *name, const char *value)
{
    add_name(text, name);
    text_add(text, value);
    text_add(text, "\n");
}

static void add_machine(struct text *text, const struct plan *plan)
{
    text_addf(text, "Bottle %s\n\nMachine\n", plan->spec.slug);
    add_name(text, "backend");
    text_add(text, plan->backend ? plan->backend : plan->spec.backend);
    if (plan->accelerator)
        text_addf(text, " (%s)", plan->accelerator);
    text_add(text, "\n");
    add_name(text, "image");
    add_quoted(text, plan->guest.image);
    add_name(text, "processors");
    text_addf(text, "%u\n", plan->guest.cpus);
    add_name(text, "memory");
    text_addf(text, "%u MiB\n", plan->guest.memory_mib);
}

static void add_command(struct text *text, const struct plan *plan)
{
    text_add(text, "\nCommand\n");
    for (size_t i = 0; i < plan->guest.n_command; i++) {
        add_name(text, i == 0 ? "program" : i == 1 ? "arguments" : "");
        add_quoted(text, plan->guest.command[i]);
    }
    add_name(text, "in directory");
    add_quoted(text, plan->guest.workdir);
    text_add(text, "\nEnvironment\n");
    for (size_t i = 0; i < plan->guest.n_env; i++) {
        add_name(text, plan->guest.env[i].name);
        add_quoted(text, plan->guest.env[i].value);
    }
    if (plan->spec.secrets.count)
        text_add(text, "\nSecrets, read at each start\n");
    for (size_t i = 0; i < plan->spec.secrets.count; i++) {
        const struct secret_ref *secret = (const struct secret_ref *)plan->spec.secrets.items + i;
        add_name(text, plan->spec.secrets.names[i]);
        text_add(text, secret->from_file ? "from the file " : "from bottled's variable ");
        add_quoted(text, secret->from_file ? secret->from_file : secret->from_env);
    }
}

static void add_mounts(struct text *text, const struct plan *plan)
{
    if (plan->n_mounts > 0)
        text_add(text, "\nDirectories of the host, live in the guest\n");
    for (size_t i = 0; i < plan->n_mounts; i++) {
        const struct mount_spec *mount = plan->mounts[i].spec;
        add_name(text, mount->read_only ? "read-only" : "read and write");
        add_quoted(text, mount->source);
        add_name(text, "  seen at");
        add_quoted(text, mount->target);
    }
}

static void add_network(struct text *text, const struct plan *plan)
{
    const struct network *network = &plan->network;

    text_add(text, "\nNetwork: it reaches these ports and nothing else\n");
    for (size_t i = 0; i < network->n_forwards; i++) {
        const struct port_forward *forward = &network->forwards[i];
        add_name(text, forward->sidecar);
        text_addf(text, "%s:%u -> %s:%u on the host\n", network->record.name,
                  (unsigned)forward->gateway_port, forward->host, (unsigned)forward->host_port);
    }
    add_name(text, "names");
    text_addf(text, "%s = %s; no other name is answered\n", network->record.name,
              network->record.ip);
    add_line(text, "subnet", network->subnet);
    add_line(text, "gateway", network->gateway);
    add_name(text, "guest");
    text_addf(text, "%s, %s\n", network->guest_ip, network->guest_mac);
}

static void add_egress(struct text *text, const struct plan *plan)
{
    text_addf(text, "\nAllowed through the proxy%s%s%s\n", plan->engine ? " (" : "",
              plan->engine ? plan->engine : "", plan->engine ? ")" : "");
    for (size_t i = 0; i < plan->spec.rules.count; i++) {
        const struct egress_rule *rule = &plan->spec.rules.items[i];
        text_addf(text, "  %s%s", rule->suffix ? "*." : "", rule->host);
        if (rule->port)
            text_addf(text, ":%u", (unsigned)rule->port);
        else
            text_add(text, ", ports 443 and 80");
        text_add(text, rule->private_ok ? ", also at private addresses\n" : "\n");
    }
    if (plan->spec.rules.count == 0)
        text_add(text, "  nothing\n");
    if (plan->limits_note)
        text_addf(text, "  Note: %s\n", plan->limits_note);
}

static void add_rest(struct text *text, const struct plan *plan)
{
    if (plan->spec.labels.count > 0)
        text_add(text, "\nLabels\n");
    for (size_t i = 0; i < plan->spec.labels.count; i++) {
        add_name(text, plan->spec.labels.items[i].name);
        add_quoted(text, plan->spec.labels.items[i].value);
    }
    text_addf(text, "\nFiles in %s\n", plan->stage_dir);
    for (size_t i = 0; i < plan->n_files; i++) {
        char digest[SHA256_HEX_SIZE];
        plan_file_digest(&plan->files[i], digest);
        add_name(text, plan->files[i].name);
        text_addf(text, "%zu bytes, sha256 %s\n", plan->files[i].length, digest);
    }
}

char *plan_page(const struct plan *plan)
{
    struct text text = TEXT_INIT;

    add_machine(&text, plan);
    add_command(&text, plan);
    add_mounts(&text, plan);
    add_network(&text, plan);
    add_egress(&text, plan);
    add_rest(&text, plan);
    return text_take(&text);
}
