/* The registry: a hash by slug, an array in order of creation, and bitmaps of what is reserved.
 *
 * One mutex guards it all and is held for lookups and pointer swaps only (reserving also tries to
 * bind the host ports it is about to give out); snapshots are made before it is taken and freed
 * after it was left. Readers leave with a reference and never wait for a writer's disk.
 *
 * Lock order of the daemon: every lock is a leaf. The registry's mutex, a plan_ref's, the engine's
 * queue and job queue, and the store's queue are each taken with no other of them held; callbacks
 * (reservation waiters, store writes, engine answers) run with none held. The store's db_lock is
 * held while `apply` runs, and `apply` takes none.
 *
 * An entry is made by registry_reserve() without a snapshot: it exists for other creators, not for
 * readers. Its creator either publishes a snapshot or gives it back; whoever wanted the same slug
 * meanwhile waits for that, so that nobody is told "taken" by a name that GET does not know. */
#include "server/registry.h"

#include <pthread.h>
#include <uthash.h>

#include "base/util.h"

struct entry {
    char slug[SLUG_MAX + 1];
    char id[PLAN_ID_SIZE];
    struct allocation allocation;
    struct snapshot *snapshot; /* NULL: being created */
    struct reservation_waiter *waiters;
    UT_hash_handle hh;
};

/* Of one loopback address. */
struct ports {
    size_t count; /* of those in the configured range */
    uint64_t taken[65536 / 64];
};

struct registry {
    pthread_mutex_t lock;
    struct registry_limits limits;
    struct entry *entries;
    struct entry **ordered; /* those with a snapshot, by sequence */
    size_t n_ordered, room;
    size_t in_state[N_STATES]; /* of those with a snapshot */
    uint64_t subnets[(SUBNETS_MAX + 63) / 64];
    struct ports *loopbacks[LOOPBACKS_MAX]; /* NULL: none of its ports was ever taken */
};

struct registry *registry_new(const struct registry_limits *limits)
{
    struct registry *registry = calloc(1, sizeof *registry);

    if (!registry)
        return NULL;
    registry->limits = *limits;
    (void)pthread_mutex_init(&registry->lock, NULL);
    return registry;
}

void registry_free(struct registry *registry)
{
    struct entry *entry, *next;

    if (!registry)
        return;
    HASH_ITER(hh, registry->entries, entry, next)
    {
        HASH_DEL(registry->entries, entry);
        snapshot_release(entry->snapshot);
        free(entry);
    }
    free(registry->ordered);
    for (size_t i = 0; i < LOOPBACKS_MAX; i++)
        free(registry->loopbacks[i]);
    (void)pthread_mutex_destroy(&registry->lock);
    free(registry);
}

/* --- Bitmaps ---------------------------------------------------------------------------------- */

static bool bit_get(const uint64_t *map, unsigned bit)
{
    return map[bit / 64] >> (bit % 64) & 1;
}

static void bit_set(uint64_t *map, unsigned bit, bool value)
{
    uint64_t mask = UINT64_C(1) << (bit % 64);

    if (value)
        map[bit / 64] |= mask;
    else
        map[bit / 64] &= ~mask;
}

static bool is_subnet_taken(unsigned subnet, void *context)
{
    const struct registry *registry = context;

    return subnet >= SUBNETS_MAX || bit_get(registry->subnets, subnet);
}

static bool is_port_taken(uint16_t port, void *context)
{
    const struct ports *ports = context;

    return ports && bit_get(ports->taken, port);
}

static void mark(struct registry *registry, const struct allocation *allocation, bool taken)
{
    struct ports *ports = registry->loopbacks[allocation->loopback];

    bit_set(registry->subnets, allocation->subnet, taken);
    for (size_t i = 0; i < FORWARDS_MAX; i++) {
        if (!allocation->host_ports[i])
            continue;
        bit_set(ports->taken, allocation->host_ports[i], taken);
        /* A bottle of a former configuration may have another. */
        if (allocation->host_ports[i] >= registry->limits.port_first &&
            allocation->host_ports[i] <= registry->limits.port_last)
            ports->count += taken ? 1 : SIZE_MAX;
    }
}

/* On the first loopback address that has as many. */
static int pick_ports(struct registry *registry, size_t count, unsigned *ret_loopback,
                      uint16_t *ret_ports, struct error *err)
{
    const struct registry_limits *limits = &registry->limits;
    const size_t range = (size_t)limits->port_last - limits->port_first + 1;

    for (unsigned i = 0; i < limits->loopbacks; i++) {
        struct ports *ports = registry->loopbacks[i];
        struct error why = ERROR_INIT;
        if (ports && ports->count + count > range)
            continue;
        *ret_loopback = i;
        if (ports_pick(i, limits->port_first, limits->port_last, count, is_port_taken, ports,
                       ret_ports, &why) == 0)
            return 0;
        if (!why.kind) { /* something else than that they are taken */
            *err = why;
            return -1;
        }
    }
    return error_set(err, "no-free-port",
                     "%zu host ports are needed and there are not as many free among %u-%u: delete "
                     "a bottle, or widen host_ports or raise host_addresses in the configuration",
                     count, limits->port_first, limits->port_last);
}

/* Chooses without marking. */
static int pick(struct registry *registry, const char *slug, const struct spec *spec,
                struct allocation *ret, struct error *err)
{
    struct allocation picked = {0};
    uint16_t ports[FORWARDS_MAX];
    size_t count = 0;

    for (unsigned i = 0; i < N_SIDECARS; i++)
        count += sidecar_active(spec, (enum sidecar)i);
    if (subnet_pick(slug, is_subnet_taken, registry, &picked.subnet, err) < 0 ||
        pick_ports(registry, count, &picked.loopback, ports, err) < 0)
        return -1;
    for (unsigned i = 0, next = 0; i < N_SIDECARS; i++)
        if (sidecar_active(spec, (enum sidecar)i))
            picked.host_ports[i] = ports[next++];
    *ret = picked;
    return 0;
}

/* --- Reservations ----------------------------------------------------------------------------- */

static struct entry *find(const struct registry *registry, const char *slug)
{
    struct entry *entry;

    HASH_FIND_STR(registry->entries, slug, entry);
    return entry;
}

static struct entry *entry_add(struct registry *registry, const char *slug,
                               const struct allocation *allocation)
{
    struct ports **ports = &registry->loopbacks[allocation->loopback];
    struct entry *entry = calloc(1, sizeof *entry);
    size_t length = strlen(slug);

    if (!*ports)
        *ports = calloc(1, sizeof **ports);
    if (!*ports || !entry || length >= sizeof entry->slug) {
        free(entry);
        return NULL;
    }
    memcpy(entry->slug, slug, length + 1);
    plan_id(slug, entry->id);
    entry->allocation = *allocation;
    HASH_ADD_STR(registry->entries, slug, entry);
    mark(registry, allocation, true);
    return entry;
}

/* Sets a slug that nobody has. */
static int make_slug(const struct registry *registry, struct spec *spec, struct error *err)
{
    char slug[SLUG_MAX + 1];

    do
        slug_make(slug);
    while (find(registry, slug));
    spec->slug = strdup(slug);
    return spec->slug ? 0 : error_set(err, NULL, "out of memory");
}

static enum reservation refuse_taken(struct entry *entry, struct reservation_waiter *waiter,
                                     struct error *err)
{
    if (!entry->snapshot) {
        waiter->next = entry->waiters;
        entry->waiters = waiter;
        return RESERVATION_PENDING;
    }
    enum bottle_state state = entry->snapshot->bottle.state;
    error_set(err, "slug-taken", "a bottle named %s exists (it is %s); %s", entry->slug,
              states[state].name,
              state == STATE_DELETING ? "wait until it is deleted, or take another slug"
                                      : "take another slug, or delete it first");
    return RESERVATION_REFUSED;
}

static enum reservation reserve(struct registry *registry, struct spec *spec,
                                struct allocation *ret, struct reservation_waiter *waiter,
                                struct error *err)
{
    struct allocation picked;
    struct entry *entry = spec->slug ? find(registry, spec->slug) : NULL;

    if (entry)
        return refuse_taken(entry, waiter, err);
    if (HASH_COUNT(registry->entries) >= registry->limits.max_bottles) {
        error_set(
            err, "too-many-bottles",
            "there are %zu bottles, as many as this daemon may have (max_bottles); delete some "
            "or raise the limit",
            registry->limits.max_bottles);
        return RESERVATION_REFUSED;
    }
    if (!spec->slug && make_slug(registry, spec, err) < 0)
        return RESERVATION_REFUSED;
    if (pick(registry, spec->slug, spec, &picked, err) < 0)
        return RESERVATION_REFUSED;
    if (!entry_add(registry, spec->slug, &picked)) {
        error_set(err, NULL, "out of memory");
        return RESERVATION_REFUSED;
    }
    *ret = picked;
    return RESERVATION_MADE;
}

enum reservation registry_reserve(struct registry *registry, struct spec *spec,
                                  struct allocation *ret, struct reservation_waiter *waiter,
                                  struct error *err)
{
    (void)pthread_mutex_lock(&registry->lock);
    enum reservation result = reserve(registry, spec, ret, waiter, err);
    (void)pthread_mutex_unlock(&registry->lock);
    return result;
}

int registry_provisional(struct registry *registry, const char *slug, const struct spec *spec,
                         struct allocation *ret, struct error *err)
{
    (void)pthread_mutex_lock(&registry->lock);
    int result = pick(registry, slug, spec, ret, err);
    (void)pthread_mutex_unlock(&registry->lock);
    return result;
}

int registry_restore(struct registry *registry, const struct bottle_row *row, struct error *err)
{
    const struct allocation *allocation = &row->allocation;
    int result = 0;

    (void)pthread_mutex_lock(&registry->lock);
    bool clash = is_subnet_taken(allocation->subnet, registry);
    clash = clash || allocation->loopback >= LOOPBACKS_MAX;
    for (size_t i = 0; i < FORWARDS_MAX && !clash; i++)
        clash = allocation->host_ports[i] &&
                is_port_taken(allocation->host_ports[i], registry->loopbacks[allocation->loopback]);
    if (clash || find(registry, row->slug))
        result = error_set(err, "store-failed",
                           "the state database gives bottle %s a subnet or a port that another has",
                           row->slug);
    else if (!entry_add(registry, row->slug, allocation))
        result = error_set(err, NULL, "out of memory");
    (void)pthread_mutex_unlock(&registry->lock);
    return result;
}

static void settle(struct reservation_waiter *waiter)
{
    while (waiter) {
        struct reservation_waiter *next = waiter->next;
        waiter->settled(waiter);
        waiter = next;
    }
}

/* Index of the first ordered entry above `after`. */
static size_t position_after(const struct registry *registry, uint64_t after)
{
    size_t low = 0, high = registry->n_ordered;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (registry->ordered[middle]->snapshot->sequence <= after)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Takes an entry out, with what it had reserved. The caller frees it once the lock is left. */
static struct entry *take_out(struct registry *registry, const char *slug)
{
    struct entry *entry = find(registry, slug);

    if (!entry)
        return NULL;
    if (entry->snapshot) {
        size_t at = position_after(registry, entry->snapshot->sequence) - 1;
        registry->n_ordered--;
        memmove(registry->ordered + at, registry->ordered + at + 1,
                (registry->n_ordered - at) * sizeof *registry->ordered);
    }
    HASH_DEL(registry->entries, entry);
    mark(registry, &entry->allocation, false);
    return entry;
}

void registry_remove(struct registry *registry, const char *slug)
{
    (void)pthread_mutex_lock(&registry->lock);
    struct entry *entry = take_out(registry, slug);
    if (entry && entry->snapshot)
        registry->in_state[entry->snapshot->bottle.state]--;
    (void)pthread_mutex_unlock(&registry->lock);
    if (!entry)
        return;
    settle(entry->waiters);
    snapshot_release(entry->snapshot);
    free(entry);
}

void registry_unreserve(struct registry *registry, const char *slug)
{
    registry_remove(registry, slug);
}

/* --- Publishing and reading ------------------------------------------------------------------- */

/* Room is made ahead, so that an entry with a snapshot is always in the order too. */
static bool order_add(struct registry *registry, struct entry *entry, uint64_t sequence)
{
    if (registry->n_ordered == registry->room) {
        size_t room = registry->room ? registry->room * 2 : 256;
        struct entry **larger = realloc(registry->ordered, room * sizeof *larger);
        if (!larger)
            return false;
        registry->ordered = larger;
        registry->room = room;
    }
    size_t at = position_after(registry, sequence);
    memmove(registry->ordered + at + 1, registry->ordered + at,
            (registry->n_ordered - at) * sizeof *registry->ordered);
    registry->ordered[at] = entry;
    registry->n_ordered++;
    return true;
}

void registry_publish(struct registry *registry, struct snapshot *snapshot)
{
    struct snapshot *old = snapshot;
    struct reservation_waiter *waiters = NULL;

    (void)pthread_mutex_lock(&registry->lock);
    struct entry *entry = find(registry, snapshot->bottle.slug);
    if (entry && (entry->snapshot || order_add(registry, entry, snapshot->sequence))) {
        old = entry->snapshot;
        if (old)
            registry->in_state[old->bottle.state]--;
        registry->in_state[snapshot->bottle.state]++;
        entry->snapshot = snapshot;
        waiters = entry->waiters;
        entry->waiters = NULL;
    }
    (void)pthread_mutex_unlock(&registry->lock);
    settle(waiters);
    snapshot_release(old);
}

struct snapshot *registry_get(struct registry *registry, const char *slug)
{
    struct snapshot *snapshot = NULL;

    (void)pthread_mutex_lock(&registry->lock);
    const struct entry *entry = find(registry, slug);
    if (entry && entry->snapshot)
        snapshot = snapshot_ref(entry->snapshot);
    (void)pthread_mutex_unlock(&registry->lock);
    return snapshot;
}

size_t registry_page(struct registry *registry, uint64_t after, struct snapshot **ret, size_t room)
{
    size_t count = 0;

    (void)pthread_mutex_lock(&registry->lock);
    for (size_t i = position_after(registry, after); i < registry->n_ordered && count < room; i++)
        ret[count++] = snapshot_ref(registry->ordered[i]->snapshot);
    (void)pthread_mutex_unlock(&registry->lock);
    return count;
}

void registry_states(struct registry *registry, size_t ret[N_STATES])
{
    (void)pthread_mutex_lock(&registry->lock);
    memcpy(ret, registry->in_state, sizeof registry->in_state);
    (void)pthread_mutex_unlock(&registry->lock);
}

size_t registry_count(struct registry *registry)
{
    (void)pthread_mutex_lock(&registry->lock);
    size_t count = registry->n_ordered;
    (void)pthread_mutex_unlock(&registry->lock);
    return count;
}

static struct entry *find_by_id(const struct registry *registry, const char *id)
{
    struct entry *entry, *next;

    HASH_ITER(hh, registry->entries, entry, next)
    {
        if (strcmp(entry->id, id) == 0)
            return entry;
    }
    return NULL;
}

int registry_unless(struct registry *registry, bool by_id, const char *name,
                    int (*act)(void *context), void *context)
{
    (void)pthread_mutex_lock(&registry->lock);
    const struct entry *found = by_id ? find_by_id(registry, name) : find(registry, name);
    int result = found ? 1 : act(context);
    (void)pthread_mutex_unlock(&registry->lock);
    return result;
}
