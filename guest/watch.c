#include "guest/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/number.h"
#include "base/util.h"
#include "guest/root.h"

enum {
    RECORD_MAX = 8192, /* of the kernel's log */
    FACILITY = 8,      /* from this priority on it is not the kernel itself that speaks */
    LOOK_MS = 1000,
    FULL_BYTES = 64 * 1024, /* so little is left */
    FREE_BYTES = 1024 * 1024,
    RECENT_MS = 5000, /* a program often removes what it could not finish */
};

void watch_open(struct watch *watch)
{
    *watch = (struct watch){.kernel = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)};
    watch->disk = root_writable(&watch->on_disk);
    if (watch->kernel >= 0)
        (void)lseek(watch->kernel, 0, SEEK_END);
    watch->look_at_ms = clock_monotonic_ms() + LOOK_MS;
}

void watch_close(struct watch *watch)
{
    if (watch->kernel >= 0)
        (void)close(watch->kernel);
    watch->kernel = -1;
}

/* ── memory ── */

/* "…: Killed process 123 (name) total-vm:…" (mm/oom_kill.c). A name may hold anything, so its end
 * is looked for from behind. */
static bool parse_kill(const char *text, pid_t *ret_pid, char ret_name[20])
{
    static const char words[] = "ut of memory: Killed process ";
    const char *at = strstr(text, words);
    const char *name = at ? strstr(at, " (") : NULL;
    const char *end = name ? strstr(name, ") total-vm:") : NULL;
    char number[16];
    int64_t pid;

    if (!end)
        return false;
    at += strlen(words);
    (void)snprintf(number, sizeof number, "%.*s", (int)(name - at), at);
    if (number_parse(number, 2, INT32_MAX, &pid) < 0)
        return false;
    *ret_pid = (pid_t)pid;
    (void)snprintf(ret_name, 20, "%.*s", (int)(end - name - 2), name + 2);
    for (char *c = ret_name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return true;
}

/* A record is "priority,sequence,time,flags;text" (Documentation/ABI/testing/dev-kmsg). What a
 * program writes there has a facility of its own. */
static void take_record(struct watch *watch, const char *record)
{
    const char *text = strchr(record, ';');
    unsigned long priority = strtoul(record, NULL, 10);

    if (!text || priority >= FACILITY || !parse_kill(text, &watch->killed, watch->killed_name))
        return;
    (void)snprintf(watch->words[EVENT_OUT_OF_MEMORY - 1], WATCH_WORDS,
                   "the guest ran out of memory, and its kernel killed %s (process %d)",
                   watch->killed_name, (int)watch->killed);
}

static void read_kernel(struct watch *watch)
{
    char record[RECORD_MAX + 1];

    for (int i = 0; i < 1000 && watch->kernel >= 0; i++) {
        ssize_t got = read(watch->kernel, record, RECORD_MAX);
        if (got < 0 && errno == EPIPE) /* some were overwritten before we came */
            continue;
        if (got <= 0)
            return;
        record[got] = '\0';
        take_record(watch, record);
    }
}

/* ── what is written to ── */

static const char *full_words(const struct watch *watch)
{
    return watch->on_disk
               ? "its disk is full (resources.disk_mib is its size)"
               : "the memory that it writes to is full (half of the guest's, resources.memory_mib; "
                 "resources.disk_mib gives it a disk)";
}

static void look_at_disk(struct watch *watch)
{
    struct statfs now;

    if (watch->disk < 0 || fstatfs(watch->disk, &now) < 0)
        return;
    uint64_t left = (uint64_t)now.f_bavail * (uint64_t)now.f_bsize;
    bool no_files = now.f_files > 0 && now.f_ffree == 0;
    if (left < FULL_BYTES || no_files) {
        watch->full_at_ms = clock_monotonic_ms();
        if (!watch->full)
            (void)snprintf(watch->words[EVENT_DISK_FULL - 1], WATCH_WORDS, "%s", full_words(watch));
        watch->full = true;
    } else if (left >= FREE_BYTES) {
        watch->full = false;
    }
}

/* ── telling ── */

int watch_wait_ms(const struct watch *watch)
{
    int64_t left = watch->look_at_ms - clock_monotonic_ms();

    return left < 0 ? 0 : (int)left;
}

void watch_pump(struct watch *watch, struct agent *agent)
{
    int64_t now = clock_monotonic_ms();

    read_kernel(watch);
    if (now >= watch->look_at_ms) {
        look_at_disk(watch);
        watch->look_at_ms = now + LOOK_MS;
    }
    for (int kind = EVENT_OUT_OF_MEMORY; kind <= EVENT_DISK_FULL; kind++) {
        char payload[1 + WATCH_WORDS];
        char *words = watch->words[kind - 1];
        size_t length = strlen(words);
        payload[0] = (char)kind;
        memcpy(payload + 1, words, length);
        if (length && agent_put(agent, FRAME_EVENT, payload, 1 + length) == 0) {
            words[0] = '\0';
            agent_write(agent);
        }
    }
}

const char *watch_reason(struct watch *watch, pid_t command, bool by_kill, char ret[REASON_WORDS])
{
    read_kernel(watch);
    look_at_disk(watch);
    ret[0] = '\0';
    if (watch->killed && by_kill && watch->killed == command)
        (void)snprintf(ret, REASON_WORDS,
                       "the guest ran out of memory (resources.memory_mib is its size), and its "
                       "kernel killed the command, %s",
                       watch->killed_name);
    else if (watch->killed)
        (void)snprintf(ret, REASON_WORDS,
                       "the guest ran out of memory (resources.memory_mib is its size) before the "
                       "command ended: its kernel killed %s (process %d)",
                       watch->killed_name, (int)watch->killed);
    size_t length = strlen(ret);
    if (watch->full_at_ms && clock_monotonic_ms() - watch->full_at_ms < RECENT_MS)
        (void)snprintf(ret + length, REASON_WORDS - length, "%swhen the command ended %s",
                       length ? "; " : "", full_words(watch));
    return ret;
}
