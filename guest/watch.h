/* What happens to the guest as a whole: its kernel killed a process for memory, or nothing more can
 * be written. Told to the host as EVENT, and in the words of EXIT when the command ended of it. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "guest/agent.h"

enum { WATCH_WORDS = 256, REASON_WORDS = 512 };

struct watch {
    int kernel; /* the kernel's log; -1: there is none */
    int disk;   /* what the bottle writes to; -1: not known. Borrowed */
    bool on_disk;
    int64_t look_at_ms,
        full_at_ms; /* when it is looked at next, and was last found full; 0: never */
    bool full;
    pid_t killed; /* the last one of the kernel's, 0: none */
    char killed_name[20];
    char words[2][WATCH_WORDS]; /* by event; owed to the host unless empty */
};

/* Looks from now on. In the bottle's root, before the command may take /dev away. */
void watch_open(struct watch *watch);
/* Milliseconds until it wants to look. */
int watch_wait_ms(const struct watch *watch);
/* Looks, and tells what it can. */
void watch_pump(struct watch *watch, struct agent *agent);
/* The words for the command's end, if its code is no success and something of this kind has to do
 * with it; else "". */
const char *watch_reason(struct watch *watch, pid_t command, bool by_kill, char ret[REASON_WORDS]);
void watch_close(struct watch *watch);
