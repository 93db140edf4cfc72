/* The making of an image: from a source to one erofs file and what the image says of itself.
 *
 * skopeo, umoci and mkfs.erofs do the work, each in a jail that sees /usr and the work folder and
 * nothing else, under limits, and, as root, as a user of its own. What the programs leave is read
 * without following links. Nothing is visible outside the work folder before all is done. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "api/image.h"
#include "backends/backend.h"
#include "server/config.h"

struct import {
    const struct config *config;
    const struct host *host;
    const char *source;
    atomic_bool *cancelled;
    /* Called at each new step and while one is under way. */
    void (*progress)(void *context, const char *step, int64_t bytes, int64_t files);
    void *context;
};

/* The programs, each with how to install it. */
void import_preflight(const struct host *host, struct preflight *ret);
/* May this source be imported at all, by what the operator allowed? Kinds "image-forbidden",
 * "invalid-plan". */
int import_check(const struct config *config, const char *source, struct error *err);
/* Makes the image's file, import_file() in the work folder, and fills all of *ret but id and time.
 * Kinds: "image-refused" (the source is at fault, or over a limit), "preflight-failed",
 * "cancelled". The caller removes the work folder (import_clean) in any case. One at a time. */
int import_run(const struct import *import, struct image *ret, struct error *err);
/* The work folder's name of the finished file. The caller frees. */
char *import_file(const struct host *host);
/* Removes the work folder; also what an earlier daemon left. */
int import_clean(const struct host *host, struct error *err);
