/* What a bottle has on this machine: found, and removed, by rules that do not need a daemon that
 * remembers. Both wait for disks and processes: worker threads only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "api/cleanup.h"
#include "server/registry.h"
#include "server/shim_client.h"

struct remains {
    char slug[SLUG_MAX + 1];   /* "": of no bottle that there is (orphans.h) */
    unsigned uid;              /* whose its directories may be, beside our own */
    char *run_dir, *stage_dir; /* NULL: none */
    char *cgroup;              /* NULL: none */
    char *kept_dir;            /* where logs are moved that are to be kept */
    struct allocation allocation;
    struct shim_process processes[SHIM_PROCESSES_MAX + 1]; /* the supervisor first */
    size_t n_processes;
};

/* Adds one item for each process that is alive, socket, host port, directory and file, and the
 * record. Changes nothing. -1 when memory is short. */
int remains_list(const struct remains *remains, struct cleanup_plan *ret);
/* Puts the outcomes so far on record. -1: it could not, and nothing more is to be done. */
typedef int remains_note(void *context, const struct cleanup_plan *plan, struct error *err);
/* Makes sure that no process is left, then removes the directories, and sets the outcomes of
 * processes, sockets, files and directories. Removes nothing while a process lives. `note` (may be
 * NULL) is called after each step that had an outcome, before the next. -1: something is still
 * there (its outcome says why). */
int remains_remove(const struct remains *remains, bool keep_logs, struct cleanup_plan *plan,
                   remains_note *note, void *context, struct error *err);
void remains_free(struct remains *remains);
