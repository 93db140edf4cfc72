/* qemu.json and krun.json, made of whatever machine: each is one object of argument vectors, in
 * which the strings of the input stand where they belong, and a comma or an equals sign of theirs
 * makes no option. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "renderers/check.h"
#include "renderers/render.h"
#include "tests/fuzz/take.h"

enum { STRINGS = 7 };

/* How many arguments are exactly this. */
static size_t count_of(const json_t *argv, const char *word)
{
    const json_t *item;
    size_t i, count = 0;

    json_array_foreach(argv, i, item)
    {
        MUST(json_is_string(item) && check_utf8(json_string_value(item)));
        count += strcmp(json_string_value(item), word) == 0;
    }
    return count;
}

static const char *after(const json_t *argv, const char *option)
{
    size_t count = json_array_size(argv);

    for (size_t i = 0; i + 1 < count; i++)
        if (strcmp(json_string_value(json_array_get(argv, i)), option) == 0)
            return json_string_value(json_array_get(argv, i + 1));
    return NULL;
}

static void check_argv(const json_t *argv, const char *binary)
{
    MUST(json_is_array(argv) && count_of(argv, binary) >= 1);
    MUST(strcmp(json_string_value(json_array_get(argv, 0)), binary) == 0);
}

static void qemu(const struct qemu_config *config)
{
    CLEANUP_TEXT struct text text = TEXT_INIT;

    if (render_qemu(config, &text, NULL) < 0)
        return;
    CLEANUP_JSON json_t *file = json_parse(text.data, text.length, NULL);
    const json_t *argv = json_object_get(file, "argv"), *restore = json_object_get(file, "restore");
    MUST(file && json_object_size(file) == (restore ? 2 : 1));
    check_argv(argv, config->binary);
    MUST(strcmp(after(argv, "-kernel"), config->kernel) == 0);
    MUST(strcmp(after(argv, "-initrd"), config->initrd) == 0);
    MUST(count_of(argv, "-netdev") == !config->probe);
    MUST(count_of(argv, "-drive") == (size_t)!config->probe + (config->disk != NULL));
    MUST(count_of(argv, "-nodefaults") == 1 && count_of(argv, "-sandbox") == 1);
    MUST(!restore || config->template_ram);
    if (restore) {
        check_argv(restore, config->binary);
        MUST(count_of(restore, "-kernel") == 0 && count_of(restore, "-sandbox") == 1);
    }
}

static void krun(const struct krun_config *config)
{
    CLEANUP_TEXT struct text text = TEXT_INIT;

    if (render_krun(config, &text, NULL) < 0)
        return;
    CLEANUP_JSON json_t *file = json_parse(text.data, text.length, NULL);
    MUST(file && json_object_size(file) == 1);
    check_argv(json_object_get(file, "argv"), config->binary);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {bytes, bytes + length};
    uint8_t kind = take_byte(&input), more = take_byte(&input);
    unsigned cpus = take_u16(&input), memory = take_u16(&input);
    int fd = take_byte(&input);
    char *words[STRINGS];

    for (size_t i = 0; i < STRINGS; i++)
        words[i] = take_string(&input);
    const struct qemu_config machine = {
        .binary = words[0],
        .kernel = words[1],
        .initrd = words[2],
        .image = words[3],
        .guest_mac = words[4],
        .disk = kind & 1 ? words[5] : NULL,
        .template_ram = kind & 2 ? words[6] : NULL,
        .kvm = kind & 4,
        .probe = kind & 8,
        .template_make = kind & 16,
        .tsc_khz = kind & 32 ? 2000000 : 0,
        .cpus = cpus,
        .memory_mib = memory,
        .agent_fd = fd,
        .qmp_fd = fd + 1,
        .n_mounts = more % 9,
        .mount_fd = fd + 2,
    };
    const struct guest_config guest = {.cpus = cpus, .memory_mib = memory};
    const bool read_only[8] = {more & 16, more & 32};
    struct network network;
    network_build(&network, "192.168.50.0/24", "192.168.50.1", "192.168.50.2", words[4], NULL, 0);
    const struct krun_config runner = {
        .binary = words[0],
        .library = words[1],
        .firmware = words[2],
        .root = words[5],
        .image = words[3],
        .disk = kind & 1 ? words[6] : NULL,
        .guest = &guest,
        .network = kind & 8 ? NULL : &network,
        .agent_fd = fd,
        .mounts_read_only = read_only,
        .n_mounts = more % 9,
    };
    qemu(&machine);
    krun(&runner);
    for (size_t i = 0; i < STRINGS; i++)
        free(words[i]);
    return 0;
}
