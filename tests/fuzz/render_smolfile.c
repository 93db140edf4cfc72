/* smolfile.toml, made of whatever guest: what is written is TOML, and read back it is the input and
 * nothing else. The reader here knows as much of TOML 1.0 as the file may have: comments, tables,
 * bare keys, basic strings, integers, booleans, and arrays of strings; all else ends the program.
 */
#include <stdlib.h>
#include <string.h>

#include "renderers/check.h"
#include "renderers/render.h"
#include "tests/fuzz/take.h"

enum { ITEMS_MAX = 64 };

struct reader {
    const char *at;
};

static void skip(struct reader *reader, const char *set)
{
    reader->at += strspn(reader->at, set);
}

static void expect(struct reader *reader, const char *words)
{
    size_t length = strlen(words);

    MUST(strncmp(reader->at, words, length) == 0);
    reader->at += length;
}

static unsigned hex(struct reader *reader, int digits)
{
    unsigned value = 0;

    for (int i = 0; i < digits; i++, reader->at++) {
        const char *found = *reader->at ? strchr("0123456789ABCDEF", *reader->at) : NULL;
        MUST(found);
        value = value * 16 + (unsigned)(found - "0123456789ABCDEF");
    }
    return value;
}

/* A basic string, which must be `value`. */
static void string(struct reader *reader, const char *value)
{
    static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";

    expect(reader, "\"");
    for (; *reader->at != '"'; value++) {
        unsigned char byte = (unsigned char)*reader->at++;
        MUST(byte >= 0x20 && byte != 0x7f);
        if (byte == '\\') {
            char kind = *reader->at++;
            const char *found = kind ? strchr(from, kind) : NULL;
            MUST(found || kind == 'u');
            byte = found ? (unsigned char)to[found - from] : (unsigned char)hex(reader, 4);
            MUST(found || byte < 0x20 || byte == 0x7f);
        }
        MUST(byte == (unsigned char)*value);
    }
    MUST(*value == '\0');
    expect(reader, "\"");
}

/* To the next line that is no comment; whether it sets this key. */
static bool sets(struct reader *reader, const char *key)
{
    size_t length = strlen(key);

    while (*reader->at == '#') {
        for (; *reader->at != '\n'; reader->at++)
            MUST((unsigned char)*reader->at >= 0x20);
        reader->at++;
    }
    if (strncmp(reader->at, key, length) != 0 || strncmp(reader->at + length, " = ", 3) != 0)
        return false;
    reader->at += length + 3;
    return true;
}

static void number(struct reader *reader, unsigned value)
{
    char *end;

    MUST(reader->at[0] >= '1' && reader->at[0] <= '9');
    MUST(strtoul(reader->at, &end, 10) == value);
    reader->at = end;
    expect(reader, "\n");
}

static void check_env(struct reader *reader, const struct guest_config *guest, bool smolvm)
{
    size_t i = 0;

    MUST(sets(reader, "env"));
    expect(reader, "[");
    for (skip(reader, " \n"); *reader->at == '"'; i++) {
        char pair[70000];
        /* smolvm's own dialect leaves out what smolvm would change. */
        for (;; i++) {
            MUST(i < guest->n_env);
            size_t length = strlen(guest->env[i].value);
            unsigned char last = length ? (unsigned char)guest->env[i].value[length - 1] : 'x';
            size_t name = strlen(guest->env[i].name);
            if (smolvm && (last <= 0x20 || last >= 0x80) &&
                (strncmp(reader->at + 1, guest->env[i].name, name) != 0 ||
                 reader->at[1 + name] != '='))
                continue;
            break;
        }
        MUST(strlen(guest->env[i].name) + strlen(guest->env[i].value) + 2 < sizeof pair);
        size_t name = strlen(guest->env[i].name);
        memcpy(pair, guest->env[i].name, name);
        pair[name] = '=';
        memcpy(pair + name + 1, guest->env[i].value, strlen(guest->env[i].value) + 1);
        string(reader, pair);
        expect(reader, ",");
        skip(reader, " \n");
    }
    MUST(smolvm || i == guest->n_env);
    expect(reader, "]\n");
}

static void check(const struct guest_config *guest, const struct network *network, bool smolvm,
                  const char *text)
{
    struct reader reader = {text};

    if (sets(&reader, "image")) {
        string(&reader, guest->image ? guest->image : "");
        expect(&reader, "\n");
    } else {
        MUST(smolvm || !guest->image);
    }
    MUST(sets(&reader, "cmd"));
    expect(&reader, "[");
    for (size_t i = 0; i < guest->n_command; i++) {
        expect(&reader, i ? ", " : "");
        string(&reader, guest->command[i]);
    }
    expect(&reader, "]\n");
    if (sets(&reader, "workdir")) {
        string(&reader, guest->workdir ? guest->workdir : "");
        expect(&reader, "\n");
    } else {
        MUST(smolvm || !guest->workdir);
    }
    check_env(&reader, guest, smolvm);
    if (sets(&reader, "cpus"))
        number(&reader, guest->cpus);
    else
        MUST(smolvm && guest->cpus > 255);
    if (sets(&reader, "memory"))
        number(&reader, guest->memory_mib);
    else
        MUST(smolvm && guest->memory_mib < 64);
    if (smolvm) {
        expect(&reader, "net = false\n");
    } else {
        expect(&reader, "\n[[device]]\ntype = \"virtio-net\"\nbackend = \"gvproxy\"\n"
                        "socket = \"unixgram:///run/bottle/net.sock\"\nmac = ");
        string(&reader, network->guest_mac);
        expect(&reader, "\n");
    }
    MUST(*reader.at == '\0');
}

/* A guest has one variable of a name. */
static bool named_twice(const struct guest_config *guest)
{
    for (size_t i = 0; i < guest->n_env; i++)
        for (size_t k = i + 1; k < guest->n_env; k++)
            if (strcmp(guest->env[i].name, guest->env[k].name) == 0)
                return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {bytes, bytes + length};
    const char *command[ITEMS_MAX];
    struct env_var env[ITEMS_MAX];
    struct network network;
    uint8_t kind = take_byte(&input);
    struct guest_config guest = {.command = command,
                                 .env = env,
                                 .n_command = take_byte(&input) % 8,
                                 .cpus = take_u16(&input),
                                 .memory_mib = take_u16(&input)};
    char *image = take_string(&input), *workdir = take_string(&input);

    guest.image = kind & 2 ? image : NULL;
    guest.workdir = kind & 4 ? workdir : NULL;
    for (size_t i = 0; i < guest.n_command; i++)
        command[i] = take_string(&input);
    for (; guest.n_env < ITEMS_MAX && input.at < input.end; guest.n_env++)
        env[guest.n_env] = (struct env_var){take_string(&input), take_string(&input)};
    network_build(&network, "192.168.50.0/24", "192.168.50.1", "192.168.50.2", "5a:94:ef:00:00:32",
                  NULL, 0);
    for (int smolvm = 0; smolvm < 2 && !named_twice(&guest); smolvm++) {
        CLEANUP_TEXT struct text text = TEXT_INIT;
        if (render_smolfile(&guest, &network, smolvm ? SMOLFILE_SMOLVM : SMOLFILE_DEVICE, &text,
                            NULL) == 0) {
            MUST(strlen(text.data) == text.length && check_utf8(text.data));
            check(&guest, &network, smolvm, text.data);
        }
    }
    for (size_t i = 0; i < guest.n_command; i++)
        free((char *)(uintptr_t)command[i]);
    for (size_t i = 0; i < guest.n_env; i++) {
        free((char *)(uintptr_t)env[i].name);
        free((char *)(uintptr_t)env[i].value);
    }
    free(image);
    free(workdir);
    return 0;
}
