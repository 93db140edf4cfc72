/* The imports: the thread that makes them, who waits for them, and how each ends. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/image_rows.h"
#include "server/images.h"
#include "server/images_internal.h"
#include "server/import.h"
#include "server/log.h"

enum { FAILED_MAX = 32, PROGRESS_MS = 1000 };

/* --- Waiting ---------------------------------------------------------------------------------- */

static void answer(struct image_waiter *waiters, const json_t *image, const struct problem *problem)
{
    for (struct image_waiter *waiter = waiters, *next; waiter; waiter = next) {
        next = waiter->next;
        waiter->done(waiter->context, image, problem);
        free(waiter);
    }
}

void image_answer_error(struct image_waiter *waiters, const struct error *err)
{
    struct problem problem = PROBLEM_INIT;

    problem_from_error(&problem, err);
    answer(waiters, NULL, &problem);
    problem_free(&problem);
}

/* Takes all of an entry's (under the lock). */
static struct image_waiter *take_waiters(struct images *images, struct image_entry *entry)
{
    struct image_waiter *ret = entry->waiters;

    for (const struct image_waiter *waiter = ret; waiter; waiter = waiter->next)
        images->waiting--;
    entry->waiters = NULL;
    return ret;
}

/* Moves those whose time is over, and those whose client has left, to *late (under the lock). */
static void take_late(struct images *images, struct image_entry *entry, int64_t now_ms,
                      struct image_waiter **late)
{
    for (struct image_waiter **at = &entry->waiters; *at;) {
        struct image_waiter *waiter = *at;
        if (waiter->until_ms > now_ms && waiter->wanted(waiter->context)) {
            at = &waiter->next;
            continue;
        }
        images->waiting--;
        *at = waiter->next;
        waiter->next = *late;
        *late = waiter;
    }
}

/* Whoever waited too long, for the one that is imported or for one behind it. */
static void answer_late(struct images *images)
{
    int64_t now_ms = clock_monotonic_ms();
    struct image_waiter *late = NULL;

    (void)pthread_mutex_lock(&images->lock);
    for (struct image_entry *entry = images->first; entry; entry = entry->next)
        take_late(images, entry, now_ms, &late);
    (void)pthread_mutex_unlock(&images->lock);
    if (late)
        image_answer_error(late,
                           &(struct error){.kind = "timeout",
                                           .text = "the image is still being imported; its events "
                                                   "and GET /images tell how it goes on"});
}

/* --- The end of an import --------------------------------------------------------------------- */

/* Forgets the oldest of many that failed (under the lock). */
static void bound_failed(struct images *images)
{
    size_t count = 0;
    struct image_entry *oldest = NULL;

    for (struct image_entry *entry = images->first; entry; entry = entry->next)
        if (entry->state == IMAGE_FAILED && ++count == 1)
            oldest = entry;
    if (count <= FAILED_MAX)
        return;
    image_take_out(images, oldest);
    image_entry_free(oldest);
}

static void fail(struct images *images, struct image_entry *entry, const struct error *err)
{
    (void)pthread_mutex_lock(&images->lock);
    entry->state = IMAGE_FAILED;
    entry->failure = *err;
    if (entry->image)
        image_drop_file(images, entry);
    image_unref(entry->image);
    entry->image = NULL;
    images->importing--;
    struct image_waiter *waiters = take_waiters(images, entry);
    CLEANUP_JSON json_t *shown = image_encode(entry);
    bound_failed(images);
    (void)pthread_mutex_unlock(&images->lock);
    log_event(LEVEL_WARNING, "an image could not be imported",
              LOG_TEXT("source", json_member_string(shown, "source")),
              LOG_TEXT("detail", err->text));
    image_tell(images, "image.failed", shown);
    image_answer_error(waiters, err);
}

struct finish {
    struct images *images;
    struct image_entry *entry;
    struct image_waiter *waiters;
    json_t *shown; /* once it is ready */
};

static int finish_apply(sqlite3 *db, void *context, struct error *err)
{
    const struct finish *finish = context;

    return image_insert(db, finish->entry->image, err);
}

static bool same_list(const struct string_list *a, const struct string_list *b)
{
    for (size_t i = 0; i < a->count && i < b->count; i++)
        if (strcmp(a->items[i], b->items[i]) != 0)
            return false;
    return a->count == b->count;
}

static bool same_image(const struct image *a, const struct image *b)
{
    return strcmp(a->source, b->source) == 0 && strcmp(a->digest, b->digest) == 0 &&
           strcmp(a->manifest, b->manifest) == 0 &&
           same_list(&a->config.entrypoint, &b->config.entrypoint) &&
           same_list(&a->config.command, &b->config.command) &&
           same_list(&a->config.env, &b->config.env) &&
           strcmp(a->config.workdir, b->config.workdir) == 0 &&
           strcmp(a->config.user, b->config.user) == 0;
}

/* The id of an earlier one that is the same; "" when there is none (under the lock). */
static void find_earlier(const struct images *images, const struct image_entry *entry,
                         char ret[IMAGE_ID_SIZE])
{
    ret[0] = '\0';
    for (const struct image_entry *other = images->first; other; other = other->next)
        if (other != entry && other->state == IMAGE_READY && same_image(other->image, entry->image))
            memcpy(ret, other->id, IMAGE_ID_SIZE);
}

/* The earlier one is gone, or stays, as a bottle has it. */
static void finished(void *context, const json_t *image, const struct problem *problem)
{
    struct finish *finish = context;

    (void)image;
    (void)problem;
    answer(finish->waiters, finish->shown, NULL);
    json_decref(finish->shown);
    free(finish);
}

/* The store's thread. */
static void finish_done(void *context, const struct error *failure)
{
    struct finish *finish = context;
    struct images *images = finish->images;
    struct image_entry *entry = finish->entry;
    char earlier[IMAGE_ID_SIZE];

    if (failure) {
        free(finish);
        fail(images, entry, failure);
        return;
    }
    (void)pthread_mutex_lock(&images->lock);
    entry->state = IMAGE_READY;
    images->importing--;
    finish->waiters = take_waiters(images, entry);
    finish->shown = image_encode(entry);
    find_earlier(images, entry, earlier);
    (void)pthread_mutex_unlock(&images->lock);
    log_event(LEVEL_INFO, "image imported", LOG_TEXT("id", json_member_string(finish->shown, "id")),
              LOG_TEXT("source", json_member_string(finish->shown, "source")));
    image_tell(images, "image.ready", finish->shown);
    if (earlier[0])
        images_delete(images->app, earlier, finished, finish);
    else
        finished(finish, NULL, NULL);
}

/* --- The thread ------------------------------------------------------------------------------- */

struct attempt {
    struct images *images;
    struct image_entry *entry;
};

static void on_progress(void *context, const char *step, int64_t bytes, int64_t files)
{
    const struct attempt *attempt = context;
    struct images *images = attempt->images;
    struct image_entry *entry = attempt->entry;
    int64_t now = clock_monotonic_ms();

    (void)pthread_mutex_lock(&images->lock);
    bool news = !entry->step || strcmp(entry->step, step) != 0 ||
                (now - images->progress_ms >= PROGRESS_MS && bytes != entry->bytes);
    entry->step = step;
    entry->bytes = bytes;
    entry->files = files;
    CLEANUP_JSON json_t *shown = news ? image_encode(entry) : NULL;
    (void)pthread_mutex_unlock(&images->lock);
    if (news) {
        images->progress_ms = now;
        image_tell(images, "image.progress", shown);
    }
    answer_late(images);
}

/* Puts the finished file in its place. From the moment that the entry has the digest, no delete of
 * another entry takes the file away. */
static int place(struct images *images, struct image_entry *entry, struct image *image,
                 struct error *err)
{
    const struct host *host = &images->app->host;
    CLEANUP_FREE char *from = import_file(host);
    CLEANUP_FREE char *to = image_file_path(host->state_dir, image->digest);

    if (!from || !to)
        return error_set(err, NULL, "out of memory");
    (void)pthread_mutex_lock(&images->lock);
    entry->image = image_ref(image);
    /* One that is there has the same bytes, and bottles that share them. */
    int result = access(to, F_OK) == 0 ? 0 : rename(from, to);
    (void)pthread_mutex_unlock(&images->lock);
    return result < 0 ? error_errno(err, "stage-unwritable", "%s", to) : 0;
}

static void import_one(struct images *images, struct image_entry *entry)
{
    struct attempt attempt = {images, entry};
    const struct import import = {.config = &images->app->config,
                                  .host = &images->app->host,
                                  .source = entry->source,
                                  .cancelled = &images->cancelled,
                                  .progress = on_progress,
                                  .context = &attempt};
    CLEANUP_IMAGE struct image *image = image_new();
    struct finish *finish = calloc(1, sizeof *finish);
    struct error err = ERROR_INIT;
    int result =
        image && finish ? import_run(&import, image, &err) : error_set(&err, NULL, "out of memory");

    if (result == 0) {
        (void)snprintf(image->id, sizeof image->id, "%s", entry->id);
        image->created_ms = entry->created_ms;
        result = place(images, entry, image, &err);
    }
    if (import_clean(&images->app->host, NULL) < 0)
        log_event(LEVEL_WARNING, "the work folder of an import stays",
                  LOG_TEXT("source", entry->source));
    if (result < 0) {
        free(finish);
        fail(images, entry, &err);
        return;
    }
    *finish = (struct finish){.images = images, .entry = entry};
    store_submit(images->app->store, &(struct store_write){finish_apply, finish_done, finish});
}

/* The next that nobody has begun (under the lock). */
static struct image_entry *next_one(struct images *images)
{
    for (struct image_entry *entry = images->first; entry; entry = entry->next)
        if (entry->state == IMAGE_IMPORTING && !entry->step)
            return entry;
    return NULL;
}

void *image_thread(void *argument)
{
    struct images *images = argument;
    struct image_entry *entry;

    (void)pthread_setname_np(pthread_self(), "images");
    (void)pthread_mutex_lock(&images->lock);
    while (!images->ending) {
        if (!(entry = next_one(images))) {
            (void)pthread_cond_wait(&images->wake, &images->lock);
            continue;
        }
        entry->step = "queued";
        (void)pthread_mutex_unlock(&images->lock);
        import_one(images, entry);
        (void)pthread_mutex_lock(&images->lock);
    }
    (void)pthread_mutex_unlock(&images->lock);
    return NULL;
}

/* --- Import ----------------------------------------------------------------------------------- */

static int fresh_id(char ret[IMAGE_ID_SIZE])
{
    uint8_t bytes[(IMAGE_ID_SIZE - 1) / 2];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return -1;
    for (size_t i = 0; i < sizeof bytes; i++)
        (void)snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

/* The import of that source that is not over, or a new one; NULL with *err (under the lock).
 */
static struct image_entry *queue(struct images *images, const char *source, bool waits,
                                 struct error *err)
{
    if (waits && images->waiting >= (size_t)images->app->config.max_waiters) {
        error_set(err, "too-many-waiters",
                  "as many requests wait for images as this daemon takes (max_waiters); ask again "
                  "later, or without wait");
        return NULL;
    }
    for (struct image_entry *entry = images->first; entry; entry = entry->next)
        if (entry->state == IMAGE_IMPORTING && strcmp(entry->source, source) == 0)
            return entry;
    if (images->ending) {
        error_set(err, "shutting-down", "bottled is ending: import the image again later");
        return NULL;
    }
    if (images->importing == IMPORTS_MAX) {
        error_set(err, "too-many-imports", "%d images are being imported: try again later",
                  IMPORTS_MAX);
        return NULL;
    }
    struct image_entry *entry = calloc(1, sizeof *entry);
    if (!entry || fresh_id(entry->id) < 0) {
        free(entry);
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    entry->created_ms = clock_wall_ms();
    (void)snprintf(entry->source, sizeof entry->source, "%s", source);
    image_add(images, entry);
    images->importing++;
    (void)pthread_cond_signal(&images->wake);
    return entry;
}

void images_import(struct app *app, const char *source, int64_t wait_ms, images_wanted *wanted,
                   images_done *done, void *context)
{
    struct images *images = app->images;
    struct image_waiter *waiter = must_alloc(sizeof *waiter);
    struct error err = ERROR_INIT;
    json_t *shown = NULL;

    *waiter = (struct image_waiter){.wanted = wanted,
                                    .done = done,
                                    .context = context,
                                    .until_ms = clock_monotonic_ms() + wait_ms};
    (void)pthread_mutex_lock(&images->lock);
    struct image_entry *entry = queue(images, source, wait_ms > 0, &err);
    if (entry && wait_ms > 0) {
        images->waiting++;
        waiter->next = entry->waiters;
        entry->waiters = waiter;
    } else if (entry) {
        shown = image_encode(entry);
    }
    (void)pthread_mutex_unlock(&images->lock);
    if (!entry)
        image_answer_error(waiter, &err);
    else if (shown)
        answer(waiter, shown, NULL);
    json_decref(shown);
}
