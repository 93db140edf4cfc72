/* The SQL of the table `idempotency`: what requests with an Idempotency-Key were answered.
 *
 * A row is made when a request is begun that must not be carried out twice (status 0; `slug` names
 * what it made, as far as it came), and gets its answer in the transaction that answers. */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/spec.h"
#include "base/error.h"
#include "base/hash.h"

enum { IDEMPOTENCY_KEY_SIZE = 256, IDEMPOTENCY_ANSWER_MAX = 64 * 1024 };

struct idempotency_row {
    char key[IDEMPOTENCY_KEY_SIZE];
    char fingerprint[SHA256_HEX_SIZE]; /* of the whole request, and of who sent it */
    char slug[SLUG_MAX + 1];           /* "": it made nothing, or is answered */
    uint64_t sequence;                 /* the bottle's: another may have that name by now */
    int64_t clock_ms;                  /* when it was begun, on the host's clock */
    int status;                        /* 0: it is not answered */
    char *headers;                     /* JSON: [["Name", "value"], …] */
    char *body;
    size_t body_length;
};

/* How many rows may be there, and how old one may be. */
struct idempotency_bounds {
    int64_t rows, age_ms;
};

void idempotency_row_free(struct idempotency_row *row);
/* 1: found; 0: there is none, or it is too old at `clock_ms`. Release what was found. */
int idempotency_row_find(sqlite3 *db, const char *key, const struct idempotency_bounds *bounds,
                         int64_t clock_ms, struct idempotency_row *ret, struct error *err);
/* Writes the row, in the place of an earlier one, and lets go of those beyond the bounds. */
int idempotency_row_put(sqlite3 *db, const struct idempotency_row *row,
                        const struct idempotency_bounds *bounds, struct error *err);
int idempotency_row_delete(sqlite3 *db, const char *key, struct error *err);
