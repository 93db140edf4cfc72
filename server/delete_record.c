#include "server/delete_record.h"

#include <stdio.h>

#include "base/json.h"
#include "base/util.h"
#include "server/log.h"
#include "server/row.h"

struct record {
    char slug[SLUG_MAX + 1];
    char *text;
};

static int apply(sqlite3 *db, void *context, struct error *err)
{
    const struct record *record = context;

    return row_set_cleanup(db, record->slug, record->text, err);
}

static char *encode(const struct cleanup_plan *plan)
{
    CLEANUP_JSON json_t *json = cleanup_encode(plan);

    return json ? json_text(json) : NULL;
}

static void begun(void *context, const struct error *failure)
{
    struct record *record = context;

    /* The next one after a crash then lists anew. */
    if (failure)
        log_event(LEVEL_WARNING, "a cleanup plan is not on record", LOG_TEXT("slug", record->slug),
                  LOG_TEXT("detail", failure->text));
    free(record->text);
    free(record);
}

void delete_record_begin(struct store *store, const char *slug, const struct cleanup_plan *plan)
{
    struct record *record = calloc(1, sizeof *record);

    if (!record || !(record->text = encode(plan))) {
        free(record);
        return;
    }
    (void)snprintf(record->slug, sizeof record->slug, "%s", slug);
    store_submit(store, &(struct store_write){apply, begun, record});
}

int delete_record(struct store *store, const char *slug, const struct cleanup_plan *plan,
                  struct error *err)
{
    struct record record = {.text = encode(plan)};

    if (!record.text)
        return error_set(err, NULL, "out of memory");
    (void)snprintf(record.slug, sizeof record.slug, "%s", slug);
    int result = store_write_now(store, apply, &record, err);
    free(record.text);
    return result;
}

static int recall(sqlite3 *db, void *context, struct error *err)
{
    struct record *record = context;

    record->text = row_cleanup(db, record->slug, err);
    return record->text ? 0 : -1;
}

int delete_recall(struct store *store, const char *slug, struct cleanup_plan *plan,
                  struct error *err)
{
    struct record record = {.text = NULL};

    (void)snprintf(record.slug, sizeof record.slug, "%s", slug);
    if (store_look(store, recall, &record, err) < 0)
        return -1;
    CLEANUP_JSON json_t *json =
        record.text[0] ? json_parse(record.text, strlen(record.text), err) : NULL;
    int result = record.text[0] ? -(!json || cleanup_decode(json, plan) < 0) : 0;
    free(record.text);
    return result < 0
               ? error_set(err, "store-failed", "the cleanup plan of %s can not be read", slug)
               : 0;
}
