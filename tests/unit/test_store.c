/* The store: writes that share a commit, one that fails among many, and databases it must not
 * touch. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/util.h"
#include "server/idempotency_rows.h"
#include "server/row.h"
#include "server/store.h"

static char directory[64];

static void set_up(void)
{
    (void)snprintf(directory, sizeof directory, "/tmp/bottled-store-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void tear_down(void)
{
    cr_assert_eq(directory_remove(directory, NULL, NULL), 0);
}

static struct store *open_store(void)
{
    struct error err = ERROR_INIT;
    struct store *store = store_open(directory, &err);

    cr_assert_not_null(store, "%s", err.text);
    return store;
}

static const char *database_path(void)
{
    static char path[128];

    (void)snprintf(path, sizeof path, "%s/bottled.db", directory);
    return path;
}

/* Runs SQL from outside, as another program would. */
static void run_sql(const char *sql)
{
    sqlite3 *db;

    cr_assert_eq(sqlite3_open(database_path(), &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
    cr_assert_eq(sqlite3_close(db), SQLITE_OK);
}

struct probe {
    struct bottle_row row;
    bool fail;
    bool asked, stored;
    const char *kind;
};

struct tally {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t done;
} tally = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void fill_row(struct bottle_row *row, unsigned number)
{
    *row = (struct bottle_row){.state = STATE_PREPARED, .generation = 1, .created_ms = 5};
    (void)snprintf(row->slug, sizeof row->slug, "b-%u", number);
    (void)snprintf(row->backend, sizeof row->backend, "qemu");
    row->allocation.subnet = number;
    row->allocation.loopback = number % 2;
    row->allocation.host_ports[0] = (uint16_t)(20000 + number);
}

static int apply_probe(sqlite3 *db, void *context, struct error *err)
{
    struct probe *probe = context;

    if (row_insert(db, &probe->row, "{\"command\":[\"true\"]}", "{}", err) < 0)
        return -1;
    return probe->fail ? error_set(err, "slug-taken", "on purpose") : 0;
}

static void probe_done(void *context, const struct error *failure)
{
    struct probe *probe = context;

    (void)pthread_mutex_lock(&tally.lock);
    probe->asked = true;
    probe->stored = failure == NULL;
    probe->kind = failure ? failure->kind : NULL;
    tally.done++;
    (void)pthread_cond_signal(&tally.changed);
    (void)pthread_mutex_unlock(&tally.lock);
}

static void await(size_t count)
{
    (void)pthread_mutex_lock(&tally.lock);
    while (tally.done < count)
        (void)pthread_cond_wait(&tally.changed, &tally.lock);
    (void)pthread_mutex_unlock(&tally.lock);
}

static int count_rows(const struct bottle_row *row, const char *spec, const char *labels,
                      const char *before, void *context, struct error *err)
{
    (void)err;
    cr_expect_gt(row->sequence, 0);
    cr_expect_str_eq(spec, "{\"command\":[\"true\"]}");
    cr_expect_str_eq(labels, "{}");
    cr_expect_null(before);
    ++*(size_t *)context;
    return 0;
}

static int read_count(sqlite3 *db, void *context, struct error *err)
{
    return rows_load(db, count_rows, context, err);
}

static size_t stored_rows(struct store *store)
{
    struct error err = ERROR_INIT;
    size_t count = 0;

    cr_assert_eq(store_read(store, read_count, &count, &err), 0, "%s", err.text);
    return count;
}

Test(store, one_failing_write_among_many_is_undone_alone, .init = set_up, .fini = tear_down)
{
    enum { WRITES = 200, WRONG = 77 };
    static struct probe probes[WRITES];
    struct store *store = open_store();

    for (unsigned i = 0; i < WRITES; i++) {
        fill_row(&probes[i].row, i);
        probes[i].fail = i == WRONG;
        store_submit(store, &(struct store_write){apply_probe, probe_done, &probes[i]});
    }
    await(WRITES);
    for (unsigned i = 0; i < WRITES; i++)
        cr_expect_eq(probes[i].stored, i != WRONG, "write %u", i);
    cr_expect_str_eq(probes[WRONG].kind, "slug-taken");
    cr_expect_eq(stored_rows(store), WRITES - 1);
    store_close(store);
}

Test(store, what_was_queued_is_committed_before_closing, .init = set_up, .fini = tear_down)
{
    static struct probe probes[50];
    struct store *store = open_store();

    for (unsigned i = 0; i < 50; i++) {
        fill_row(&probes[i].row, i);
        store_submit(store, &(struct store_write){apply_probe, probe_done, &probes[i]});
    }
    store_close(store);
    for (unsigned i = 0; i < 50; i++)
        cr_expect(probes[i].asked && probes[i].stored);
    store = open_store();
    cr_expect_eq(stored_rows(store), 50);
    store_close(store);
}

Test(store, a_slug_or_a_subnet_is_stored_once, .init = set_up, .fini = tear_down)
{
    static struct probe probes[3];
    struct store *store = open_store();

    fill_row(&probes[0].row, 1);
    fill_row(&probes[1].row, 1);
    fill_row(&probes[2].row, 2);
    probes[2].row.allocation.subnet = 1;
    for (unsigned i = 0; i < 3; i++)
        store_submit(store, &(struct store_write){apply_probe, probe_done, &probes[i]});
    await(3);
    cr_expect(probes[0].stored);
    cr_expect_not(probes[1].stored);
    cr_expect_not(probes[2].stored);
    cr_expect_str_eq(probes[1].kind, "store-failed");
    store_close(store);
}

Test(store, the_database_is_ours_alone, .init = set_up, .fini = tear_down)
{
    struct stat status;

    store_close(open_store());
    cr_assert_eq(stat(database_path(), &status), 0);
    cr_expect_eq(status.st_mode & 07777, 0600);
}

/* SQLite's shared lock (its file format, "File Locking": 510 bytes from 0x40000002) is what keeps
 * another program's last close from taking the -wal away. Only another process can see it. */
Test(store, its_lock_is_held, .init = set_up, .fini = tear_down)
{
    struct store *store = open_store();
    int status;

    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_start = 0x40000002, .l_len = 510};
        int fd = open(database_path(), O_RDWR | O_CLOEXEC);
        _exit(fd < 0 || fcntl(fd, F_GETLK, &lock) < 0 ? 2 : lock.l_type == F_UNLCK ? 1 : 0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect_eq(status, 0);
    store_close(store);
}

Test(store, a_lost_transaction_fails_all_of_its_writes, .init = set_up, .fini = tear_down)
{
    static struct probe probes[20];
    struct store *store = open_store();
    sqlite3 *other;
    struct error err = ERROR_INIT;

    /* Somebody holds the write lock longer than the store waits for it. */
    cr_assert_eq(sqlite3_open(database_path(), &other), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    for (unsigned i = 0; i < 20; i++) {
        fill_row(&probes[i].row, i);
        store_submit(store, &(struct store_write){apply_probe, probe_done, &probes[i]});
    }
    await(1);
    cr_expect_not(probes[0].stored);
    cr_expect_str_eq(probes[0].kind, "store-failed");
    cr_expect_eq(store_health(store, &err), -1);
    cr_assert_eq(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    cr_assert_eq(sqlite3_close(other), SQLITE_OK);
    await(20);
    store_close(store);
}

Test(store, health_is_good_and_recovers, .init = set_up, .fini = tear_down)
{
    struct store *store = open_store();

    cr_expect_eq(store_health(store, NULL), 0);
    store_close(store);
}

/* Opens what must be refused; the words of why. */
static void expect_refused(const char *words)
{
    struct error err = ERROR_INIT;
    size_t length, length_after;
    char *before = file_read(database_path(), 1 << 20, &length, NULL);

    cr_expect_null(store_open(directory, &err));
    cr_expect_str_eq(err.kind, "store-failed");
    cr_expect_not_null(strstr(err.text, words), "%s", err.text);
    char *after = file_read(database_path(), 1 << 20, &length_after, NULL);
    cr_assert(before && after);
    cr_expect(length == length_after && memcmp(before, after, length) == 0);
    free(before);
    free(after);
}

Test(store, a_newer_schema_is_refused, .init = set_up, .fini = tear_down)
{
    store_close(open_store());
    run_sql("PRAGMA user_version = 99");
    expect_refused("newer bottled");
}

Test(store, a_database_of_something_else_is_refused, .init = set_up, .fini = tear_down)
{
    run_sql("CREATE TABLE recipes (name TEXT)");
    expect_refused("something else");
}

Test(store, a_file_that_is_no_database_is_refused_and_kept, .init = set_up, .fini = tear_down)
{
    char noise[8192];

    memset(noise, 'x', sizeof noise);
    cr_assert_eq(file_write(database_path(), noise, sizeof noise, 0600, false, NULL), 0);
    expect_refused("damaged");
}

Test(store, a_damaged_page_is_refused_and_kept, .init = set_up, .fini = tear_down)
{
    static struct probe probes[300];
    struct store *store = open_store();

    for (unsigned i = 0; i < 300; i++) {
        fill_row(&probes[i].row, i);
        store_submit(store, &(struct store_write){apply_probe, probe_done, &probes[i]});
    }
    store_close(store);
    FILE *file = fopen(database_path(), "r+");
    cr_assert_not_null(file);
    for (long page = 3; page < 12; page++) {
        cr_assert_eq(fseek(file, page * 4096, SEEK_SET), 0);
        cr_assert_eq(fwrite("damage damage damage", 1, 20, file), 20);
    }
    cr_assert_eq(fclose(file), 0);
    expect_refused("damaged");
}

Test(store, an_empty_file_is_a_new_database, .init = set_up, .fini = tear_down)
{
    cr_assert_eq(file_write(database_path(), "", 0, 0600, false, NULL), 0);
    struct store *store = open_store();
    cr_expect_eq(stored_rows(store), 0);
    store_close(store);
}

/* --- Older versions --------------------------------------------------------------------------- */

static int check_old(const struct bottle_row *row, const char *spec, const char *labels,
                     const char *before, void *context, struct error *err)
{
    (void)err;
    cr_expect_str_eq(row->slug, "old");
    cr_expect_str_eq(spec, "{\"command\":[\"x\"]}");
    cr_expect_str_eq(labels, "{}");
    cr_expect_null(before);
    cr_expect_eq(row->egress.allowed + row->egress.denied, 0);
    cr_expect_eq(row->egress.bytes_out + row->egress.bytes_in, 0);
    cr_expect_str_eq(row->shim_token, "token");
    ++*(int *)context;
    return 0;
}

static int load_old(sqlite3 *db, void *context, struct error *err)
{
    return rows_load(db, check_old, context, err);
}

Test(store, of_the_first_version_is_brought_up, .init = set_up, .fini = tear_down)
{
    struct error err = ERROR_INIT;
    int count = 0;

    run_sql(row_migrations[0]);
    run_sql("PRAGMA user_version = 1;"
            "INSERT INTO bottles (slug, spec, labels, backend, accelerator, subnet, pipelock_port,"
            " git_gate_port, supervise_port, state, reason, keep_logs, created_ms, updated_ms,"
            " started_ms, finished_ms, generation, boots, shim_pid, shim_start_time, shim_token)"
            " VALUES ('old', '{\"command\":[\"x\"]}', '{}', 'qemu', 'tcg', 7, 20000, 0, 0,"
            " 'running', '', 0, 1, 2, 3, 0, 4, 1, 99, 98, 'token');");
    struct store *store = open_store();
    cr_assert_eq(store_read(store, load_old, &count, &err), 0, "%s", err.text);
    cr_expect_eq(count, 1);
    store_close(store);
}

static int find_row(sqlite3 *db, void *context, struct error *err)
{
    static const struct idempotency_bounds bounds = {10, 1000};

    return idempotency_row_find(db, "mine", &bounds, 0, context, err);
}

/* A create that was under way when bottled was upgraded goes on with its bottle. */
Test(store, of_an_older_version_knows_what_a_key_has_made, .init = set_up, .fini = tear_down)
{
    struct error err = ERROR_INIT;
    struct idempotency_row row;

    for (int i = 0; strstr(row_migrations[i], "COLUMN sequence") == NULL; i++) {
        char version[48];
        (void)snprintf(version, sizeof version, "PRAGMA user_version = %d", i + 1);
        run_sql(row_migrations[i]);
        run_sql(version);
    }
    run_sql(
        "INSERT INTO bottles (sequence, slug, spec, labels, backend, accelerator, subnet,"
        " pipelock_port, git_gate_port, supervise_port, state, reason, keep_logs, created_ms,"
        " updated_ms, started_ms, finished_ms, generation, boots, shim_pid, shim_start_time,"
        " shim_token) VALUES (41, 'old', '{\"command\":[\"x\"]}', '{}', 'qemu', 'tcg', 7, 20000,"
        " 0, 0, 'prepared', '', 0, 1, 2, 3, 0, 4, 1, 0, 0, '');"
        "INSERT INTO idempotency (key, fingerprint, slug, clock_ms, status, headers, body)"
        " VALUES ('mine', 'f', 'old', 1, 0, '[]', x'');");
    struct store *store = open_store();
    cr_assert_eq(store_look(store, find_row, &row, &err), 1, "%s", err.text);
    cr_expect_eq(row.sequence, 41);
    idempotency_row_free(&row);
    store_close(store);
}

/* --- The spec before -------------------------------------------------------------------------- */

struct specs {
    const char *spec, *before;
};

static int check_specs(const struct bottle_row *row, const char *spec, const char *labels,
                       const char *before, void *context, struct error *err)
{
    const struct specs *wanted = context;

    (void)row;
    (void)labels;
    (void)err;
    cr_expect_str_eq(spec, wanted->spec);
    if (wanted->before)
        cr_expect_str_eq(before ? before : "", wanted->before);
    else
        cr_expect_null(before);
    return 0;
}

/* Steps of a change of egress, each with what the row then has. */
static int change_specs(sqlite3 *db, void *context, struct error *err)
{
    struct bottle_row row;

    (void)context;
    fill_row(&row, 1);
    cr_assert_eq(row_insert(db, &row, "one", "{}", err), 0, "%s", err->text);
    cr_assert_eq(row_set_spec(db, row.slug, "two", "{}", true, err), 0);
    cr_assert_eq(rows_load(db, check_specs, &(struct specs){"two", "one"}, err), 0);
    row.egress_pending = true;
    cr_assert_eq(row_update(db, &row, err), 0);
    cr_assert_eq(rows_load(db, check_specs, &(struct specs){"two", "one"}, err), 0);
    cr_assert_eq(row_set_spec(db, row.slug, "three", "{}", true, err), 0);
    cr_assert_eq(rows_load(db, check_specs, &(struct specs){"three", "one"}, err), 0);
    row.egress_pending = false;
    cr_assert_eq(row_update(db, &row, err), 0);
    cr_assert_eq(rows_load(db, check_specs, &(struct specs){"three", NULL}, err), 0);
    cr_assert_eq(row_set_spec(db, row.slug, "four", "{}", true, err), 0);
    cr_assert_eq(row_set_spec(db, row.slug, "three", "{}", false, err), 0);
    return rows_load(db, check_specs, &(struct specs){"three", NULL}, err);
}

Test(store, a_spec_before_is_kept_while_it_is_needed, .init = set_up, .fini = tear_down)
{
    struct error err = ERROR_INIT;
    struct store *store = open_store();

    cr_assert_eq(store_read(store, change_specs, NULL, &err), 0, "%s", err.text);
    store_close(store);
}
