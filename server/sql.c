#include "server/sql.h"

#include <stdio.h>

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

const char *sql_text(sqlite3_stmt *from, int column)
{
    const char *text = (const char *)sqlite3_column_text(from, column);

    return text ? text : "";
}

void sql_copy(sqlite3_stmt *from, int column, char *ret, size_t size)
{
    (void)snprintf(ret, size, "%s", sql_text(from, column));
}
