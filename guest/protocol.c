#include "guest/protocol.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void put_u16(uint8_t out[2], uint16_t value)
{
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

uint16_t get_u16(const uint8_t in[2])
{
    return (uint16_t)(in[0] | in[1] << 8);
}

void put_u32(uint8_t out[4], uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

uint32_t get_u32(const uint8_t in[4])
{
    return (uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

void put_u64(uint8_t out[8], uint64_t value)
{
    put_u32(out, (uint32_t)value);
    put_u32(out + 4, (uint32_t)(value >> 32));
}

uint64_t get_u64(const uint8_t in[8])
{
    return get_u32(in) | (uint64_t)get_u32(in + 4) << 32;
}

void frame_header(uint8_t out[FRAME_HEADER_SIZE], enum frame_type type, uint32_t length)
{
    memset(out, 0, FRAME_HEADER_SIZE);
    put_u32(out, length);
    out[4] = (uint8_t)type;
}

int64_t frame_parse(const uint8_t *bytes, size_t length, uint32_t max, struct frame *ret)
{
    if (length < FRAME_HEADER_SIZE)
        return 0;
    uint32_t payload = get_u32(bytes);
    if (payload > max || bytes[5] || bytes[6] || bytes[7])
        return -1;
    if (length - FRAME_HEADER_SIZE < payload)
        return 0;
    *ret = (struct frame){
        .type = (enum frame_type)bytes[4], .payload = bytes + FRAME_HEADER_SIZE, .length = payload};
    return (int64_t)FRAME_HEADER_SIZE + payload;
}

/* The next NUL-terminated string, or NULL at the end. */
static const char *next_string(const uint8_t **at, const uint8_t *end)
{
    const char *string = (const char *)*at;
    const uint8_t *nul = *at < end ? memchr(*at, 0, (size_t)(end - *at)) : NULL;

    if (!nul)
        return NULL;
    *at = nul + 1;
    return string;
}

static char **next_strings(const uint8_t **at, const uint8_t *end, uint32_t count)
{
    /* Each string takes a byte at least, so a lying count can not make us allocate much. */
    if (count > (size_t)(end - *at))
        return NULL;
    char **strings = calloc((size_t)count + 2, sizeof *strings);
    for (uint32_t i = 0; strings && i < count; i++) {
        strings[i] = (char *)(uintptr_t)next_string(at, end);
        if (!strings[i]) {
            free(strings);
            return NULL;
        }
    }
    return strings;
}

/* The arguments and the variables. 0, or -1 with nothing left to free. */
static int take_arrays(const uint8_t **at, const uint8_t *end, uint32_t n_args, uint32_t n_env,
                       char ***ret_args, char ***ret_env)
{
    char **args = n_args ? next_strings(at, end, n_args) : NULL;
    char **env = args ? next_strings(at, end, n_env) : NULL;

    if (!env) {
        free(args);
        free(env);
        return -1;
    }
    *ret_args = args;
    *ret_env = env;
    return 0;
}

static int take_u32(const uint8_t **at, const uint8_t *end, uint32_t *ret)
{
    if (end - *at < 4)
        return -1;
    *ret = get_u32(*at);
    *at += 4;
    return 0;
}

/* The last part of START. */
static int take_mounts(const uint8_t **at, const uint8_t *end, struct start_message *ret)
{
    uint32_t count;

    if (take_u32(at, end, &ret->files_max) < 0 || take_u32(at, end, &count) < 0 ||
        count > START_MOUNTS_MAX)
        return -1;
    for (; ret->n_mounts < count; ret->n_mounts++) {
        struct start_mount *mount = &ret->mounts[ret->n_mounts];
        if (take_u32(at, end, &mount->flags) < 0 || mount->flags & ~(uint32_t)MOUNT_READ_ONLY ||
            !(mount->tag = next_string(at, end)) || !(mount->target = next_string(at, end)))
            return -1;
    }
    return 0;
}

static int take_fresh(const uint8_t **at, const uint8_t *end, struct start_message *message)
{
    if (end - *at < START_FRESH_SIZE)
        return -1;
    message->wall_ms = get_u64(*at);
    message->mac = *at + 8;
    message->entropy = *at + 16;
    *at += START_FRESH_SIZE;
    return 0;
}

int start_message_parse(const uint8_t *payload, size_t length, struct start_message *ret)
{
    struct start_message message = {0};

    if (length < 8)
        return -1;
    const uint8_t *at = payload + 8, *end = payload + length;
    message.n_args = get_u32(payload);
    message.n_env = get_u32(payload + 4);
    message.hostname = next_string(&at, end);
    message.address = next_string(&at, end);
    message.gateway = next_string(&at, end);
    message.workdir = next_string(&at, end);
    message.user = next_string(&at, end);
    if (!message.user ||
        take_arrays(&at, end, message.n_args, message.n_env, &message.args, &message.env) < 0)
        return -1;
    if (take_fresh(&at, end, &message) < 0 || take_mounts(&at, end, &message) < 0 || at != end) {
        start_message_free(&message);
        return -1;
    }
    *ret = message;
    return 0;
}

void start_message_free(struct start_message *message)
{
    free(message->args);
    free(message->env);
    message->args = message->env = NULL;
}

int exec_message_parse(const uint8_t *payload, size_t length, struct exec_message *ret)
{
    struct exec_message message = {0};

    if (length < EXEC_FIXED_SIZE)
        return -1;
    const uint8_t *at = payload + EXEC_FIXED_SIZE, *end = payload + length;
    message.id = get_u32(payload);
    message.flags = get_u32(payload + 4);
    message.timeout_ms = get_u32(payload + 8);
    message.rows = get_u16(payload + 12);
    message.columns = get_u16(payload + 14);
    message.n_args = get_u32(payload + 16);
    message.n_env = get_u32(payload + 20);
    message.workdir = next_string(&at, end);
    if (!message.workdir || (message.flags & ~(uint32_t)EXEC_FLAGS) ||
        (message.flags & (EXEC_FILES | EXEC_TERMINAL)) == (EXEC_FILES | EXEC_TERMINAL) ||
        take_arrays(&at, end, message.n_args, message.n_env, &message.args, &message.env) < 0)
        return -1;
    if (at != end) {
        exec_message_free(&message);
        return -1;
    }
    *ret = message;
    return 0;
}

void exec_message_free(struct exec_message *message)
{
    free(message->args);
    free(message->env);
    message->args = message->env = NULL;
}

int secrets_message_parse(const uint8_t *payload, size_t length, struct secrets_message *ret)
{
    struct secrets_message message = {0};

    if (length < SECRETS_FIXED_SIZE)
        return -1;
    const uint8_t *at = payload + SECRETS_FIXED_SIZE, *end = payload + length;
    message.id = get_u32(payload);
    message.signal = get_u32(payload + 4);
    message.count = get_u32(payload + 8);
    message.items = next_strings(&at, end, message.count);
    bool whole = message.items && at == end;
    for (uint32_t i = 0; whole && i < message.count; i++)
        whole = message.items[i][0] != '=' && strchr(message.items[i], '=');
    if (!whole) {
        free(message.items);
        return -1;
    }
    *ret = message;
    return 0;
}

void secrets_message_free(struct secrets_message *message)
{
    free(message->items);
    message->items = NULL;
}
