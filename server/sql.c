#include "server/sql.h"

#include <stdio.h>
#include <string.h>

int sql_failed(sqlite3 *db, struct error *err)
{
    return error_set(err, "store-failed", "the state database: %s", sqlite3_errmsg(db));
}

sqlite3_stmt *sql_prepare(sqlite3 *db, const char *sql, struct error *err)
{
    sqlite3_stmt *ret = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &ret, NULL) != SQLITE_OK)
        (void)sql_failed(db, err);
    return ret;
}

int sql_finish(sqlite3 *db, sqlite3_stmt *bound, struct error *err)
{
    int result = sqlite3_step(bound) == SQLITE_DONE ? 0 : sql_failed(db, err);

    (void)sqlite3_finalize(bound);
    return result;
}

sqlite3_stmt *sql_kept(sqlite3 *db, const char *sql, struct error *err)
{
    sqlite3_stmt *found = NULL;

    while ((found = sqlite3_next_stmt(db, found)) && strcmp(sqlite3_sql(found), sql) != 0)
        ;
    if (!found &&
        sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &found, NULL) != SQLITE_OK) {
        (void)sql_failed(db, err);
        return NULL;
    }
    return found;
}

int sql_run(sqlite3 *db, sqlite3_stmt *kept, struct error *err)
{
    int result = sqlite3_step(kept);

    if (result != SQLITE_DONE)
        (void)sql_failed(db, err);
    (void)sqlite3_reset(kept);
    (void)sqlite3_clear_bindings(kept);
    return result == SQLITE_DONE ? 0 : -1;
}

const char *sql_text(sqlite3_stmt *from, int column)
{
    const char *text = (const char *)sqlite3_column_text(from, column);

    return text ? text : "";
}

void sql_copy(sqlite3_stmt *from, int column, char *ret, size_t size)
{
    (void)snprintf(ret, size, "%s", sql_text(from, column));
}
