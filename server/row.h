/* A bottle as the database has it, and the SQL of the tables `bottles` and `events`.
 *
 * A row is plain memory: it is copied into every write and every snapshot. The functions run on the
 * store's writer thread (or before it starts) and take the store's handle. */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "api/bottle.h"
#include "api/plan.h"
#include "base/error.h"

enum { REASON_SIZE = 512, TOKEN_SIZE = 33 };

/* What a bottle's proxy let through and refused, since the bottle was last started. */
struct egress_totals {
    int64_t allowed, denied, bytes_out, bytes_in;
};

enum { ROW_BACKEND_REASON, ROW_BOOT_REASON, ROW_REASON, N_ROW_WORDS };

struct bottle_row {
    uint64_t sequence; /* creation order, given by the database, never used twice */
    char slug[SLUG_MAX + 1];
    char backend[24];          /* never "auto" */
    char accelerator[16];      /* "" when the backend names none */
    char boot[12];             /* "template", "cold"; "": not yet */
    char engine[16];           /* the egress proxy's; "" of rows from before it was kept */
    char image[IMAGE_ID_SIZE]; /* "" for the built-in one; never changes */
    struct allocation allocation;
    enum bottle_state state;
    bool has_exit_code;
    int exit_code;
    bool keep_logs; /* of a delete that is under way */
    int64_t created_ms, updated_ms, started_ms, finished_ms;
    int64_t generation, boots;
    /* Its end (server/ttl.h) and its next start (server/restart.h): on the host's clock, which
     * counts, and on the wall's, to be shown. 0: none. */
    int64_t expires_clock_ms, expires_ms;
    int64_t restart_clock_ms, restart_ms;
    int64_t restarts; /* by itself, since a client started it */
    int64_t retries;  /* of those, in a row without a healthy run */
    bool again;       /* once it has stopped it is to be started again */
    struct egress_totals egress;
    /* The stored spec is newer than what the supervisor is known to have; the one before is kept
     * beside it. */
    bool egress_pending;
    /* The supervisor, while the state is a live one. pid 0 with a token: it was about to be
     * spawned. */
    pid_t shim_pid;
    uint64_t shim_start_time;
    char shim_token[TOKEN_SIZE];
    /* Last: a snapshot keeps them without their room. */
    union {
        struct {
            char backend_reason[REASON_SIZE]; /* why this backend and accelerator */
            char boot_reason[REASON_SIZE];    /* why a cold one is none from a template */
            char reason[REASON_SIZE];         /* of the state; "" when there is none */
        };
        char words[N_ROW_WORDS][REASON_SIZE];
    };
};

/* Copies words, cut at a whole character. */
void reason_copy(char ret[REASON_SIZE], const char *words);

/* Schema versions in order; the store applies what a database lacks. */
extern const char *const row_migrations[];
extern const int n_row_migrations;

/* Inserts and sets row->sequence. `spec` and `labels` are JSON. */
int row_insert(sqlite3 *db, struct bottle_row *row, const char *spec, const char *labels,
               struct error *err);
/* Writes what can change, but the spec. Unless row->egress_pending, the spec before is forgotten.
 */
int row_update(sqlite3 *db, const struct bottle_row *row, struct error *err);
/* Replaces the spec and what is made of it. `keep_before`: the present one is kept beside it, until
 * a row_update that is not pending. */
int row_set_spec(sqlite3 *db, const char *slug, const char *spec, const char *labels,
                 bool keep_before, struct error *err);
/* The cleanup plan of a row that says `deleting`, with the outcomes so far: JSON, "" for none.
 * row_cleanup: the caller frees; NULL with err. */
int row_set_cleanup(sqlite3 *db, const char *slug, const char *plan, struct error *err);
char *row_cleanup(sqlite3 *db, const char *slug, struct error *err);
int row_delete(sqlite3 *db, const char *slug, struct error *err);
/* `detail` is JSON or NULL. */
int event_insert(sqlite3 *db, int64_t time_ms, const char *slug, const char *type,
                 const char *detail, struct error *err);
/* The event "bottle.<state>" of a row that was just written, with reason and exit code. */
int event_insert_state(sqlite3 *db, const struct bottle_row *row, struct error *err);

/* `before`: the spec before, NULL when there is none. */
typedef int row_visit(const struct bottle_row *row, const char *spec, const char *labels,
                      const char *before, void *context, struct error *err);
/* Every row, oldest first; the strings are borrowed for the call. Stops at the first -1. */
int rows_load(sqlite3 *db, row_visit *visit, void *context, struct error *err);
