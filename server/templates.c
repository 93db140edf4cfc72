/* The table of templates: what is there, what bottles are offered, what goes (theory: templates.h;
 * the making: templates_make.c). */
#include "server/templates.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "server/events.h"
#include "server/log.h"
#include "server/templates_internal.h"

enum { MIB = 1 << 20, KEY_LENGTH = SHA256_HEX_SIZE - 1 };

/* --- Entries (under the lock) ----------------------------------------------------------------- */

struct template_entry *template_find(struct templates *templates, const char *key)
{
    for (struct template_entry *entry = templates->first; entry; entry = entry->next)
        if (strcmp(entry->key, key) == 0)
            return entry;
    return NULL;
}

/* NULL when memory is short. */
static struct template_entry *find_or_add(struct templates *templates, const char *key)
{
    struct template_entry *entry = template_find(templates, key);

    if (entry || !(entry = calloc(1, sizeof *entry)))
        return entry;
    (void)snprintf(entry->key, sizeof entry->key, "%s", key);
    entry->next = templates->first;
    templates->first = entry;
    return entry;
}

static void path_of(const struct templates *templates, const char *key, const char *file,
                    char ret[PATH_MAX])
{
    (void)snprintf(ret, PATH_MAX, "%s/%s%s%s", templates->folder, key, file[0] ? "/" : "", file);
}

void template_drop(struct templates *templates, struct template_entry *entry, const char *why)
{
    char path[PATH_MAX];
    struct error err = ERROR_INIT;

    path_of(templates, entry->key, "", path);
    entry->state = TEMPLATE_NONE;
    entry->bytes = 0;
    if (directory_remove(path, NULL, &err) < 0)
        log_event(LEVEL_WARNING, "a template stays", LOG_TEXT("detail", err.text));
    else
        log_event(LEVEL_INFO, "a template is removed", LOG_TEXT("key", entry->key),
                  LOG_TEXT("why", why));
}

int64_t template_bytes(const char *directory)
{
    static const char *const files[] = {TEMPLATE_RAM_FILE, TEMPLATE_STATE_FILE,
                                        TEMPLATE_FACTS_FILE};
    int64_t bytes = 0;

    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char path[PATH_MAX];
        struct stat status;
        (void)snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        if (lstat(path, &status) < 0 || !S_ISREG(status.st_mode))
            return -1;
        bytes += (int64_t)status.st_blocks * 512;
    }
    return bytes;
}

/* Are the host's boot and all files still what they were? */
static bool facts_hold(const struct templates *templates, const char *key)
{
    char path[PATH_MAX];
    CLEANUP_FREE char *boot = file_read("/proc/sys/kernel/random/boot_id", 64, NULL, NULL);

    path_of(templates, key, TEMPLATE_FACTS_FILE, path);
    CLEANUP_FREE char *facts = file_read(path, TEMPLATE_FACTS_MAX, NULL, NULL);
    char *next = NULL;
    bool dated = false;
    if (!facts || !boot)
        return false;
    boot[strcspn(boot, "\n")] = '\0';
    for (char *line = strtok_r(facts, "\n", &next); line; line = strtok_r(NULL, "\n", &next)) {
        CLEANUP_TEXT struct text now = TEXT_INIT;
        if (strncmp(line, "boot ", 5) == 0 && !(dated = strcmp(line + 5, boot) == 0))
            return false;
        if (strncmp(line, "file ", 5) != 0)
            continue;
        char name[PATH_MAX];
        size_t length = strlen(line) - 5;
        /* three words follow the path, which may have spaces itself */
        for (int words = 0; words < 3 && length > 0; length--)
            words += line[5 + length - 1] == ' ';
        (void)snprintf(name, sizeof name, "%.*s", (int)length, line + 5);
        if (template_file_line(name, &now) < 0 || !now.data ||
            strncmp(now.data, line, strlen(line)) != 0)
            return false;
    }
    return dated;
}

static struct template_entry *least_used(struct templates *templates, const char *keep)
{
    struct template_entry *found = NULL;

    for (struct template_entry *entry = templates->first; entry; entry = entry->next)
        if (entry->state == TEMPLATE_READY && strcmp(entry->key, keep) != 0 &&
            (!found || entry->used_ms < found->used_ms))
            found = entry;
    return found;
}

void templates_sweep(struct templates *templates, const char *keep)
{
    int64_t total = 0, most = templates->app->config.template_max_mib * MIB;

    for (struct template_entry *entry = templates->first; entry; entry = entry->next) {
        if (entry->state == TEMPLATE_READY && !facts_hold(templates, entry->key))
            template_drop(templates, entry, "it is stale");
        total += entry->state == TEMPLATE_READY ? entry->bytes : 0;
    }
    for (struct template_entry *entry; total > most && (entry = least_used(templates, keep));) {
        total -= entry->bytes;
        template_drop(templates, entry, "template_max_mib");
    }
}

/* --- What bottles are offered ----------------------------------------------------------------- */

static void words_of(const struct template_entry *entry, char *ret, size_t size)
{
    if (entry && entry->failures >= TEMPLATE_TRIES)
        (void)snprintf(ret, size,
                       "its template failed %u times, and is not tried again before bottled is "
                       "restarted: %s",
                       entry->failures, entry->reason);
    else if (entry && (entry->state == TEMPLATE_WANTED || entry->state == TEMPLATE_MAKING))
        (void)snprintf(ret, size, "the template of this machine is still to be made");
    else if (entry && entry->failures)
        (void)snprintf(ret, size, "its template failed, and is made anew after this start: %s",
                       entry->reason);
    else
        (void)snprintf(ret, size,
                       "there was no template of this machine; it is made after this start");
}

/* Whether it is ready, and its key; else words. */
static bool take(struct templates *templates, const struct plan *plan,
                 const struct templating *templating, char ret_key[SHA256_HEX_SIZE], char *words,
                 size_t size)
{
    CLEANUP_TEXT struct text facts = TEXT_INIT;
    struct error err = ERROR_INIT;

    if (templating->lines(&templates->app->host, plan, &facts, &err) < 0) {
        (void)snprintf(words, size, "it can have no template: %.200s", err.text);
        return false;
    }
    sha256_hex(facts.data, facts.length, ret_key);
    (void)pthread_mutex_lock(&templates->lock);
    struct template_entry *entry = template_find(templates, ret_key);
    bool ready = entry && entry->state == TEMPLATE_READY;
    if (ready)
        entry->used_ms = clock_wall_ms();
    else
        words_of(entry, words, size);
    (void)pthread_mutex_unlock(&templates->lock);
    return ready;
}

void templates_offer(struct templates *templates, const struct plan *plan, json_t *spec,
                     char ret_key[SHA256_HEX_SIZE])
{
    const struct backend *backend = backend_find(plan->backend);
    json_t *vm = json_object_get(spec, "vm"), *template = NULL;
    char words[TEMPLATE_WORDS + 160] = "", path[PATH_MAX];
    struct error err = ERROR_INIT;

    ret_key[0] = '\0';
    if (!backend || !backend->templating)
        (void)snprintf(words, sizeof words, "the backend %s has no templates", plan->backend);
    else if (plan->n_mounts > 0)
        (void)snprintf(words, sizeof words,
                       "a machine with mounts has no template: its memory is shared with those who "
                       "serve them");
    else if (templates->app->config.template_max_mib == 0)
        (void)snprintf(words, sizeof words, "templates are switched off (template_max_mib is 0)");
    else if (take(templates, plan, backend->templating, ret_key, words, sizeof words)) {
        path_of(templates, ret_key, "", path);
        if (backend->templating->use(&templates->app->host, plan, path, &template, &err) < 0)
            (void)snprintf(words, sizeof words, "its template can't be used: %.200s", err.text);
        path_of(templates, ret_key, TEMPLATE_STATE_FILE, path);
        (void)utimensat(AT_FDCWD, path, NULL, 0); /* so that it is known after a restart */
    }
    if (template)
        (void)json_object_set_new(vm, "template", template);
    else
        (void)json_object_set_new(vm, "cold_reason", json_string_lossy(words));
}

void templates_want(struct templates *templates, const char *key, struct plan_ref *plan)
{
    (void)pthread_mutex_lock(&templates->lock);
    struct template_entry *entry = find_or_add(templates, key);
    if (entry && entry->state == TEMPLATE_NONE && entry->failures < TEMPLATE_TRIES &&
        !templates->ending) {
        entry->state = TEMPLATE_WANTED;
        entry->plan = plan_ref_ref(plan);
        entry->due_ms = clock_monotonic_ms() + templates->app->config.template_after_ms;
        (void)pthread_cond_signal(&templates->wake);
    }
    (void)pthread_mutex_unlock(&templates->lock);
}

void templates_failed(struct templates *templates, const char *key, const char *reason)
{
    (void)pthread_mutex_lock(&templates->lock);
    struct template_entry *entry = template_find(templates, key);
    if (entry && entry->state == TEMPLATE_READY) {
        entry->failures++;
        (void)snprintf(entry->reason, sizeof entry->reason, "%.250s", reason);
        template_drop(templates, entry, reason);
    }
    (void)pthread_mutex_unlock(&templates->lock);
}

/* --- The thread ------------------------------------------------------------------------------- */

static void tell(struct templates *templates, const char *type, json_t *detail)
{
    struct event_list *list = event_list_new("");

    event_list_add(list, type, detail);
    event_list_submit(list, templates->app->store);
}

static struct template_entry *next_wanted(struct templates *templates)
{
    struct template_entry *next = NULL;

    for (struct template_entry *entry = templates->first; entry; entry = entry->next)
        if (entry->state == TEMPLATE_WANTED && (!next || entry->due_ms < next->due_ms))
            next = entry;
    return next;
}

/* Until it is due (NULL: for ever), or something has changed. */
static void wait_for_work(struct templates *templates, const struct template_entry *entry)
{
    if (!entry) {
        (void)pthread_cond_wait(&templates->wake, &templates->lock);
        return;
    }
    const struct timespec due = {.tv_sec = entry->due_ms / 1000,
                                 .tv_nsec = entry->due_ms % 1000 * 1000000};
    (void)pthread_cond_timedwait(&templates->wake, &templates->lock, &due);
}

/* The facts may have changed since it was wanted; then it is another template, not asked for. */
static int make_one(struct templates *templates, const struct template_entry *entry,
                    struct error *err)
{
    const struct plan *plan = plan_ref_get(entry->plan, err);
    const struct backend *backend = plan ? backend_find(plan->backend) : NULL;
    CLEANUP_TEXT struct text facts = TEXT_INIT;
    char key[SHA256_HEX_SIZE];

    if (!backend || !backend->templating ||
        backend->templating->lines(&templates->app->host, plan, &facts, err) < 0)
        return -1;
    sha256_hex(facts.data, facts.length, key);
    if (strcmp(key, entry->key) != 0)
        return error_set(err, NULL, "what it is made from has changed");
    return template_make(templates, plan, key, facts.data, err);
}

/* Entries stay where they are while the thread runs, so that `entry` is good without the lock. */
static void make_and_note(struct templates *templates, struct template_entry *entry)
{
    struct error err = ERROR_INIT;
    char path[PATH_MAX];
    int64_t began = clock_monotonic_ms();
    int result = make_one(templates, entry, &err);

    path_of(templates, entry->key, "", path);
    (void)pthread_mutex_lock(&templates->lock);
    bool ending = templates->ending;
    plan_ref_unref(entry->plan);
    entry->plan = NULL;
    entry->state = result < 0 ? TEMPLATE_NONE : TEMPLATE_READY;
    entry->bytes = result < 0 ? 0 : template_bytes(path);
    entry->used_ms = clock_wall_ms();
    if (result == 0)
        templates_sweep(templates, entry->key);
    if (result == 0 && entry->bytes > templates->app->config.template_max_mib * MIB) {
        template_drop(templates, entry, "template_max_mib");
        result = error_set(&err, NULL, "it alone is larger than template_max_mib");
        entry->failures = TEMPLATE_TRIES - 1;
    }
    if (result < 0) {
        entry->failures++;
        (void)snprintf(entry->reason, sizeof entry->reason, "%.250s", err.text);
    }
    int64_t bytes = entry->bytes;
    (void)pthread_mutex_unlock(&templates->lock);
    if (ending)
        return;
    int64_t took = clock_monotonic_ms() - began;
    log_event(result < 0 ? LEVEL_WARNING : LEVEL_INFO,
              result < 0 ? "a template could not be made" : "a template is made",
              LOG_TEXT("key", entry->key), LOG_NUMBER("bytes", bytes), LOG_NUMBER("ms", took),
              LOG_TEXT("detail", err.text));
    if (result < 0)
        tell(templates, "template.failed",
             json_pack("{s:s, s:o}", "key", entry->key, "reason", json_string_lossy(err.text)));
    else
        tell(templates, "template.made",
             json_pack("{s:s, s:I, s:I}", "key", entry->key, "bytes", (json_int_t)bytes, "ms",
                       (json_int_t)took));
}

static void *thread_main(void *argument)
{
    struct templates *templates = argument;

    (void)pthread_setname_np(pthread_self(), "templates");
    (void)pthread_mutex_lock(&templates->lock);
    while (!templates->ending) {
        struct template_entry *entry = next_wanted(templates);
        if (!entry || entry->due_ms > clock_monotonic_ms()) {
            wait_for_work(templates, entry);
            continue;
        }
        entry->state = TEMPLATE_MAKING;
        templates_sweep(templates, entry->key);
        (void)pthread_mutex_unlock(&templates->lock);
        make_and_note(templates, entry);
        (void)pthread_mutex_lock(&templates->lock);
    }
    (void)pthread_mutex_unlock(&templates->lock);
    return NULL;
}

/* --- Start and stop --------------------------------------------------------------------------- */

/* Takes up a folder of an earlier daemon, or removes it. */
static void take_up(struct templates *templates, const char *name)
{
    char path[PATH_MAX], state[PATH_MAX];
    struct stat status;
    bool named = strlen(name) == KEY_LENGTH && strspn(name, "0123456789abcdef") == KEY_LENGTH;

    path_of(templates, name, "", path);
    path_of(templates, name, TEMPLATE_STATE_FILE, state);
    int64_t bytes = named ? template_bytes(path) : -1;
    struct template_entry *entry =
        bytes < 0 || lstat(state, &status) < 0 ? NULL : find_or_add(templates, name);
    if (!entry) {
        (void)directory_remove(path, NULL, NULL);
        return;
    }
    entry->state = TEMPLATE_READY;
    entry->bytes = bytes;
    entry->used_ms = (int64_t)status.st_mtim.tv_sec * 1000;
}

static int load(struct templates *templates, struct error *err)
{
    if (directory_make(templates->folder, 0700, err) < 0)
        return -1;
    DIR *folder = opendir(templates->folder);
    if (!folder)
        return error_errno(err, NULL, "%s", templates->folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            take_up(templates, entry->d_name);
    (void)closedir(folder);
    templates_sweep(templates, "");
    return 0;
}

int templates_start(struct app *app, struct error *err)
{
    struct templates *templates = calloc(1, sizeof *templates);

    if (!templates ||
        asprintf(&templates->folder, "%s/" TEMPLATES_FOLDER, app->host.state_dir) < 0) {
        free(templates);
        return error_set(err, NULL, "out of memory");
    }
    templates->app = app;
    templates->cancel = eventfd(0, EFD_CLOEXEC);
    (void)pthread_mutex_init(&templates->lock, NULL);
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&templates->wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    app->templates = templates;
    if (templates->cancel < 0 || load(templates, err) < 0)
        return -1;
    int result = pthread_create(&templates->thread, NULL, thread_main, templates);
    templates->runs = result == 0;
    errno = result;
    return result ? error_errno(err, NULL, "starting a thread") : 0;
}

void templates_stop(struct app *app)
{
    struct templates *templates = app->templates;
    const uint64_t one = 1;

    if (!templates || !templates->runs)
        return;
    (void)pthread_mutex_lock(&templates->lock);
    templates->ending = true;
    (void)pthread_cond_signal(&templates->wake);
    (void)pthread_mutex_unlock(&templates->lock);
    (void)write_all(templates->cancel, &one, sizeof one);
    (void)pthread_join(templates->thread, NULL);
    templates->runs = false;
}

void templates_free(struct app *app)
{
    struct templates *templates = app->templates;

    if (!templates)
        return;
    templates_stop(app);
    while (templates->first) {
        struct template_entry *entry = templates->first;
        templates->first = entry->next;
        plan_ref_unref(entry->plan);
        free(entry);
    }
    if (templates->cancel >= 0)
        (void)close(templates->cancel);
    (void)pthread_cond_destroy(&templates->wake);
    (void)pthread_mutex_destroy(&templates->lock);
    free(templates->folder);
    free(templates);
    app->templates = NULL;
}
