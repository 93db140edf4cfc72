/* The SQL of the table `images`: those that are ready. */
#pragma once

#include <sqlite3.h>

#include "api/image.h"

int image_insert(sqlite3 *db, const struct image *image, struct error *err);
int image_delete(sqlite3 *db, const char *id, struct error *err);
typedef int image_visit(struct image *image, void *context, struct error *err);
/* Every image, oldest first; the reference goes to `visit`. */
int images_load(sqlite3 *db, image_visit *visit, void *context, struct error *err);
