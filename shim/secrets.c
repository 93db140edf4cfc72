#include "shim/secrets.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "shim/supervisor_internal.h"

enum { GUEST_MS = 8000, WORDS_MAX = 300 };

/* Wipes a memfd, which bottled may still hold for a moment. */
static void wipe_file(int fd)
{
    static const uint8_t zeros[4096];
    struct stat status;

    if (fstat(fd, &status) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return;
    for (off_t at = 0; at < status.st_size; at += (off_t)sizeof zeros)
        if (write_all(fd, zeros, sizeof zeros) < 0)
            return;
    if (ftruncate(fd, 0) < 0)
        return; /* zeros are as good */
}

/* Reads a descriptor to its end and wipes it; `count` NAME=value with a NUL each, 0: any. */
static int take(int fd, int64_t count, struct secret *ret, struct error *err)
{
    CLEANUP_SECRET struct secret secret = {0};
    int64_t found = 0;

    if (secret_make(&secret, SECRETS_TOTAL_MAX, err) < 0)
        return -1;
    int result = secret_read(&secret, fd, SECRETS_TOTAL_MAX);
    wipe_file(fd);
    if (result < 0)
        return error_errno(err, "launch-failed", "reading the secrets");
    for (size_t i = 0; i < secret.length; i++)
        found += secret.bytes[i] == 0;
    if (secret.length == 0 || secret.bytes[secret.length - 1] != 0 || (count && found != count))
        return error_set(err, "launch-failed", "the secrets are not those of the launch spec");
    *ret = secret;
    secret = (struct secret){0};
    return 0;
}

int secrets_load(int fd, struct launch *launch, struct error *err)
{
    if (launch->n_secrets == 0)
        return 0;
    int result = take(fd, launch->n_secrets, &launch->secrets, err);
    (void)close(fd);
    return result;
}

/* Sends a frame of them, of which no copy stays. */
static int send_frame(struct supervisor *sup, uint32_t id, uint32_t signal,
                      const struct secret *secrets)
{
    uint8_t head[FRAME_HEADER_SIZE + SECRETS_FIXED_SIZE];
    CLEANUP_SECRET struct secret frame = {0};
    uint32_t count = 0;

    for (size_t i = 0; i < secrets->length; i++)
        count += secrets->bytes[i] == 0;
    frame_header(head, FRAME_SECRETS, (uint32_t)(SECRETS_FIXED_SIZE + secrets->length));
    put_u32(head + FRAME_HEADER_SIZE, id);
    put_u32(head + FRAME_HEADER_SIZE + 4, signal);
    put_u32(head + FRAME_HEADER_SIZE + 8, count);
    if (secret_make(&frame, sizeof head + secrets->length, NULL) < 0 ||
        secret_add(&frame, head, sizeof head) < 0 ||
        secret_add(&frame, secrets->bytes, secrets->length) < 0)
        return -1;
    return agent_send(&sup->agent, frame.bytes, frame.length);
}

int secrets_send_first(struct supervisor *sup)
{
    if (sup->launch->n_secrets == 0)
        return 0;
    int result = send_frame(sup, 0, 0, &sup->launch->secrets);
    secret_free(&sup->launch->secrets);
    return result;
}

static void answer(struct supervisor *sup, int64_t id, const char *error)
{
    control_send(sup->control, json_pack("{s:I, s:o?}", "secrets", (json_int_t)id, "error",
                                         error ? json_string_lossy(error) : NULL));
}

void secrets_end(struct supervisor *sup, const char *why)
{
    int64_t id = sup->secrets.id;

    loop_timer_cancel(sup->loop, &sup->secrets.deadline);
    sup->secrets.id = 0;
    if (id)
        answer(sup, id, why);
}

static void on_late(struct loop_timer *timer)
{
    secrets_end(timer->data, "the guest did not answer in time");
}

void secrets_request(struct supervisor *sup, int64_t id, uint32_t signal, int fd)
{
    CLEANUP_SECRET struct secret secrets = {0};
    CLEANUP_CLOSE int file = fd;
    struct error err = ERROR_INIT;

    if (take(file, 0, &secrets, &err) < 0) {
        answer(sup, id, err.text);
    } else if (sup->secrets.id || id <= 0) {
        answer(sup, id, "another reload is under way");
    } else if (!supervisor_serves(sup)) {
        answer(sup, id, "the command does not run");
    } else if (send_frame(sup, sup->secrets.asked + 1, signal, &secrets) < 0) {
        answer(sup, id, "the agent's channel is closed");
    } else {
        sup->secrets.id = id;
        sup->secrets.asked++;
        sup->secrets.deadline = (struct loop_timer){.callback = on_late, .data = sup};
        loop_timer_set(sup->loop, &sup->secrets.deadline, clock_monotonic_ms() + GUEST_MS);
    }
}

int secrets_frame(struct supervisor *sup, const struct frame *frame)
{
    char words[WORDS_MAX + 1];

    if (frame->length < 4 || frame->length > 4 + WORDS_MAX)
        return -1;
    /* Of a reload that was given up, or of none: it may have been on its way. */
    if (!sup->secrets.id || get_u32(frame->payload) != sup->secrets.asked)
        return 0;
    (void)snprintf(words, sizeof words, "%.*s", (int)(frame->length - 4),
                   (const char *)frame->payload + 4);
    secrets_end(sup, words[0] ? words : NULL);
    return 0;
}
