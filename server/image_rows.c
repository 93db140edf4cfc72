#include "server/image_rows.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/util.h"
#include "server/sql.h"

int image_insert(sqlite3 *db, const struct image *image, struct error *err)
{
    CLEANUP_JSON json_t *config = image_config_encode(&image->config);
    if (config && image->config.user_numbers)
        (void)json_object_set_new(config, "UserNumbers", json_string(image->config.user_numbers));
    CLEANUP_FREE char *text = config ? json_text(config) : NULL;
    sqlite3_stmt *bound =
        text ? sql_prepare(db,
                           "INSERT INTO images (id, source, digest, manifest, bytes, files, config,"
                           " created_ms) VALUES (?,?,?,?,?,?,?,?)",
                           err)
             : NULL;
    const char *const words[] = {image->id, image->source, image->digest, image->manifest};

    if (!text)
        return error_set(err, NULL, "out of memory");
    if (!bound)
        return -1;
    for (size_t i = 0; i < COUNT_OF(words); i++)
        (void)sqlite3_bind_text(bound, (int)i + 1, words[i], -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(bound, 5, image->bytes);
    (void)sqlite3_bind_int64(bound, 6, image->files);
    (void)sqlite3_bind_text(bound, 7, text, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(bound, 8, image->created_ms);
    return sql_finish(db, bound, err);
}

int image_delete(sqlite3 *db, const char *id, struct error *err)
{
    sqlite3_stmt *bound = sql_prepare(db, "DELETE FROM images WHERE id = ?", err);

    if (!bound)
        return -1;
    (void)sqlite3_bind_text(bound, 1, id, -1, SQLITE_STATIC);
    return sql_finish(db, bound, err);
}

static struct image *read_image(sqlite3_stmt *from, struct error *err)
{
    const char *text = sql_text(from, 6);
    CLEANUP_JSON json_t *config = json_parse(text, strlen(text), err);
    struct image *image = image_new();

    if (!config || !image || image_config_decode(config, &image->config, err) < 0) {
        image_unref(image);
        return NULL;
    }
    sql_copy(from, 0, image->id, sizeof image->id);
    sql_copy(from, 1, image->source, sizeof image->source);
    sql_copy(from, 2, image->digest, sizeof image->digest);
    sql_copy(from, 3, image->manifest, sizeof image->manifest);
    image->bytes = sqlite3_column_int64(from, 4);
    image->files = sqlite3_column_int64(from, 5);
    image->created_ms = sqlite3_column_int64(from, 7);
    return image;
}

int images_load(sqlite3 *db, image_visit *visit, void *context, struct error *err)
{
    sqlite3_stmt *from = sql_prepare(db,
                                     "SELECT id, source, digest, manifest, bytes, files, config,"
                                     " created_ms FROM images ORDER BY sequence",
                                     err);
    int step = SQLITE_DONE, result = from ? 0 : -1;

    while (result == 0 && (step = sqlite3_step(from)) == SQLITE_ROW) {
        struct image *image = read_image(from, err);
        result = image ? visit(image, context, err) : -1;
    }
    if (result == 0 && step != SQLITE_DONE)
        result = sql_failed(db, err);
    (void)sqlite3_finalize(from);
    return result;
}
