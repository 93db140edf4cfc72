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
/* Makes sure that no process is left, then removes the directories, and sets the outcomes of
 * processes, sockets, files and directories. Removes nothing while a process lives. -1: something
 * is still there (its outcome says why). */
int remains_remove(const struct remains *remains, bool keep_logs, struct cleanup_plan *plan,
                   struct error *err);
void remains_free(struct remains *remains);
