/* The bottles in memory: immutable, reference-counted snapshots that readers take without waiting
 * for writers, and the reservations (slug, subnet, host ports) that make creation safe.
 *
 * The database is what was acknowledged; this is built from it at start and follows every commit.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/bottle.h"
#include "api/plan.h"
#include "backends/backend.h"
#include "server/request.h"
#include "server/row.h"

/* --- Plans: one per bottle, shared by its snapshots ------------------------------------------- */

struct plan_ref;

/* What a plan is resolved from, beside its spec. */
struct plan_facts {
    char slug[SLUG_MAX + 1], backend[24], engine[16], image[IMAGE_ID_SIZE];
    struct allocation allocation;
};

/* Around a plan that was just resolved and prepared; takes it over. NULL when memory is short (the
 * plan is freed). */
struct plan_ref *plan_ref_new(const struct host *host, const struct bottle_row *row,
                              struct plan *plan);
/* Around what the database holds; the plan is resolved when it is first asked for, so that
 * thousands of bottles cost nothing at start. Copies the strings. */
struct plan_ref *plan_ref_lazy(const struct host *host, const struct bottle_row *row,
                               const char *spec, const char *labels);
/* The same, not resolved: what a bottle at rest keeps. NULL when memory is short. */
struct plan_ref *plan_ref_unresolved(const struct plan_ref *ref);
/* For a reader: this one (+1 reference) if it is resolved, else one of the reader's own, so that
 * reading leaves nothing in memory. NULL when that is short. */
struct plan_ref *plan_ref_to_read(struct plan_ref *ref);
struct plan_ref *plan_ref_ref(struct plan_ref *ref);
void plan_ref_unref(struct plan_ref *ref);
/* The plan, resolved now if it was not yet; borrowed from `ref`. NULL: it can not be resolved any
 * more (its backend or this version's rules changed). From any thread. */
const struct plan *plan_ref_get(struct plan_ref *ref, struct error *err);

/* --- Snapshots -------------------------------------------------------------------------------- */

/* One bottle at one moment; everything in it is immutable. */
struct snapshot {
    atomic_uint references;
    uint64_t sequence;    /* creation order; the cursor of pages */
    struct bottle bottle; /* its strings are in `packed` and in the plan_ref */
    struct egress_totals egress;
    char guest_ip[16];
    struct plan_ref *plan;
    struct shared_bytes *json; /* the bottle object, serialised */
    const char *json_text;     /* the same bytes, borrowed from `json` */
    size_t json_length;
    char etag[48]; /* quoted, from sequence and generation */
    char packed[]; /* the row; see snapshot_row() */
};

/* Takes its own reference of `plan`. NULL when memory is short. */
struct snapshot *snapshot_new(const struct bottle_row *row, struct plan_ref *plan);
/* The whole row, as the engine goes on with it. */
void snapshot_row(const struct snapshot *snapshot, struct bottle_row *ret);
struct snapshot *snapshot_ref(struct snapshot *snapshot);
void snapshot_release(struct snapshot *snapshot);

/* --- The registry ----------------------------------------------------------------------------- */

struct registry;

struct registry_limits {
    size_t max_bottles;
    uint16_t port_first, port_last;
    unsigned loopbacks; /* how many addresses may have those ports; at least one */
};

struct registry *registry_new(const struct registry_limits *limits);
void registry_free(struct registry *registry);

struct snapshot *registry_get(struct registry *registry,
                              const char *slug); /* +1 reference, or NULL */
/* Up to `room` snapshots of a sequence above `after`, oldest first, each +1 reference. */
size_t registry_page(struct registry *registry, uint64_t after, struct snapshot **ret, size_t room);
size_t registry_count(struct registry *registry);
/* How many there are in each state. */
void registry_states(struct registry *registry, size_t ret[N_STATES]);

enum reservation {
    RESERVATION_MADE,
    RESERVATION_PENDING, /* a bottle of that name is being created: `waiter` hears of the outcome */
    RESERVATION_REFUSED, /* err: slug-taken, too-many-bottles, no-free-subnet, no-free-port */
};

/* Embedded in whatever waits; called once, on the thread that settled the other creation, which has
 * no lock held. Then registry_reserve is to be tried again. */
struct reservation_waiter {
    void (*settled)(struct reservation_waiter *waiter);
    struct reservation_waiter *next;
};

/* Reserves slug (made up, and set in the spec, when it has none), subnet and host ports, all or
 * nothing. */
enum reservation registry_reserve(struct registry *registry, struct spec *spec,
                                  struct allocation *ret, struct reservation_waiter *waiter,
                                  struct error *err);
/* Gives back a reservation that no snapshot was published for. */
void registry_unreserve(struct registry *registry, const char *slug);
/* At start: takes a stored row's slug, subnet and ports; -1 when another row has one of them. */
int registry_restore(struct registry *registry, const struct bottle_row *row, struct error *err);
/* Makes `snapshot` the present one of its (reserved) slug; takes the reference over. */
void registry_publish(struct registry *registry, struct snapshot *snapshot);
/* The bottle is no more: 404 from here on, and what it had reserved is free. */
void registry_remove(struct registry *registry, const char *slug);

/* What reserving would give right now, for a dry run: subnet and host ports that are free at this
 * moment, and reserves nothing. Whether the slug is taken is not looked at. -1 with kind
 * "no-free-subnet" or "no-free-port". */
int registry_provisional(struct registry *registry, const char *slug, const struct spec *spec,
                         struct allocation *ret, struct error *err);
/* Calls `act` while no bottle can be created, unless there is one, or one is being created, with
 * the slug `name` (`by_id`: with that plan_id()). 1: there is; else what `act` returned, which runs
 * under the lock: brief, and without a call in here. */
int registry_unless(struct registry *registry, bool by_id, const char *name,
                    int (*act)(void *context), void *context);
