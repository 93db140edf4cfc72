/* A clock for what has to be right over restarts of bottled and jumps of the wall clock.
 *
 * Within one boot of the host it is CLOCK_BOOTTIME, which goes on in suspend and which nobody sets.
 * Over boots it goes on from where it was last kept: the time that a host is down does not count,
 * nor the last of its time up, KEEP_MS at most. Three rows of the table `meta` are all there is of
 * it. The wall clock is for showing only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/store.h"

enum { HOST_CLOCK_KEEP_MS = 30000 };

/* Before the store is written by others and before anybody asks for the time. *ret_new_boot: the
 * host was booted since it was last kept, so that no process of then lives. */
int host_clock_open(struct store *store, bool *ret_new_boot, struct error *err);
/* From any thread. */
int64_t host_clock_ms(void);
/* Keeps the time, in a while; to be called every HOST_CLOCK_KEEP_MS while somebody counts on it. */
void host_clock_keep(struct store *store);
/* Now by the wall clock what is `clock_ms` by this one. */
int64_t host_clock_to_wall(int64_t clock_ms);
