/* A copy of files between a client and a running bottle (guest/files.h), over an exec's socket.
 *
 * Used by one thread, that of the request's connection; whoever waits does so on transfer_fd().
 * What the guest says is checked: a copy that is not all that was announced never looks whole. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "api/problem.h"
#include "base/text.h"
#include "server/app.h"

enum { TRANSFERS_MAX = 64 /* of all bottles together */ };

enum transfer_verb { TRANSFER_GET, TRANSFER_PUT, TRANSFER_PACK, TRANSFER_UNPACK, N_TRANSFER_VERBS };

struct transfer_plan {
    enum transfer_verb verb;
    const char *path, *mode, *owner; /* as guest/files.h has them; "" where it is left open */
};

/* What the guest said of a file before its bytes. */
struct transfer_head {
    bool sized;
    uint64_t size;
    unsigned mode, uid, gid;
    int64_t modified;
};

enum transfer_state {
    TRANSFER_WAITS, /* for the guest */
    TRANSFER_READY, /* the head is there, and bytes may be; of PUT and UNPACK: the guest has done it
                     */
    TRANSFER_FAILED,
};

struct transfer;

/* Begins one; NULL with a problem. */
struct transfer *transfer_new(struct app *app, const char *slug, const struct transfer_plan *plan,
                              struct problem *problem);
struct transfer *transfer_ref(struct transfer *transfer);
/* The last one's ends what has not ended. */
void transfer_unref(struct transfer *transfer);
const int *transfer_fd(const struct transfer *transfer);
/* How it stands; of TRANSFER_FAILED *problem says why. */
enum transfer_state transfer_look(struct transfer *transfer, struct problem *problem);

/* Input: how much was taken, or -1: no more is wanted, ask transfer_look(). */
ssize_t transfer_put(struct transfer *transfer, const char *bytes, size_t length);
/* All of it was given; then transfer_look() says how it ended. */
void transfer_end_input(struct transfer *transfer);

/* Output, once it is ready: as struct stream's `next`. */
const struct transfer_head *transfer_head(const struct transfer *transfer);
ssize_t transfer_next(void *context, char *out, size_t room);
/* What UNPACK did. */
void transfer_counts(const struct transfer *transfer, uint64_t ret[3]);
