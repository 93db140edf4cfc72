#include "server/row.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/util.h"
#include "server/events.h"
#include "server/metrics.h"
#include "server/sql.h"

/* The rows' columns in the order of the insert. A port's column has the number of the loopback
 * address above its sixteen bits. Subnets are unique here too: were the memory wrong,
 * the insert fails rather than two bottles sharing a network. */
const char *const row_migrations[] = {
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;"
    "CREATE TABLE bottles ("
    " sequence INTEGER PRIMARY KEY AUTOINCREMENT,"
    " slug TEXT NOT NULL UNIQUE,"
    " spec TEXT NOT NULL,"
    " labels TEXT NOT NULL,"
    " backend TEXT NOT NULL,"
    " accelerator TEXT NOT NULL,"
    " subnet INTEGER NOT NULL UNIQUE,"
    " pipelock_port INTEGER NOT NULL,"
    " git_gate_port INTEGER NOT NULL,"
    " supervise_port INTEGER NOT NULL,"
    " state TEXT NOT NULL,"
    " reason TEXT NOT NULL,"
    " exit_code INTEGER,"
    " keep_logs INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL,"
    " updated_ms INTEGER NOT NULL,"
    " started_ms INTEGER NOT NULL,"
    " finished_ms INTEGER NOT NULL,"
    " generation INTEGER NOT NULL,"
    " boots INTEGER NOT NULL,"
    " shim_pid INTEGER NOT NULL,"
    " shim_start_time INTEGER NOT NULL,"
    " shim_token TEXT NOT NULL"
    ") STRICT;"
    "CREATE TABLE events ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " time INTEGER NOT NULL,"
    " slug TEXT NOT NULL,"
    " type TEXT NOT NULL,"
    " detail TEXT NOT NULL"
    ") STRICT;",
    "ALTER TABLE bottles ADD COLUMN backend_reason TEXT NOT NULL DEFAULT '';",
    /* Events are a window on the last ones: meta has how many (events_bound). */
    "ALTER TABLE bottles ADD COLUMN spec_before TEXT;"
    "ALTER TABLE bottles ADD COLUMN egress_allowed INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE bottles ADD COLUMN egress_denied INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE bottles ADD COLUMN egress_bytes_out INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE bottles ADD COLUMN egress_bytes_in INTEGER NOT NULL DEFAULT 0;"
    "CREATE TRIGGER events_window AFTER INSERT ON events BEGIN"
    " DELETE FROM events WHERE id <= NEW.id - (SELECT value FROM meta WHERE name = 'event_rows');"
    " END;",
    "ALTER TABLE bottles ADD COLUMN engine TEXT NOT NULL DEFAULT '';",
    "ALTER TABLE bottles ADD COLUMN image TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE images ("
    " sequence INTEGER PRIMARY KEY AUTOINCREMENT,"
    " id TEXT NOT NULL UNIQUE,"
    " source TEXT NOT NULL,"
    " digest TEXT NOT NULL,"
    " manifest TEXT NOT NULL,"
    " bytes INTEGER NOT NULL,"
    " files INTEGER NOT NULL,"
    " config TEXT NOT NULL,"
    " created_ms INTEGER NOT NULL"
    ") STRICT;",
    ("ALTER TABLE bottles ADD COLUMN boot TEXT NOT NULL DEFAULT '';"
     "ALTER TABLE bottles ADD COLUMN boot_reason TEXT NOT NULL DEFAULT '';"),
    ("ALTER TABLE bottles ADD COLUMN expires_clock_ms INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE bottles ADD COLUMN expires_ms INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE bottles ADD COLUMN restart_clock_ms INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE bottles ADD COLUMN restart_ms INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE bottles ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE bottles ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE bottles ADD COLUMN again INTEGER NOT NULL DEFAULT 0;"),
    ("CREATE TABLE idempotency ("
     " number INTEGER PRIMARY KEY AUTOINCREMENT,"
     " key TEXT NOT NULL UNIQUE,"
     " fingerprint TEXT NOT NULL,"
     " slug TEXT NOT NULL,"
     " clock_ms INTEGER NOT NULL,"
     " status INTEGER NOT NULL,"
     " headers TEXT NOT NULL,"
     " body BLOB NOT NULL"
     ") STRICT;"
     "CREATE INDEX idempotency_age ON idempotency (clock_ms);"),
    "ALTER TABLE bottles ADD COLUMN cleanup TEXT NOT NULL DEFAULT '';",
    /* Of a request that is under way the bottle that has the name is the one. */
    ("ALTER TABLE idempotency ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;"
     "UPDATE idempotency SET sequence = coalesce((SELECT bottles.sequence FROM bottles"
     " WHERE bottles.slug = idempotency.slug), 0) WHERE slug <> '';"),
    /* Nothing but the version: from here on a port may be one of another address. */
    "",
};
const int n_row_migrations = (int)COUNT_OF(row_migrations);

void reason_copy(char ret[REASON_SIZE], const char *words)
{
    size_t length = strnlen(words, REASON_SIZE);

    if (length == REASON_SIZE) {
        length--;
        /* Bytes 10xxxxxx continue a character of UTF-8: cut before the one that began it. */
        while (length > 0 && ((unsigned char)words[length] & 0xc0) == 0x80)
            length--;
    }
    memmove(ret, words, length);
    ret[length] = '\0';
}

static void bind_text(sqlite3_stmt *bound, int index, const char *text)
{
    (void)sqlite3_bind_text(bound, index, text, -1, SQLITE_STATIC);
}

/* The columns that change, from `index` on; the next free index. */
static int bind_changing(sqlite3_stmt *bound, int index, const struct bottle_row *row)
{
    bind_text(bound, index++, row->accelerator);
    bind_text(bound, index++, row->backend_reason);
    bind_text(bound, index++, states[row->state].name);
    bind_text(bound, index++, row->reason);
    if (row->has_exit_code)
        (void)sqlite3_bind_int(bound, index, row->exit_code);
    index++;
    const int64_t numbers[] = {row->keep_logs,
                               row->updated_ms,
                               row->started_ms,
                               row->finished_ms,
                               row->generation,
                               row->boots,
                               row->shim_pid,
                               (int64_t)row->shim_start_time,
                               row->egress.allowed,
                               row->egress.denied,
                               row->egress.bytes_out,
                               row->egress.bytes_in,
                               row->expires_clock_ms,
                               row->expires_ms,
                               row->restart_clock_ms,
                               row->restart_ms,
                               row->restarts,
                               row->retries,
                               row->again};
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        (void)sqlite3_bind_int64(bound, index++, numbers[i]);
    bind_text(bound, index++, row->shim_token);
    bind_text(bound, index++, row->engine);
    bind_text(bound, index++, row->boot);
    bind_text(bound, index++, row->boot_reason);
    return index;
}

static int64_t place_of(const struct allocation *allocation, size_t i)
{
    uint16_t port = allocation->host_ports[i];

    return port ? (int64_t)allocation->loopback << 16 | port : 0;
}

int row_insert(sqlite3 *db, struct bottle_row *row, const char *spec, const char *labels,
               struct error *err)
{
    sqlite3_stmt *bound = sql_kept(
        db,
        "INSERT INTO bottles (accelerator, backend_reason, state, reason, exit_code, keep_logs, "
        "updated_ms, started_ms,"
        " finished_ms, generation, boots, shim_pid, shim_start_time, egress_allowed, "
        "egress_denied, egress_bytes_out, egress_bytes_in, expires_clock_ms, expires_ms, "
        "restart_clock_ms, restart_ms, restarts, retries, again, shim_token, engine, "
        "boot, boot_reason, slug, "
        "spec, labels,"
        " backend, subnet, pipelock_port, git_gate_port, supervise_port, created_ms, image)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        err);
    if (!bound)
        return -1;
    int index = bind_changing(bound, 1, row);
    bind_text(bound, index++, row->slug);
    bind_text(bound, index++, spec);
    bind_text(bound, index++, labels);
    bind_text(bound, index++, row->backend);
    (void)sqlite3_bind_int64(bound, index++, row->allocation.subnet);
    for (size_t i = 0; i < FORWARDS_MAX; i++)
        (void)sqlite3_bind_int64(bound, index++, place_of(&row->allocation, i));
    (void)sqlite3_bind_int64(bound, index++, row->created_ms);
    bind_text(bound, index, row->image);
    if (sql_run(db, bound, err) < 0)
        return -1;
    row->sequence = (uint64_t)sqlite3_last_insert_rowid(db);
    return 0;
}

int row_update(sqlite3 *db, const struct bottle_row *row, struct error *err)
{
    sqlite3_stmt *bound = sql_kept(
        db,
        "UPDATE bottles SET accelerator = ?, backend_reason = ?, state = ?, reason = ?, exit_code "
        "= ?, keep_logs = ?,"
        " updated_ms = ?, started_ms = ?, finished_ms = ?, generation = ?, boots = ?, shim_pid = ?,"
        " shim_start_time = ?, egress_allowed = ?, egress_denied = ?, egress_bytes_out = ?,"
        " egress_bytes_in = ?, expires_clock_ms = ?, expires_ms = ?, restart_clock_ms = ?,"
        " restart_ms = ?, restarts = ?, retries = ?, again = ?, shim_token = ?, engine = ?, boot = "
        "?, boot_reason = ?,"
        " spec_before = CASE WHEN ? THEN spec_before ELSE NULL END WHERE slug = ?",
        err);
    if (!bound)
        return -1;
    int index = bind_changing(bound, 1, row);
    (void)sqlite3_bind_int(bound, index++, row->egress_pending);
    bind_text(bound, index, row->slug);
    return sql_run(db, bound, err);
}

int row_set_spec(sqlite3 *db, const char *slug, const char *spec, const char *labels,
                 bool keep_before, struct error *err)
{
    sqlite3_stmt *bound = sql_kept(
        db,
        "UPDATE bottles SET spec_before = CASE WHEN ? THEN coalesce(spec_before, spec) END,"
        " spec = ?, labels = ? WHERE slug = ?",
        err);
    if (!bound)
        return -1;
    (void)sqlite3_bind_int(bound, 1, keep_before);
    bind_text(bound, 2, spec);
    bind_text(bound, 3, labels);
    bind_text(bound, 4, slug);
    return sql_run(db, bound, err);
}

int row_set_cleanup(sqlite3 *db, const char *slug, const char *plan, struct error *err)
{
    sqlite3_stmt *bound =
        sql_kept(db, "UPDATE bottles SET cleanup = ? WHERE slug = ? AND state = 'deleting'", err);

    if (!bound)
        return -1;
    bind_text(bound, 1, plan);
    bind_text(bound, 2, slug);
    return sql_run(db, bound, err);
}

char *row_cleanup(sqlite3 *db, const char *slug, struct error *err)
{
    sqlite3_stmt *from = sql_kept(db, "SELECT cleanup FROM bottles WHERE slug = ?", err);
    char *ret = NULL;

    if (!from)
        return NULL;
    bind_text(from, 1, slug);
    if (sqlite3_step(from) == SQLITE_ROW)
        ret = strdup((const char *)sqlite3_column_text(from, 0));
    if (!ret)
        error_set(err, "store-failed", "reading the cleanup plan of %s: %s", slug,
                  sqlite3_errmsg(db));
    (void)sqlite3_reset(from);
    (void)sqlite3_clear_bindings(from);
    return ret;
}

int row_delete(sqlite3 *db, const char *slug, struct error *err)
{
    sqlite3_stmt *bound = sql_kept(db, "DELETE FROM bottles WHERE slug = ?", err);

    if (!bound)
        return -1;
    bind_text(bound, 1, slug);
    return sql_run(db, bound, err);
}

int event_insert(sqlite3 *db, int64_t time_ms, const char *slug, const char *type,
                 const char *detail, struct error *err)
{
    sqlite3_stmt *bound =
        sql_kept(db, "INSERT INTO events (time, slug, type, detail) VALUES (?,?,?,?)", err);

    if (!bound)
        return -1;
    (void)sqlite3_bind_int64(bound, 1, time_ms);
    bind_text(bound, 2, slug);
    bind_text(bound, 3, type);
    bind_text(bound, 4, detail ? detail : "{}");
    if (sql_run(db, bound, err) < 0)
        return -1;
    metrics_event(event_type_parse(type));
    return 0;
}

int event_insert_state(sqlite3 *db, const struct bottle_row *row, struct error *err)
{
    CLEANUP_JSON json_t *detail = json_object();
    char type[48];

    if (row->reason[0])
        (void)json_object_set_new(detail, "reason", json_string(row->reason));
    if (row->has_exit_code)
        (void)json_object_set_new(detail, "exit_code", json_integer(row->exit_code));
    CLEANUP_FREE char *text = json_text(detail);
    (void)snprintf(type, sizeof type, "bottle.%s", states[row->state].name);
    return event_insert(db, row->updated_ms, row->slug, type, text, err);
}

static void read_place(int64_t place, size_t i, struct allocation *ret)
{
    ret->host_ports[i] = (uint16_t)(place & 0xffff);
    if (place)
        ret->loopback = (unsigned)(place >> 16);
}

static int read_row(sqlite3_stmt *from, struct bottle_row *ret, struct error *err)
{
    int column = 0;

    *ret = (struct bottle_row){0};
    ret->sequence = (uint64_t)sqlite3_column_int64(from, column++);
    sql_copy(from, column++, ret->slug, sizeof ret->slug);
    sql_copy(from, column++, ret->backend, sizeof ret->backend);
    sql_copy(from, column++, ret->accelerator, sizeof ret->accelerator);
    sql_copy(from, column++, ret->backend_reason, sizeof ret->backend_reason);
    ret->allocation.subnet = (unsigned)sqlite3_column_int64(from, column++);
    for (size_t i = 0; i < FORWARDS_MAX; i++)
        read_place(sqlite3_column_int64(from, column++), i, &ret->allocation);
    const char *state = (const char *)sqlite3_column_text(from, column++);
    int number = state ? state_parse(state) : -1;
    if (number < 0)
        return error_set(err, "store-failed", "bottle %s has the unknown state '%s'", ret->slug,
                         state ? state : "");
    ret->state = (enum bottle_state)number;
    sql_copy(from, column++, ret->reason, sizeof ret->reason);
    ret->has_exit_code = sqlite3_column_type(from, column) == SQLITE_INTEGER;
    ret->exit_code = sqlite3_column_int(from, column++);
    ret->keep_logs = sqlite3_column_int(from, column++) != 0;
    int64_t *const numbers[] = {&ret->created_ms,  &ret->updated_ms, &ret->started_ms,
                                &ret->finished_ms, &ret->generation, &ret->boots};
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        *numbers[i] = sqlite3_column_int64(from, column++);
    ret->shim_pid = (pid_t)sqlite3_column_int64(from, column++);
    ret->shim_start_time = (uint64_t)sqlite3_column_int64(from, column++);
    sql_copy(from, column++, ret->shim_token, sizeof ret->shim_token);
    int64_t *const totals[] = {&ret->egress.allowed, &ret->egress.denied, &ret->egress.bytes_out,
                               &ret->egress.bytes_in};
    for (size_t i = 0; i < COUNT_OF(totals); i++)
        *totals[i] = sqlite3_column_int64(from, column++);
    sql_copy(from, column++, ret->engine, sizeof ret->engine);
    sql_copy(from, column++, ret->image, sizeof ret->image);
    sql_copy(from, column++, ret->boot, sizeof ret->boot);
    sql_copy(from, column++, ret->boot_reason, sizeof ret->boot_reason);
    int64_t *const clocks[] = {&ret->expires_clock_ms, &ret->expires_ms, &ret->restart_clock_ms,
                               &ret->restart_ms,       &ret->restarts,   &ret->retries};
    for (size_t i = 0; i < COUNT_OF(clocks); i++)
        *clocks[i] = sqlite3_column_int64(from, column++);
    ret->again = sqlite3_column_int(from, column) != 0;
    return 0;
}

int rows_load(sqlite3 *db, row_visit *visit, void *context, struct error *err)
{
    struct bottle_row row;
    sqlite3_stmt *from = sql_kept(
        db,
        "SELECT sequence, slug, backend, accelerator, backend_reason, subnet, pipelock_port, "
        "git_gate_port,"
        " supervise_port, state, reason, exit_code, keep_logs, created_ms, updated_ms, started_ms,"
        " finished_ms, generation, boots, shim_pid, shim_start_time, shim_token,"
        " egress_allowed, egress_denied, egress_bytes_out, egress_bytes_in, engine, image, boot,"
        " boot_reason, expires_clock_ms, expires_ms, restart_clock_ms, restart_ms, restarts,"
        " retries, again, spec, labels, spec_before FROM bottles ORDER BY sequence",
        err);
    int step = SQLITE_DONE, result = from ? 0 : -1;

    while (result == 0 && (step = sqlite3_step(from)) == SQLITE_ROW) {
        result = read_row(from, &row, err);
        if (result == 0)
            result = visit(&row, (const char *)sqlite3_column_text(from, 37),
                           (const char *)sqlite3_column_text(from, 38),
                           (const char *)sqlite3_column_text(from, 39), context, err);
    }
    if (result == 0 && step != SQLITE_DONE)
        result = error_set(err, "store-failed", "reading the bottles: %s", sqlite3_errmsg(db));
    if (from)
        (void)sqlite3_reset(from);
    return result;
}
