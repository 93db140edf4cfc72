/* The table of images: what is in it, its start and end, what goes out of it (theory: images.h; the
 * imports: images_import.c). */
#include "server/images.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "api/bottle.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/events.h"
#include "server/image_rows.h"
#include "server/images_internal.h"
#include "server/import.h"
#include "server/log.h"
#include "server/registry.h"
#include "server/row.h"

enum { PAGE = 64, DIGEST_LENGTH = SHA256_HEX_SIZE - 1 };

static const char *const state_names[] = {"importing", "ready", "failed"};

/* --- Entries (under the lock) ----------------------------------------------------------------- */

struct image_entry *image_find(struct images *images, const char *id)
{
    for (struct image_entry *entry = images->first; entry; entry = entry->next)
        if (strcmp(entry->id, id) == 0)
            return entry;
    return NULL;
}

void image_add(struct images *images, struct image_entry *entry)
{
    *images->last = entry;
    images->last = &entry->next;
}

/* Takes it out of the table; the caller frees. */
void image_take_out(struct images *images, struct image_entry *entry)
{
    struct image_entry **at = &images->first;

    while (*at && *at != entry)
        at = &(*at)->next;
    if (*at && !(*at = entry->next))
        images->last = at;
}

void image_entry_free(struct image_entry *entry)
{
    if (!entry)
        return;
    image_unref(entry->image);
    free(entry);
}

static bool digest_is_shared(const struct images *images, const struct image_entry *but)
{
    for (const struct image_entry *entry = images->first; entry; entry = entry->next)
        if (entry != but && entry->image && strcmp(entry->image->digest, but->image->digest) == 0)
            return true;
    return false;
}

void image_drop_file(struct images *images, const struct image_entry *entry)
{
    CLEANUP_FREE char *path = image_file_path(images->app->host.state_dir, entry->image->digest);

    if (path && !digest_is_shared(images, entry) && unlink(path) < 0 && errno != ENOENT)
        log_event(LEVEL_WARNING, "an image's file stays", LOG_TEXT("file", path));
}

json_t *image_encode(const struct image_entry *entry)
{
    const struct image *image = entry->state == IMAGE_READY ? entry->image : NULL;
    char created[TIMESTAMP_SIZE];

    timestamp_format(entry->created_ms, created);
    json_t *ret = json_pack("{s:s, s:s, s:s, s:s}", "id", entry->id, "source", entry->source,
                            "state", state_names[entry->state], "created_at", created);
    if (image) {
        CLEANUP_JSON json_t *more = json_pack(
            "{s:s, s:s?, s:I, s:I, s:o}", "digest", image->digest, "manifest_digest",
            image->manifest[0] ? image->manifest : NULL, "bytes", (json_int_t)image->bytes, "files",
            (json_int_t)image->files, "config", image_config_encode(&image->config));
        (void)json_object_update(ret, more);
    } else if (entry->state == IMAGE_FAILED) {
        (void)json_object_set_new(ret, "reason", json_string_lossy(entry->failure.text));
    } else {
        CLEANUP_JSON json_t *so_far =
            json_pack("{s:s, s:I, s:I}", "step", entry->step ? entry->step : "queued", "bytes",
                      (json_int_t)entry->bytes, "files", (json_int_t)entry->files);
        (void)json_object_set(ret, "progress", so_far);
    }
    return ret;
}

/* --- Events ----------------------------------------------------------------------------------- */

void image_tell(struct images *images, const char *type, json_t *image)
{
    struct event_list *list = event_list_new("");

    event_list_add(list, type, json_incref(image));
    event_list_submit(list, images->app->store);
}

/* --- Start and stop --------------------------------------------------------------------------- */

static int load_one(struct image *image, void *context, struct error *err)
{
    struct images *images = context;
    struct image_entry *entry = calloc(1, sizeof *entry);
    CLEANUP_FREE char *path = image_file_path(images->app->host.state_dir, image->digest);

    if (!entry || !path) {
        free(entry);
        image_unref(image);
        return error_set(err, NULL, "out of memory");
    }
    if (access(path, R_OK) < 0)
        log_event(LEVEL_WARNING, "an image's file is not there", LOG_TEXT("id", image->id),
                  LOG_TEXT("file", path));
    entry->state = IMAGE_READY;
    entry->image = image;
    entry->created_ms = image->created_ms;
    (void)snprintf(entry->id, sizeof entry->id, "%s", image->id);
    (void)snprintf(entry->source, sizeof entry->source, "%s", image->source);
    image_add(images, entry);
    return 0;
}

static int load(sqlite3 *db, void *context, struct error *err)
{
    return images_load(db, load_one, context, err);
}

/* Files that no entry has: of an import that was not stored any more. */
static void sweep(struct images *images, const char *folder)
{
    DIR *directory = opendir(folder);

    for (struct dirent *file; directory && (file = readdir(directory));) {
        bool known = file->d_name[0] == '.';
        for (const struct image_entry *entry = images->first; entry && !known; entry = entry->next)
            known = strncmp(file->d_name, entry->image->digest, DIGEST_LENGTH) == 0;
        if (!known && unlinkat(dirfd(directory), file->d_name, 0) < 0)
            log_event(LEVEL_WARNING, "a file of no image stays", LOG_TEXT("file", file->d_name));
    }
    if (directory)
        (void)closedir(directory);
}

int images_start(struct app *app, struct error *err)
{
    struct images *images = calloc(1, sizeof *images);
    CLEANUP_FREE char *folder = NULL;

    if (!images || asprintf(&folder, "%s/images", app->host.state_dir) < 0) {
        folder = NULL;
        free(images);
        return error_set(err, NULL, "out of memory");
    }
    images->app = app;
    images->last = &images->first;
    atomic_init(&images->cancelled, false);
    (void)pthread_mutex_init(&images->lock, NULL);
    (void)pthread_cond_init(&images->wake, NULL);
    app->images = app->host.images = images;
    if (directory_make(folder, 0700, err) < 0 || import_clean(&app->host, err) < 0 ||
        store_read(app->store, load, images, err) < 0)
        return -1;
    sweep(images, folder);
    int result = pthread_create(&images->thread, NULL, image_thread, images);
    images->runs = result == 0;
    errno = result;
    return result ? error_errno(err, NULL, "starting a thread") : 0;
}

void images_stop(struct app *app)
{
    static const struct error ending = {.kind = "shutting-down",
                                        .text = "bottled is ending: import the image again later"};
    struct images *images = app->images;

    if (!images || !images->runs)
        return;
    atomic_store(&images->cancelled, true);
    (void)pthread_mutex_lock(&images->lock);
    images->ending = true;
    (void)pthread_cond_signal(&images->wake);
    (void)pthread_mutex_unlock(&images->lock);
    (void)pthread_join(images->thread, NULL);
    images->runs = false;
    (void)pthread_mutex_lock(&images->lock);
    for (struct image_entry *entry = images->first; entry; entry = entry->next) {
        struct image_waiter *waiters =
            entry->state == IMAGE_IMPORTING && !entry->step ? entry->waiters : NULL;
        if (waiters)
            entry->waiters = NULL;
        image_answer_error(waiters, &ending);
    }
    (void)pthread_mutex_unlock(&images->lock);
}

void images_free(struct app *app)
{
    struct images *images = app->images;

    if (!images)
        return;
    images_stop(app);
    while (images->first) {
        struct image_entry *entry = images->first;
        images->first = entry->next;
        image_entry_free(entry);
    }
    (void)pthread_cond_destroy(&images->wake);
    (void)pthread_mutex_destroy(&images->lock);
    free(images);
    app->images = app->host.images = NULL;
}

/* --- Delete ----------------------------------------------------------------------------------- */

struct removal {
    struct images *images;
    char id[IMAGE_ID_SIZE];
    images_done *done;
    void *context;
};

static void removal_end(struct removal *removal, const json_t *image, const struct error *err)
{
    struct problem problem = PROBLEM_INIT;

    if (err)
        problem_from_error(&problem, err);
    removal->done(removal->context, err ? NULL : image, err ? &problem : NULL);
    problem_free(&problem);
    free(removal);
}

static int removal_apply(sqlite3 *db, void *context, struct error *err)
{
    const struct removal *removal = context;

    return image_delete(db, removal->id, err);
}

static void removal_done(void *context, const struct error *failure)
{
    struct removal *removal = context;
    struct images *images = removal->images;

    (void)pthread_mutex_lock(&images->lock);
    struct image_entry *entry = image_find(images, removal->id);
    CLEANUP_JSON json_t *shown = image_encode(entry);
    entry->deleting = false;
    if (!failure) {
        image_drop_file(images, entry);
        image_take_out(images, entry);
        image_entry_free(entry);
    }
    (void)pthread_mutex_unlock(&images->lock);
    if (!failure)
        image_tell(images, "image.deleted", shown);
    removal_end(removal, shown, failure);
}

/* The bottle that has the image, or NULL; its name in *ret. */
static bool in_use(struct app *app, const char *id, char ret[SLUG_MAX + 1])
{
    struct snapshot *page[PAGE];
    struct bottle_row row;
    uint64_t after = 0;
    bool found = false;
    size_t count;

    do {
        count = registry_page(app->registry, after, page, PAGE);
        for (size_t i = 0; i < count; i++) {
            snapshot_row(page[i], &row);
            if (!found && strcmp(row.image, id) == 0) {
                (void)snprintf(ret, SLUG_MAX + 1, "%s", row.slug);
                found = true;
            }
            after = page[i]->sequence;
            snapshot_release(page[i]);
        }
    } while (!found && count == PAGE);
    return found;
}

/* Marks it, so that no bottle takes it from here on (under the lock). */
static int mark(struct images *images, const char *id, struct error *err)
{
    struct image_entry *entry = image_find(images, id);

    if (!entry)
        return error_set(err, "not-found", "there is no image %s", id);
    if (entry->state == IMAGE_IMPORTING)
        return error_set(err, "wrong-state", "the image %s is still being imported", id);
    if (entry->deleting || entry->pins)
        return error_set(err, "image-in-use", "the image %s is being deleted or taken by a bottle",
                         id);
    if (entry->state == IMAGE_FAILED) {
        image_take_out(images, entry);
        image_entry_free(entry);
        return 0;
    }
    entry->deleting = true;
    return 1;
}

static void unmark(struct images *images, const char *id)
{
    (void)pthread_mutex_lock(&images->lock);
    struct image_entry *entry = image_find(images, id);
    if (entry)
        entry->deleting = false;
    (void)pthread_mutex_unlock(&images->lock);
}

void images_delete(struct app *app, const char *id, images_done *done, void *context)
{
    struct images *images = app->images;
    struct removal *removal = must_alloc(sizeof *removal);
    struct error err = ERROR_INIT;
    char slug[SLUG_MAX + 1];

    *removal = (struct removal){.images = images, .done = done, .context = context};
    (void)snprintf(removal->id, sizeof removal->id, "%s", id);
    (void)pthread_mutex_lock(&images->lock);
    int result = mark(images, id, &err);
    (void)pthread_mutex_unlock(&images->lock);
    if (result == 1 && in_use(app, id, slug)) {
        unmark(images, id);
        result = error_set(&err, "image-in-use", "the bottle %s has the image %s: delete it first",
                           slug, id);
    }
    if (result == 1) {
        store_submit(app->store, &(struct store_write){removal_apply, removal_done, removal});
        return;
    }
    CLEANUP_JSON json_t *gone = json_pack("{s:s}", "id", id);
    removal_end(removal, gone, result < 0 ? &err : NULL);
}

/* --- Looking ---------------------------------------------------------------------------------- */

json_t *images_get(struct app *app, const char *id)
{
    struct images *images = app->images;

    (void)pthread_mutex_lock(&images->lock);
    const struct image_entry *entry = image_find(images, id);
    json_t *ret = entry ? image_encode(entry) : NULL;
    (void)pthread_mutex_unlock(&images->lock);
    return ret;
}

json_t *images_list(struct app *app)
{
    struct images *images = app->images;
    json_t *list = json_array();

    (void)pthread_mutex_lock(&images->lock);
    for (const struct image_entry *entry = images->first; entry; entry = entry->next)
        (void)json_array_append_new(list, image_encode(entry));
    (void)pthread_mutex_unlock(&images->lock);
    return list;
}

int images_resolve(struct images *images, const char *text, bool pin, struct image **ret,
                   struct error *err)
{
    struct image_reference reference;
    struct image_entry *found = NULL;
    bool importing = false;

    *ret = NULL;
    if (image_reference_parse(text, &reference) || reference.kind == IMAGE_BUILTIN)
        return 0;
    (void)pthread_mutex_lock(&images->lock);
    for (struct image_entry *entry = images->first; entry; entry = entry->next) {
        const char *name = reference.kind == IMAGE_ID ? entry->id : entry->source;
        if (strcmp(name, text) != 0)
            continue;
        importing = importing || entry->state == IMAGE_IMPORTING;
        if (entry->state == IMAGE_READY && !entry->deleting)
            found = entry;
    }
    if (found) {
        found->pins += pin;
        *ret = image_ref(found->image);
    }
    (void)pthread_mutex_unlock(&images->lock);
    if (found)
        return 0;
    if (importing)
        return error_set(
            err, "image-not-imported",
            "the image %s is still being imported: its events and GET /images tell when "
            "it is ready",
            text);
    if (reference.kind == IMAGE_ID)
        return error_set(err, "image-not-imported", "there is no image %s; GET /images lists them",
                         text);
    return error_set(err, "image-not-imported",
                     "the image %s was not imported yet: POST /images {\"source\": \"%s\"} first",
                     text, text);
}

void images_unpin(struct images *images, const struct image *image)
{
    if (!image)
        return;
    (void)pthread_mutex_lock(&images->lock);
    struct image_entry *entry = image_find(images, image->id);
    if (entry)
        entry->pins--;
    (void)pthread_mutex_unlock(&images->lock);
}
