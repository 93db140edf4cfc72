/* The bottle is watched from before its start, so no state is missed, and its log is followed from
 * where it then ended. What the command prints comes before the state that it ends with.
 *
 * The client sets the pace: the log lies in a file, and the next piece is read when the last one
 * has gone out. One that is slower than the log's rotation is told so in the log (log_reader.c).
 * States wait here, SEEN_MAX of them; of a bottle that is restarted time and again while nobody
 * reads, the oldest go, and the next says how many. */
#include "server/progress.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine.h"
#include "server/log_reader.h"
#include "server/output_line.h"
#include "server/stage.h"

enum {
    SEEN_MAX = 16,
    PIECE = 8 * 1024,
    CONSOLE_TAIL_LINES = 20,
    CONSOLE_TAIL_BYTES = 4096,
    RESTING = 1U << STATE_STOPPED | 1U << STATE_EXITED | 1U << STATE_FAILED,
    /* Here the command has ended, and all of its output is in the log. */
    QUIET = RESTING | 1U << STATE_RESTARTING,
};

static const char log_name[] = "command";

struct progress {
    struct watcher watcher;
    struct app *app;
    char slug[SLUG_MAX + 1];
    unsigned wait;
    int64_t until_ms;

    pthread_mutex_t lock; /* up to `gone` */
    struct snapshot *seen[SEEN_MAX];
    unsigned n_seen, missed;
    bool begun;
    enum bottle_state newest;
    bool gone;

    struct log_reader *log;
    struct carry carry;
    struct text say;
    size_t said;
    enum bottle_state state; /* the last that was said */
    bool over;
};

json_t *console_tail(const struct app *app, const char *slug)
{
    CLEANUP_FREE char *stage = stage_path(&app->host, slug);
    char folder[PATH_MAX], bytes[CONSOLE_TAIL_BYTES + 1];
    size_t length = 0;
    ssize_t got;

    (void)snprintf(folder, sizeof folder, "%s/logs", stage ? stage : "");
    struct log_reader *reader = log_reader_new(folder, "console", CONSOLE_TAIL_LINES);
    while (reader && length < CONSOLE_TAIL_BYTES &&
           (got = log_reader_present(reader, bytes + length, CONSOLE_TAIL_BYTES - length)) > 0)
        length += (size_t)got;
    log_reader_free(reader);
    bytes[length] = '\0';
    return json_string_lossy(bytes);
}

/* --- What is seen ----------------------------------------------------------------------------- */

/* Under the lock. */
static void push(struct progress *progress, struct snapshot *snapshot)
{
    enum bottle_state state = snapshot->bottle.state;

    if (progress->begun && progress->newest == state)
        return;
    progress->begun = true;
    progress->newest = state;
    if (progress->n_seen == SEEN_MAX) {
        snapshot_release(progress->seen[0]);
        memmove(progress->seen, progress->seen + 1, (SEEN_MAX - 1) * sizeof progress->seen[0]);
        progress->n_seen--;
        progress->missed++;
    }
    progress->seen[progress->n_seen++] = snapshot_ref(snapshot);
}

static void saw(struct watcher *watcher, struct snapshot *snapshot)
{
    struct progress *progress = (struct progress *)watcher;

    (void)pthread_mutex_lock(&progress->lock);
    /* At rest it was before the start. */
    if (!snapshot)
        progress->gone = true;
    else if (!progress->gone && (progress->begun || !(RESTING >> snapshot->bottle.state & 1)))
        push(progress, snapshot);
    (void)pthread_mutex_unlock(&progress->lock);
}

void progress_begin(struct progress *progress, struct snapshot *snapshot)
{
    (void)pthread_mutex_lock(&progress->lock);
    if (!progress->begun)
        push(progress, snapshot);
    (void)pthread_mutex_unlock(&progress->lock);
}

/* --- What is said ----------------------------------------------------------------------------- */

static void say(struct progress *progress, json_t *line)
{
    CLEANUP_FREE char *text = line ? json_text(line) : NULL;

    text_add(&progress->say, text ? text : "");
    text_add(&progress->say, "\n");
    progress->say.failed = progress->say.failed || !text;
    json_decref(line);
}

static json_t *state_line(const char *slug, enum bottle_state state, int64_t at_ms)
{
    char stamp[TIMESTAMP_SIZE];

    timestamp_format(at_ms, stamp);
    return json_pack("{s:s, s:s, s:s}", "slug", slug, "state", states[state].name, "time", stamp);
}

/* The line that ends it because of a problem (taken over). */
static void say_problem(struct progress *progress, struct problem *problem)
{
    json_t *line = state_line(progress->slug, progress->state, clock_wall_ms());

    (void)json_object_set_new(line, "exit_code", json_null());
    (void)json_object_set_new(line, "reason", json_null());
    (void)json_object_set_new(line, "problem", problem_encode(problem, NULL));
    problem_free(problem);
    say(progress, line);
    progress->over = true;
}

static void say_gone(struct progress *progress)
{
    struct problem problem = PROBLEM_INIT;

    problem_set(&problem, "not-found", "%s was deleted meanwhile", progress->slug);
    say_problem(progress, &problem);
}

static void say_timeout(struct progress *progress)
{
    struct problem problem = PROBLEM_INIT;

    problem_set(&problem, "timeout",
                "%s is %s when the time is over; it lives on: wait again, or stop or delete it",
                progress->slug, states[progress->state].name);
    say_problem(progress, &problem);
}

static json_t *boot_problem(const struct app *app, const struct snapshot *snapshot)
{
    const char *slug = snapshot->bottle.slug;
    struct problem problem = PROBLEM_INIT;

    problem_set(&problem, "boot-failed",
                "%s did not come up: %s; its logs are at /bottles/%s/logs, until it is deleted",
                slug, snapshot->bottle.reason, slug);
    problem_add_member(&problem, "console", console_tail(app, slug));
    json_t *ret = problem_encode(&problem, NULL);
    problem_free(&problem);
    return ret;
}

static void say_state(struct progress *progress, const struct snapshot *snapshot, unsigned missed)
{
    const struct bottle *row = &snapshot->bottle;
    json_t *line = state_line(row->slug, row->state, row->updated_ms);

    progress->state = row->state;
    progress->over = (progress->wait | RESTING) >> row->state & 1;
    if (missed)
        (void)json_object_set_new(line, "missed", json_integer(missed));
    if (progress->over || row->reason)
        (void)json_object_set_new(line, "reason",
                                  row->reason ? json_string(row->reason) : json_null());
    if (progress->over)
        (void)json_object_set_new(line, "exit_code",
                                  row->has_exit_code ? json_integer(row->exit_code) : json_null());
    if (progress->over && row->state == STATE_FAILED && row->started_ms == 0)
        (void)json_object_set_new(line, "problem", boot_problem(progress->app, snapshot));
    say(progress, line);
}

/* What the command has printed since; false: nothing. */
static bool say_log(struct progress *progress)
{
    char bytes[PIECE];
    ssize_t got = log_reader_follow(progress->log, bytes, sizeof bytes);

    if (got > 0)
        output_say(&progress->say, log_name, &progress->carry, bytes, (size_t)got);
    return got > 0;
}

static void fill(struct progress *progress)
{
    (void)pthread_mutex_lock(&progress->lock);
    struct snapshot *first = progress->n_seen ? progress->seen[0] : NULL;
    bool gone = progress->gone, ends = first && QUIET >> first->bottle.state & 1;
    (void)pthread_mutex_unlock(&progress->lock);
    /* Only this thread takes from the queue, and the oldest goes only when many are behind it. */
    if (ends && say_log(progress))
        return;
    if (first) {
        (void)pthread_mutex_lock(&progress->lock);
        first = progress->seen[0];
        memmove(progress->seen, progress->seen + 1, --progress->n_seen * sizeof first);
        unsigned missed = progress->missed;
        progress->missed = 0;
        (void)pthread_mutex_unlock(&progress->lock);
        if (ends)
            output_flush(&progress->say, log_name, &progress->carry);
        say_state(progress, first, missed);
        snapshot_release(first);
    } else if (gone) {
        say_gone(progress);
    } else if (clock_monotonic_ms() >= progress->until_ms) {
        say_timeout(progress);
    } else {
        (void)say_log(progress);
    }
}

static ssize_t next(void *context, char *out, size_t room)
{
    struct progress *progress = context;

    if (progress->said == progress->say.length) {
        if (progress->over)
            return STREAM_END;
        text_free(&progress->say);
        progress->said = 0;
        fill(progress);
        if (progress->say.failed)
            return STREAM_CUT;
    }
    size_t left = progress->say.length - progress->said, length = left < room ? left : room;
    if (length)
        memcpy(out, progress->say.data + progress->said, length);
    progress->said += length;
    return (ssize_t)length;
}

/* --- Its life --------------------------------------------------------------------------------- */

static void progress_release(struct progress *progress)
{
    for (unsigned i = 0; i < progress->n_seen; i++)
        snapshot_release(progress->seen[i]);
    log_reader_free(progress->log);
    text_free(&progress->say);
    (void)pthread_mutex_destroy(&progress->lock);
    free(progress);
}

void progress_free(struct progress *progress)
{
    if (!progress)
        return;
    engine_unwatch(progress->app, &progress->watcher);
    progress_release(progress);
}

static void done(void *context)
{
    progress_free(context);
}

struct stream progress_stream(struct progress *progress)
{
    return (struct stream){.next = next, .done = done, .context = progress, .whole = true};
}

static struct log_reader *open_log(const struct app *app, const char *slug)
{
    CLEANUP_FREE char *stage = stage_path(&app->host, slug);
    char folder[PATH_MAX];

    if (!stage || snprintf(folder, sizeof folder, "%s/logs", stage) >= (int)sizeof folder)
        return NULL;
    return log_reader_new(folder, log_name, 0);
}

struct progress *progress_new(struct app *app, const struct snapshot *bottle, unsigned wait,
                              int64_t until_ms, struct problem *problem)
{
    struct progress *progress = calloc(1, sizeof *progress);

    if (progress && !(progress->log = open_log(app, bottle->bottle.slug))) {
        free(progress);
        progress = NULL;
    }
    if (!progress) {
        problem_set(problem, "internal", "memory is short");
        return NULL;
    }
    (void)snprintf(progress->slug, sizeof progress->slug, "%s", bottle->bottle.slug);
    progress->watcher = (struct watcher){.slug = progress->slug, .saw = saw};
    progress->app = app;
    progress->wait = wait;
    progress->until_ms = until_ms;
    progress->state = bottle->bottle.state;
    (void)pthread_mutex_init(&progress->lock, NULL);
    if (engine_watch(app, &progress->watcher))
        return progress;
    problem_set(problem, "too-many-waiters",
                "as many requests wait as this daemon takes (max_waiters); ask again later");
    progress_release(progress);
    return NULL;
}
