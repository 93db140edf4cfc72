/* The images: those that were imported, those being imported, and the thread that imports, one at a
 * time.
 *
 * An image is an entry by its id, which the import gives it. It is `importing`, then `ready` (only
 * such are in the database), or `failed` (kept in memory for a while, so that whoever asked can see
 * why). Its file, <state_dir>/images/<sha256>.erofs, may be that of several entries; it goes with
 * the last. An entry that another import of the same source made anew, with the same result, goes
 * as well, unless a bottle has it. */
#pragma once

#include <jansson.h>

#include "api/image.h"
#include "api/problem.h"
#include "server/app.h"

enum { IMPORTS_MAX = 64 };

/* Removes what an unfinished import left, loads the entries, starts the thread; in app->images.
 * After the store was opened and the registry made. */
int images_start(struct app *app, struct error *err);
/* Ends an import that is under way, answers who waits, and ends the thread. */
void images_stop(struct app *app);
void images_free(struct app *app);

/* Exactly one of image (borrowed for the call: the object of the HTTP contract) and problem is
 * non-NULL. From any thread. */
typedef void images_done(void *context, const json_t *image, const struct problem *problem);
/* Does anybody still want the answer? Asked now and then, from any thread. */
typedef bool images_wanted(const void *context);

/* Queues an import, or joins the one of that source that is queued. `wait_ms` 0: done is called at
 * once, with state "importing"; else when it is ready, or failed, or the time is over ("timeout"),
 * or nobody wants it any more. At most max_waiters wait. */
void images_import(struct app *app, const char *source, int64_t wait_ms, images_wanted *wanted,
                   images_done *done, void *context);
/* Removes an entry and, if it was the last with it, the file. Problem "image-in-use" while a bottle
 * has it. */
void images_delete(struct app *app, const char *id, images_done *done, void *context);
/* The entry's object, or NULL. Caller owns. */
json_t *images_get(struct app *app, const char *id);
/* {"images": […]}, oldest first. Caller owns. */
json_t *images_list(struct app *app);

/* What a plan's `image` means. 0 and *ret: the image (caller unrefs), NULL for one that needs no
 * import. Kind "image-not-imported". `pin`: it can't be deleted until images_unpin(). */
int images_resolve(struct images *images, const char *text, bool pin, struct image **ret,
                   struct error *err);
/* NULL: no image. */
void images_unpin(struct images *images, const struct image *image);
