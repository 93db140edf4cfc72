/* A bottle's start from a template: the machine's first seconds, from its process to its HELLO.
 *
 * The saved devices go to the VMM over its monitor, of which we hold the only other end; at HELLO
 * it becomes the one for pausing (shim/pause.h). Whatever goes wrong before that (QEMU refuses,
 * ends, or nothing is heard) makes the bottle boot cold: the command has not been sent yet. */
#pragma once

#include <stdbool.h>

#include "base/loop.h"
#include "base/text.h"

struct supervisor;

struct restore {
    bool under_way;
    bool failed;      /* cold from here on */
    bool done;        /* the machine is from the template */
    char reason[320]; /* of the failure, in words */
    struct loop_source monitor;
    struct text said;
    struct loop_timer deadline;
};

/* Is the next machine to come from a template? */
bool restore_wanted(const struct supervisor *sup);
/* Makes the monitor's ends: *ret_vm_end is for the VM (the caller closes it). */
int restore_begin(struct supervisor *sup, int *ret_vm_end, struct error *err);
/* The VM's process runs: asks its guest for HELLO. */
void restore_started(struct supervisor *sup);
/* HELLO has come. */
void restore_succeeded(struct supervisor *sup);
/* The machine is ended, and the next one boots. */
void restore_fail(struct supervisor *sup, const char *words);
/* Lets go of all. */
void restore_end(struct supervisor *sup);
