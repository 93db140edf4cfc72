#include "server/idempotency_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "server/sql.h"

void idempotency_row_free(struct idempotency_row *row)
{
    free(row->headers);
    free(row->body);
    *row = (struct idempotency_row){0};
}

static int read_row(sqlite3_stmt *bound, struct idempotency_row *ret, struct error *err)
{
    const void *body = sqlite3_column_blob(bound, 5);

    sql_copy(bound, 0, ret->fingerprint, sizeof ret->fingerprint);
    sql_copy(bound, 1, ret->slug, sizeof ret->slug);
    ret->clock_ms = sqlite3_column_int64(bound, 2);
    ret->status = sqlite3_column_int(bound, 3);
    ret->headers = strdup(sql_text(bound, 4));
    ret->body_length = (size_t)sqlite3_column_bytes(bound, 5);
    ret->body = malloc(ret->body_length + 1);
    ret->sequence = (uint64_t)sqlite3_column_int64(bound, 6);
    if (!ret->headers || !ret->body) {
        idempotency_row_free(ret);
        return error_set(err, NULL, "out of memory");
    }
    if (body)
        memcpy(ret->body, body, ret->body_length);
    ret->body[ret->body_length] = '\0';
    return 1;
}

int idempotency_row_find(sqlite3 *db, const char *key, const struct idempotency_bounds *bounds,
                         int64_t clock_ms, struct idempotency_row *ret, struct error *err)
{
    sqlite3_stmt *bound = sql_prepare(db,
                                      "SELECT fingerprint, slug, clock_ms, status, headers, body,"
                                      " sequence FROM idempotency WHERE key = ? AND clock_ms > ?",
                                      err);
    *ret = (struct idempotency_row){0};
    if (!bound)
        return -1;
    (void)snprintf(ret->key, sizeof ret->key, "%s", key);
    (void)sqlite3_bind_text(bound, 1, key, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(bound, 2, clock_ms - bounds->age_ms);
    int step = sqlite3_step(bound);
    int result = step == SQLITE_ROW    ? read_row(bound, ret, err)
                 : step == SQLITE_DONE ? 0
                                       : sql_failed(db, err);
    (void)sqlite3_finalize(bound);
    return result;
}

int idempotency_row_delete(sqlite3 *db, const char *key, struct error *err)
{
    sqlite3_stmt *bound = sql_prepare(db, "DELETE FROM idempotency WHERE key = ?", err);

    if (!bound)
        return -1;
    (void)sqlite3_bind_text(bound, 1, key, -1, SQLITE_STATIC);
    return sql_finish(db, bound, err);
}

static int forget_oldest(sqlite3 *db, const char *sql, int64_t number, struct error *err)
{
    sqlite3_stmt *bound = sql_prepare(db, sql, err);

    if (!bound)
        return -1;
    (void)sqlite3_bind_int64(bound, 1, number);
    return sql_finish(db, bound, err);
}

int idempotency_row_put(sqlite3 *db, const struct idempotency_row *row,
                        const struct idempotency_bounds *bounds, struct error *err)
{
    if (idempotency_row_delete(db, row->key, err) < 0)
        return -1;
    sqlite3_stmt *bound = sql_prepare(db,
                                      "INSERT INTO idempotency (key, fingerprint, slug, clock_ms,"
                                      " status, headers, body, sequence)"
                                      " VALUES (?,?,?,?,?,?,?,?)",
                                      err);
    if (!bound)
        return -1;
    (void)sqlite3_bind_text(bound, 1, row->key, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(bound, 2, row->fingerprint, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(bound, 3, row->slug, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(bound, 4, row->clock_ms);
    (void)sqlite3_bind_int(bound, 5, row->status);
    (void)sqlite3_bind_text(bound, 6, row->headers ? row->headers : "[]", -1, SQLITE_STATIC);
    (void)sqlite3_bind_blob(bound, 7, row->body ? row->body : "", (int)row->body_length,
                            SQLITE_STATIC);
    (void)sqlite3_bind_int64(bound, 8, (sqlite3_int64)row->sequence);
    if (sql_finish(db, bound, err) < 0)
        return -1;
    /* Rows are numbered in the order they are written. */
    if (forget_oldest(db, "DELETE FROM idempotency WHERE number <= last_insert_rowid() - ?",
                      bounds->rows, err) < 0)
        return -1;
    return forget_oldest(db, "DELETE FROM idempotency WHERE clock_ms <= ?",
                         row->clock_ms - bounds->age_ms, err);
}
