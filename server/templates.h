/* Templates: machines that booted once, up to their agent's HELLO, and were saved, so that later
 * bottles of the same machine start from a private mapping of that.
 *
 * Theory of operation. A template is a folder <state_dir>/templates/<sha256 of what it depends on>
 * with the files `ram` (read by bottles, written by nobody), `state` (of the devices) and
 * `made-from` (those facts, a line each). The first start of a machine is cold; once that bottle
 * runs, a thread of ours has its template made by a bottle-shim, in a VM's own jail and as a user
 * of its own, in the folder `.making`, which is renamed when all of it is done. What the facts no
 * longer fit (another kernel, QEMU, image, boot of the host) is removed at the start and before
 * each making; what goes over template_max_mib is removed by least use. Bottles that run keep the
 * file that they map, wherever its name has gone.
 *
 * There is nothing of a bottle in a template: it is saved before START, which is all that a machine
 * is ever told. */
#pragma once

#include <jansson.h>

#include "server/app.h"
#include "server/registry.h"

struct templates;

/* Looks at what is there, and starts the thread; app->templates. After images_start(). */
int templates_start(struct app *app, struct error *err);
/* Ends the thread, and what it has under way. */
void templates_stop(struct app *app);
void templates_free(struct app *app);

/* Adds to a launch spec the template that its machine is to start from, or the words why there is
 * none. `ret_key` names the template that could be; "" where there is to be none. Any thread. */
void templates_offer(struct templates *templates, const struct plan *plan, json_t *spec,
                     char ret_key[SHA256_HEX_SIZE]);
/* A bottle of that plan booted cold: to be made unless it is there, or was tried too often. */
void templates_want(struct templates *templates, const char *key, struct plan_ref *plan);
/* A bottle could not be restored from it: it is removed. */
void templates_failed(struct templates *templates, const char *key, const char *reason);
