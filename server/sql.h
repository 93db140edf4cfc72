/* Single SQL statements on the state database, for the files that have tables of their own: made,
 * bound by the caller, run to their end, and gone or kept. Errors are of the kind "store-failed".
 */
#pragma once

#include <sqlite3.h>
#include <stddef.h>

#include "base/error.h"

/* -1 with what SQLite says. */
int sql_failed(sqlite3 *db, struct error *err);
/* NULL with an error. The caller's, until sql_finish() or sqlite3_finalize(). */
sqlite3_stmt *sql_prepare(sqlite3 *db, const char *sql, struct error *err);
/* Runs a bound statement that gives no rows, and finalizes it. */
int sql_finish(sqlite3 *db, sqlite3_stmt *bound, struct error *err);
/* The statement of a text that is run often, made once; the store finalizes it with its database.
 * Whoever steps it by hand resets it. NULL with an error. */
sqlite3_stmt *sql_kept(sqlite3 *db, const char *sql, struct error *err);
/* Runs a kept and bound statement that gives no rows, and makes it ready for its next use. */
int sql_run(sqlite3 *db, sqlite3_stmt *kept, struct error *err);
/* A column's text, "" for NULL; the statement's, until its next step. */
const char *sql_text(sqlite3_stmt *from, int column);
/* The same, cut to `size` with its NUL. */
void sql_copy(sqlite3_stmt *from, int column, char *ret, size_t size);
