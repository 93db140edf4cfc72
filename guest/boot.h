/* The first steps of PID 1: kernel file systems, kernel modules, the kernel's command line, and the
 * last: power off. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* Mounts /proc, /sys and /dev in the boot root. */
int boot_mount(struct error *err);
/* Is this word on the kernel's command line? Needs /proc. */
bool boot_option(const char *word);
/* Loads the files of /modules in the order of /modules/order and removes them. A module that fails
 * is reported on the console and skipped: what needs it fails with words of its own. */
void boot_modules(void);
/* A stop that the processes of one group know of (0: of none), and have until then (monotonic). */
struct leave {
    int64_t until_ms;
    pid_t group;
};
/* Ends every process but this one: SIGTERM to those that do not know of it yet, time as the stop
 * gives it (two seconds at least), SIGKILL. */
void end_processes(const struct leave *leave);
/* Writes back, makes the root read-only and ends the machine. */
void power_off(void) __attribute__((noreturn));
