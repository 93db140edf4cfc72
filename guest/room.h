/* Room with those who serve the host's directories: each holds a descriptor for every file of
 * theirs that this kernel remembers, and may only hold so many. The kernel remembers as much as its
 * memory allows, and is told here to forget before there are too many. */
#pragma once

#include <stdint.h>

/* Starts a process that looks after it, for as long as the machine runs. `files_max`: what they may
 * hold; 0: no bound, and no process. */
void room_keep(uint32_t files_max);
/* The active objects of a slab in the text of /proc/slabinfo; -1: it does not say. */
int64_t room_count(const char *slabinfo, const char *slab);
