/* The store: one SQLite database in WAL mode, one writer thread, many writes per fsync.
 *
 * store_submit() puts a write into a queue. The writer takes the whole queue, opens one
 * transaction, runs each write in a savepoint of its own (a write that fails is undone alone),
 * commits, and only then calls the writes' done functions, in order. While a commit waits for the
 * disk the next batch gathers. When the transaction itself is lost (disk full, I/O error), every
 * write of it has failed.
 *
 * Nothing is written to a database that does not look sound: the version and a quick check come
 * first, and until they passed, closing does not even checkpoint the log. */
#include "server/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/file.h"
#include "base/util.h"
#include "server/log.h"
#include "server/row.h"
#include "server/sql.h"

#define DATABASE_NAME "bottled.db"

enum {
    BUSY_MS = 5000,          /* somebody looks into the file with the sqlite3 program */
    SPACE_MIN = 1024 * 1024, /* below this a commit is as good as lost */
};

struct node {
    struct store_write write;
    struct node *next;
    bool failed;
    struct error failure;
};

struct store {
    sqlite3 *db;
    char path[PATH_MAX];
    char *state_dir;

    pthread_mutex_t lock; /* all below, and never held while the database works */
    pthread_cond_t wake;
    struct node *first, **last;
    bool ending;
    bool broken; /* the last transaction could not be committed */
    bool probing;
    struct error why;
    void (*told)(void *context);
    void *told_context;

    pthread_mutex_t db_lock; /* store_read against the writer */
    pthread_t writer;
    bool running;

    pthread_mutex_t look_lock; /* store_look */
    sqlite3 *reader;           /* NULL until it is first wanted */
};

/* --- Opening ---------------------------------------------------------------------------------- */

static int damaged(struct store *store, const char *what, struct error *err)
{
    return error_set(
        err, "store-failed",
        "%s is damaged (%s); nothing was overwritten: put a backup in its place, or move it "
        "(and its -wal and -shm) away to start with no bottles",
        store->path, what);
}

static int execute(sqlite3 *db, const char *sql, struct error *err)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return sql_failed(db, err);
    return 0;
}

/* The same, for what each write is made of. */
static int execute_often(sqlite3 *db, const char *sql, struct error *err)
{
    sqlite3_stmt *kept = sql_kept(db, sql, err);

    return kept ? sql_run(db, kept, err) : -1;
}

/* The first column of the first row. */
static int query_integer(struct store *store, const char *sql, int64_t *ret, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);

    if (result == SQLITE_OK)
        result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
        *ret = sqlite3_column_int64(statement, 0);
    (void)sqlite3_finalize(statement);
    if (result == SQLITE_ROW)
        return 0;
    if (result == SQLITE_NOTADB || result == SQLITE_CORRUPT)
        return damaged(store, sqlite3_errmsg(store->db), err);
    return error_set(err, "store-failed", "%s: %s", store->path, sqlite3_errmsg(store->db));
}

static int check_sound(struct store *store, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    char words[200] = "";
    int result = sqlite3_prepare_v2(store->db, "PRAGMA quick_check(1)", -1, &statement, NULL);

    if (result == SQLITE_OK)
        result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
        (void)snprintf(words, sizeof words, "%s", (const char *)sqlite3_column_text(statement, 0));
    else
        (void)snprintf(words, sizeof words, "%s", sqlite3_errmsg(store->db));
    (void)sqlite3_finalize(statement);
    return strcmp(words, "ok") == 0 ? 0 : damaged(store, words, err);
}

static int migrate(struct store *store, int64_t version, struct error *err)
{
    char pragma[64];

    for (int64_t next = version; next < n_row_migrations; next++) {
        (void)snprintf(pragma, sizeof pragma, "PRAGMA user_version = %d", (int)next + 1);
        if (execute_often(store->db, "BEGIN IMMEDIATE", err) < 0)
            return -1;
        if (execute(store->db, row_migrations[next], err) < 0 ||
            execute(store->db, pragma, err) < 0 || execute_often(store->db, "COMMIT", err) < 0) {
            (void)execute(store->db, "ROLLBACK", NULL);
            return error_wrap(err, "bringing %s to version %d", store->path, (int)next + 1);
        }
    }
    return 0;
}

static int check_version(struct store *store, int64_t *ret, struct error *err)
{
    int64_t tables;

    if (query_integer(store, "PRAGMA user_version", ret, err) < 0 ||
        query_integer(store, "SELECT count(*) FROM sqlite_schema", &tables, err) < 0)
        return -1;
    if (*ret > n_row_migrations)
        return error_set(
            err, "store-failed",
            "%s was written by a newer bottled (schema version %lld, this one knows %d): "
            "start that version, or use another state directory",
            store->path, (long long)*ret, n_row_migrations);
    if (*ret < 0 || (*ret == 0 && tables > 0))
        return error_set(err, "store-failed",
                         "%s is a database of something else; nothing was changed", store->path);
    return 0;
}

static int open_database(struct store *store, struct error *err)
{
    static const char settings[] =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
        "PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 16777216;";
    int64_t version;

    /* Made first and by us, so that its mode (and that of its -wal and -shm, which SQLite copies)
     * is 0600. Closed before SQLite opens it: closing any descriptor of a file drops all of the
     * process's locks on it, and another program that looks into the database would then take the
     * -wal away. */
    int fd = open(store->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_errno(err, "store-failed", "%s", store->path);
    (void)close(fd);
    if (sqlite3_open_v2(store->path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        return error_set(err, "store-failed", "%s: %s", store->path,
                         store->db ? sqlite3_errmsg(store->db) : "out of memory");
    (void)sqlite3_busy_timeout(store->db, BUSY_MS);
    (void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (check_version(store, &version, err) < 0 || check_sound(store, err) < 0 ||
        execute(store->db, settings, err) < 0 || migrate(store, version, err) < 0)
        return -1;
    (void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    return 0;
}

/* --- The writer ------------------------------------------------------------------------------- */

/* Runs one write in its savepoint. -1: the whole transaction is lost, with the words in *err. */
static int apply_one(struct store *store, struct node *node, struct error *err)
{
    if (execute_often(store->db, "SAVEPOINT one", err) < 0)
        return -1;
    if (node->write.apply(store->db, node->write.context, &node->failure) == 0)
        return execute_often(store->db, "RELEASE one", err);
    node->failed = true;
    if (sqlite3_get_autocommit(store->db)) {
        /* A full disk or a failed read made SQLite roll everything back by itself. */
        *err = node->failure;
        return -1;
    }
    return execute(store->db, "ROLLBACK TO one; RELEASE one", err);
}

/* Commits a batch; on failure the database is as before and *err says why. */
static int commit_batch(struct store *store, struct node *batch, struct error *err)
{
    int result = execute_often(store->db, "BEGIN IMMEDIATE", err);

    for (struct node *node = batch; node && result == 0; node = node->next)
        result = apply_one(store, node, err);
    if (result == 0)
        result = execute_often(store->db, "COMMIT", err);
    if (result < 0 && !sqlite3_get_autocommit(store->db))
        (void)execute(store->db, "ROLLBACK", NULL);
    return result;
}

static void note_outcome(struct store *store, const struct error *failure)
{
    (void)pthread_mutex_lock(&store->lock);
    bool changed = store->broken != (failure != NULL);
    store->broken = failure != NULL;
    if (failure)
        store->why = *failure;
    (void)pthread_mutex_unlock(&store->lock);
    if (changed)
        log_event(failure ? LEVEL_ERROR : LEVEL_INFO,
                  failure ? "the state database can not be written"
                          : "the state database is written again",
                  LOG_TEXT("detail", failure ? failure->text : NULL));
}

/* Under the lock, so that nobody is told any more once store_tell() is back. */
static void tell(struct store *store)
{
    (void)pthread_mutex_lock(&store->lock);
    if (store->told)
        store->told(store->told_context);
    (void)pthread_mutex_unlock(&store->lock);
}

static void run_batch(struct store *store, struct node *batch)
{
    struct error lost = ERROR_INIT;

    (void)pthread_mutex_lock(&store->db_lock);
    bool failed = commit_batch(store, batch, &lost) < 0;
    (void)pthread_mutex_unlock(&store->db_lock);
    if (!lost.kind)
        lost.kind = "store-failed";
    note_outcome(store, failed ? &lost : NULL);
    tell(store);
    while (batch) {
        struct node *node = batch;
        batch = node->next;
        if (!node->failure.kind)
            node->failure.kind = "store-failed";
        const struct error *failure = node->failed ? &node->failure : failed ? &lost : NULL;
        node->write.done(node->write.context, failure);
        free(node);
    }
}

static void *writer_main(void *argument)
{
    struct store *store = argument;

    (void)pthread_setname_np(pthread_self(), "store");
    (void)pthread_mutex_lock(&store->lock);
    for (;;) {
        while (!store->first && !store->ending)
            (void)pthread_cond_wait(&store->wake, &store->lock);
        struct node *batch = store->first;
        if (!batch)
            break;
        store->first = NULL;
        store->last = &store->first;
        (void)pthread_mutex_unlock(&store->lock);
        run_batch(store, batch);
        (void)pthread_mutex_lock(&store->lock);
    }
    (void)pthread_mutex_unlock(&store->lock);
    return NULL;
}

/* --- Outside ---------------------------------------------------------------------------------- */

static int store_prepare(struct store *store, const char *state_dir, struct error *err)
{
    bool root = geteuid() == 0;

    store->state_dir = strdup(state_dir);
    if (!store->state_dir)
        return error_set(err, "store-failed", "out of memory");
    /* As root each bottle runs as its own user and has to get through to its own directory. */
    if (directory_make(state_dir, root ? 0711 : 0700, err) < 0) {
        if (err)
            err->kind = "store-failed";
        return error_wrap(err, "the state directory");
    }
    if (snprintf(store->path, sizeof store->path, "%s/" DATABASE_NAME, state_dir) >=
        (int)sizeof store->path)
        return error_set(err, "store-failed", "%s: the path is too long", state_dir);
    if (open_database(store, err) < 0)
        return -1;
    int result = pthread_create(&store->writer, NULL, writer_main, store);
    if (result) {
        errno = result;
        return error_errno(err, "store-failed", "starting the writer");
    }
    store->running = true;
    return 0;
}

struct store *store_open(const char *state_dir, struct error *err)
{
    struct store *store = calloc(1, sizeof *store);

    if (!store) {
        error_set(err, "store-failed", "out of memory");
        return NULL;
    }
    store->last = &store->first;
    (void)pthread_mutex_init(&store->lock, NULL);
    (void)pthread_mutex_init(&store->db_lock, NULL);
    (void)pthread_mutex_init(&store->look_lock, NULL);
    (void)pthread_cond_init(&store->wake, NULL);
    if (store_prepare(store, state_dir, err) == 0)
        return store;
    store_close(store);
    return NULL;
}

static void close_handle(sqlite3 *db)
{
    for (sqlite3_stmt *next; db && (next = sqlite3_next_stmt(db, NULL));)
        (void)sqlite3_finalize(next);
    (void)sqlite3_close(db);
}

void store_close(struct store *store)
{
    if (!store)
        return;
    if (store->running) {
        (void)pthread_mutex_lock(&store->lock);
        store->ending = true;
        (void)pthread_cond_signal(&store->wake);
        (void)pthread_mutex_unlock(&store->lock);
        (void)pthread_join(store->writer, NULL);
    }
    close_handle(store->reader);
    close_handle(store->db);
    (void)pthread_mutex_destroy(&store->look_lock);
    (void)pthread_cond_destroy(&store->wake);
    (void)pthread_mutex_destroy(&store->db_lock);
    (void)pthread_mutex_destroy(&store->lock);
    free(store->state_dir);
    free(store);
}

void store_tell(struct store *store, void (*told)(void *context), void *context)
{
    (void)pthread_mutex_lock(&store->lock);
    store->told = told;
    store->told_context = context;
    (void)pthread_mutex_unlock(&store->lock);
}

void store_submit(struct store *store, const struct store_write *write)
{
    struct node *node = calloc(1, sizeof *node);

    if (!node) {
        struct error failure = ERROR_INIT;
        error_set(&failure, "store-failed", "out of memory");
        write->done(write->context, &failure);
        return;
    }
    node->write = *write;
    (void)pthread_mutex_lock(&store->lock);
    *store->last = node;
    store->last = &node->next;
    (void)pthread_cond_signal(&store->wake);
    (void)pthread_mutex_unlock(&store->lock);
}

struct awaited {
    int (*apply)(sqlite3 *db, void *context, struct error *err);
    void *context;
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool done, failed;
    struct error failure;
};

static int awaited_apply(sqlite3 *db, void *context, struct error *err)
{
    const struct awaited *awaited = context;

    return awaited->apply(db, awaited->context, err);
}

static void awaited_done(void *context, const struct error *failure)
{
    struct awaited *awaited = context;

    (void)pthread_mutex_lock(&awaited->lock);
    awaited->done = true;
    awaited->failed = failure != NULL;
    if (failure)
        awaited->failure = *failure;
    (void)pthread_cond_signal(&awaited->over);
    (void)pthread_mutex_unlock(&awaited->lock);
}

int store_write_now(struct store *store,
                    int (*apply)(sqlite3 *db, void *context, struct error *err), void *context,
                    struct error *err)
{
    struct awaited awaited = {.apply = apply, .context = context};

    (void)pthread_mutex_init(&awaited.lock, NULL);
    (void)pthread_cond_init(&awaited.over, NULL);
    store_submit(store, &(struct store_write){awaited_apply, awaited_done, &awaited});
    (void)pthread_mutex_lock(&awaited.lock);
    while (!awaited.done)
        (void)pthread_cond_wait(&awaited.over, &awaited.lock);
    (void)pthread_mutex_unlock(&awaited.lock);
    (void)pthread_cond_destroy(&awaited.over);
    (void)pthread_mutex_destroy(&awaited.lock);
    if (awaited.failed && err)
        *err = awaited.failure;
    return awaited.failed ? -1 : 0;
}

int store_read(struct store *store, int (*read)(sqlite3 *db, void *context, struct error *err),
               void *context, struct error *err)
{
    (void)pthread_mutex_lock(&store->db_lock);
    int result = read(store->db, context, err);
    (void)pthread_mutex_unlock(&store->db_lock);
    return result;
}

static int open_reader(struct store *store, struct error *err)
{
    if (store->reader)
        return 0;
    if (sqlite3_open_v2(store->path, &store->reader, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX,
                        NULL) == SQLITE_OK) {
        (void)sqlite3_busy_timeout(store->reader, BUSY_MS);
        return 0;
    }
    error_set(err, "store-failed", "%s: %s", store->path,
              store->reader ? sqlite3_errmsg(store->reader) : "out of memory");
    (void)sqlite3_close(store->reader);
    store->reader = NULL;
    return -1;
}

int store_look(struct store *store, int (*read)(sqlite3 *db, void *context, struct error *err),
               void *context, struct error *err)
{
    (void)pthread_mutex_lock(&store->look_lock);
    int result = open_reader(store, err);
    if (result == 0 && (result = execute(store->reader, "BEGIN", err)) == 0) {
        result = read(store->reader, context, err);
        (void)execute(store->reader, "COMMIT", NULL);
    }
    (void)pthread_mutex_unlock(&store->look_lock);
    return result;
}

static int probe_apply(sqlite3 *db, void *context, struct error *err)
{
    (void)context;
    return execute(db,
                   "INSERT INTO meta (name, value) VALUES ('probe', 1)"
                   " ON CONFLICT (name) DO UPDATE SET value = value + 1",
                   err);
}

static void probe_done(void *context, const struct error *failure)
{
    struct store *store = context;

    (void)failure;
    (void)pthread_mutex_lock(&store->lock);
    store->probing = false;
    (void)pthread_mutex_unlock(&store->lock);
}

int store_health(struct store *store, struct error *err)
{
    struct statvfs space;
    bool probe = false;
    int result = 0;

    (void)pthread_mutex_lock(&store->lock);
    if (store->broken) {
        result = -1;
        if (err)
            *err = store->why;
        /* Nobody may be writing: find out whether it has become possible again. */
        probe = !store->probing;
        store->probing = true;
    }
    (void)pthread_mutex_unlock(&store->lock);
    if (probe)
        store_submit(store, &(struct store_write){probe_apply, probe_done, store});
    if (result < 0)
        return -1;
    if (statvfs(store->state_dir, &space) < 0)
        return error_errno(err, "store-failed", "%s", store->state_dir);
    if ((uint64_t)space.f_bavail * space.f_frsize < SPACE_MIN || (space.f_flag & ST_RDONLY))
        return error_set(err, "store-failed", "%s is full or read-only", store->state_dir);
    return 0;
}
