/* bottle-init: PID 1 of the guest.
 *
 * It loads the kernel modules of the boot root, says HELLO on the agent port, takes START (here a
 * template of the machine is saved, and restored), seeds the random generator, brings up the
 * network, makes the bottle's root, runs the command, says EXIT and ends the machine. It is static
 * and calls nothing of the C library that looks up names, locales or users: there is no file for
 * that where it starts.
 *
 * PID 1 must not end: every fault becomes a line on the console, FAILED on the port, and an orderly
 * power off. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/clock.h"
#include "guest/agent.h"
#include "guest/boot.h"
#include "guest/console.h"
#include "guest/fresh.h"
#include "guest/net.h"
#include "guest/room.h"
#include "guest/root.h"
#include "guest/run.h"
#include "guest/secrets.h"

enum {
    /* How long a host that takes no bytes at all is waited for before what is queued is given up.
     */
    FLUSH_STALL_MS = 60 * 1000,
    /* How long the host's answer to EXIT or FAILED is waited for. */
    ANSWER_MS = 3 * 1000,
};

static struct agent agent = AGENT_INIT;
static struct secrets secrets = SECRETS_INIT;
static struct leave leave;

static void hello(void)
{
    uint8_t payload[AGENT_SMALL_MAX];
    struct utsname name;
    size_t length = 0;

    if (uname(&name) == 0) {
        length = strlen(name.release);
        memcpy(payload + 4, name.release, length);
    }
    put_u32(payload, PROTOCOL_VERSION);
    (void)agent_put(&agent, FRAME_HELLO, payload, 4 + length);
}

/* Before START, once. */
static int keep_secrets(const struct frame *frame, struct error *err)
{
    struct secrets_message message;

    if (secrets.count || secrets_message_parse(frame->payload, frame->length, &message) < 0)
        return error_set(err, NULL, "the host sent malformed SECRETS");
    int result = secrets_take(&secrets, &message, err);
    secrets_message_free(&message);
    return result;
}

/* 1 and *ret_start, whose strings lie in *ret_payload, which the caller frees after it; 0 when the
 * host wants no more; -1. */
static int await_start(struct start_message *ret_start, uint8_t **ret_payload, struct error *err)
{
    struct frame frame;
    uint8_t *payload;

    for (;;) {
        switch (agent_read(&agent, &frame)) {
        case AGENT_NOTHING:
            agent_wait(&agent, -1);
            continue;
        case AGENT_CLOSED:
            return 0;
        case AGENT_MALFORMED:
            return error_set(err, NULL, "the host sent a malformed frame in place of START");
        case AGENT_FRAME:
            break;
        }
        if (frame.type == FRAME_POWEROFF && frame.length == 0)
            return 0;
        if (frame.type == FRAME_WAKE && frame.length == 0) {
            hello();
            agent_write(&agent);
            continue;
        }
        if (frame.type == FRAME_SECRETS) {
            if (keep_secrets(&frame, err) < 0)
                return -1;
            continue;
        }
        if (frame.type != FRAME_START)
            return error_set(err, NULL, "the host sent another frame in place of START");
        payload = malloc(frame.length + 1);
        if (!payload)
            return error_set(err, NULL, "out of memory");
        memcpy(payload, frame.payload, frame.length);
        if (start_message_parse(payload, frame.length, ret_start) < 0) {
            free(payload);
            return error_set(err, NULL, "the host sent a malformed START");
        }
        *ret_payload = payload;
        return 1;
    }
}

static int prepare(const struct start_message *start, struct error *err)
{
    if (fresh_apply(start, err) < 0 || net_up(start, err) < 0 || root_enter(err) < 0)
        return -1;
    if (root_files(start->hostname, start->address, start->gateway, err) < 0)
        return -1;
    if (root_mount_shared(start, err) < 0)
        return -1;
    room_keep(start->n_mounts ? start->files_max : 0);
    return secrets_place(&secrets, start->user, err); /* over whatever is mounted at /run */
}

/* From HELLO to the command's end. 1: EXIT is queued; 0: the host wants no more; -1: the error is
 * to be told. */
static int serve(struct error *err)
{
    struct start_message start;
    uint8_t *payload = NULL;
    int result = agent_open(&agent, err);

    if (result < 0)
        return -1;
    hello();
    agent_write(&agent);
    result = await_start(&start, &payload, err);
    if (result <= 0)
        return result;
    result = prepare(&start, err);
    if (result == 0) {
        enum run_end end = run_command(&agent, &start, &secrets, &leave, err);
        result = end == RUN_MALFORMED ? -1 : end == RUN_EXITED;
    }
    start_message_free(&start);
    free(payload);
    return result;
}

/* Puts what is queued on its way. */
static void flush(void)
{
    int64_t moved = clock_monotonic_ms();

    while (!agent.closed && !agent_idle(&agent)) {
        size_t before = agent.out_at;
        agent_wait(&agent, 1000);
        if (agent.out_at != before)
            moved = clock_monotonic_ms();
        else if (clock_monotonic_ms() - moved >= FLUSH_STALL_MS)
            return;
    }
}

/* A write to the port is not yet a read by the host, and the machine's end takes what is between.
 * So the host answers EXIT and FAILED with POWEROFF; also another frame that was on its way then,
 * or a closed port, ends this. */
static void await_answer(void)
{
    int64_t until = clock_monotonic_ms() + ANSWER_MS, now;
    struct frame frame;

    while ((now = clock_monotonic_ms()) < until) {
        enum agent_result result = agent_read(&agent, &frame);
        if (result == AGENT_NOTHING)
            agent_wait(&agent, (int)(until - now));
        else if (result != AGENT_FRAME || frame.type == FRAME_POWEROFF)
            return;
    }
}

int main(void)
{
    struct error err = ERROR_INIT;
    sigset_t all;

    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    (void)umask(022);
    console_open();
    int result = boot_mount(&err);
    console_open();
    if (result == 0) {
        boot_modules();
        result = serve(&err);
    }
    if (result < 0) {
        console_say("%s", err.text);
        (void)agent_put(&agent, FRAME_FAILED, err.text, strlen(err.text));
    }
    flush();
    end_processes(&leave);
    if (result != 0)
        await_answer();
    power_off();
}
