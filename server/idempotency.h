/* Idempotency-Key, on every POST: the same request sent again is answered again and not carried out
 * again.
 *
 * A request with a key has a claim from its dispatch until its answer is on record; meanwhile
 * another of that key is 409 "idempotency-in-progress": clients come back, nobody is kept waiting.
 * Afterwards the table `idempotency` knows it: the same request (method, target, body, and who sent
 * it; a digest of all of that is kept) gets the first answer again, another is 422.
 *
 * When the record is written depends on what the route does (route_retry() in routes.h):
 *   RETRY_WRITES  makes something in the store: in the transaction that makes it. A create that
 *                 also starts and waits leaves a record of what it made; sent again after a crash
 *                 it goes on from there.
 *   RETRY_ONCE    does something that must not be done twice: a record that it was begun comes
 *                 first. Found after a crash, or when the client left, it says just that: 409
 *                 "idempotency-unknown".
 *   RETRY_AGAIN   may be done twice without a difference: with the answer.
 *   RETRY_UNKEPT  is answered with a secret, which is in no record: the key means nothing.
 * The answer is sent once its record is on the disk. Answers of 429 and 5xx are not kept: those
 * requests may be sent again with the same key, and are carried out then; but for one of RETRY_ONCE
 * that was done all the same (a restart whose bottle does not come up in time), of which the record
 * stays that it was begun. Neither is an answer of
 * more than IDEMPOTENCY_ANSWER_MAX bytes: what is left is that the request was carried out. */
#pragma once

#include <microhttpd.h>

#include "server/idempotency_rows.h"
#include "server/request.h"

struct http;
struct key_claim;
struct snapshot;

enum claim_verdict {
    CLAIM_GO,      /* the handler is to be asked */
    CLAIM_WAITS,   /* a record is being written: call again once the connection is resumed */
    CLAIM_REFUSED, /* request->early says why */
    CLAIM_REPLAYS, /* idempotency_replay() answers */
};

/* Of a request whose body is there. Without the header it is CLAIM_GO. */
enum claim_verdict idempotency_claim(struct request *request);
/* Under http->lock: is its record still being written? */
bool idempotency_waits(const struct request *request);
void idempotency_replay(struct request *request);
/* For the handler of a RETRY_ONCE route: from here on it is done, whatever the answer will be. */
void idempotency_done(struct request *request);
/* The request is freed: lets go of a claim that was not answered. NULL is fine. */
void idempotency_drop(struct key_claim *claim);

/* In place of http_deliver() for a request with a claim: keeps the answer, then delivers it. */
void idempotency_answer(struct request *request, unsigned status, const char *content_type,
                        const char *bytes, size_t length, struct MHD_Response *response);
/* A stream whose bytes are the answer: one that keeps them as they pass, and ends once they are on
 * record. It takes the claim and `stream` over. NULL: no memory, and both are as they were. */
struct stream *idempotency_stream(struct request *request, unsigned status,
                                  const char *content_type, const struct stream *stream);

/* For the handler of a RETRY_WRITES route. The bottle that an earlier request of this key made, and
 * its number: then it is not to be made again. "": none, or it is no more. */
const char *idempotency_made(const struct request *request, uint64_t *ret_sequence);
/* Inside the transaction that makes it; a request without a claim is fine. `status` 0: the answer
 * comes later. */
int idempotency_record(sqlite3 *db, struct request *request, const struct snapshot *made,
                       unsigned status, struct error *err);
