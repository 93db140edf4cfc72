#include "server/host_clock.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/util.h"
#include "server/sql.h"

/* What CLOCK_BOOTTIME lacks to this clock. */
static atomic_int_fast64_t offset_ms;

static int64_t boottime_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t host_clock_ms(void)
{
    return boottime_ms() + atomic_load(&offset_ms);
}

int64_t host_clock_to_wall(int64_t clock_ms)
{
    return clock_wall_ms() + clock_ms - host_clock_ms();
}

/* The boot's id as a number. */
static int boot_number(int64_t *ret, struct error *err)
{
    CLEANUP_FREE char *id = file_read("/proc/sys/kernel/random/boot_id", 64, NULL, err);
    char hex[SHA256_HEX_SIZE], *end;

    if (!id)
        return -1;
    sha256_hex(id, strlen(id), hex);
    hex[15] = '\0';
    *ret = strtoll(hex, &end, 16);
    return 0;
}

static int64_t meta_get(sqlite3 *db, const char *name)
{
    sqlite3_stmt *bound = NULL;
    int64_t value = 0;

    if (sqlite3_prepare_v2(db, "SELECT value FROM meta WHERE name = ?", -1, &bound, NULL) ==
        SQLITE_OK) {
        (void)sqlite3_bind_text(bound, 1, name, -1, SQLITE_STATIC);
        if (sqlite3_step(bound) == SQLITE_ROW)
            value = sqlite3_column_int64(bound, 0);
    }
    (void)sqlite3_finalize(bound);
    return value;
}

static int meta_set(sqlite3 *db, const char *name, int64_t value, struct error *err)
{
    sqlite3_stmt *bound = sql_prepare(db,
                                      "INSERT INTO meta (name, value) VALUES (?, ?)"
                                      " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                                      err);

    if (!bound)
        return -1;
    (void)sqlite3_bind_text(bound, 1, name, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(bound, 2, value);
    return sql_finish(db, bound, err);
}

static int open_apply(sqlite3 *db, void *context, struct error *err)
{
    bool *new_boot = context;
    int64_t boot, known = meta_get(db, "clock_boot");
    int64_t now = boottime_ms(), kept = meta_get(db, "clock_kept_ms");
    int64_t offset = meta_get(db, "clock_offset_ms");

    if (boot_number(&boot, err) < 0)
        return -1;
    *new_boot = known != 0 && known != boot;
    /* It never goes back, whatever the boot's id says. */
    if (known != boot || now + offset < kept)
        offset = kept - now;
    atomic_store(&offset_ms, offset);
    return meta_set(db, "clock_boot", boot, err) < 0 ||
                   meta_set(db, "clock_offset_ms", offset, err) < 0
               ? -1
               : meta_set(db, "clock_kept_ms", now + offset, err);
}

int host_clock_open(struct store *store, bool *ret_new_boot, struct error *err)
{
    return store_read(store, open_apply, ret_new_boot, err);
}

static int keep_apply(sqlite3 *db, void *context, struct error *err)
{
    (void)context;
    return meta_set(db, "clock_kept_ms", host_clock_ms(), err);
}

/* One that could not be kept is kept the next time: the store has told of it. */
static void keep_done(void *context, const struct error *failure)
{
    (void)context, (void)failure;
}

void host_clock_keep(struct store *store)
{
    store_submit(store, &(struct store_write){keep_apply, keep_done, NULL});
}
