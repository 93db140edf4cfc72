/* The tables of a plan and of an exec as flat lists with pointers: what GET /limits shows and what
 * the tests compare with openapi.yaml. Made once, on first use. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "api/exec_spec.h"
#include "api/spec.h"
#include "base/util.h"

enum { ROWS_MAX = 64, POINTER_MAX = 64 };

static struct table {
    struct spec_field rows[ROWS_MAX];
    char pointers[ROWS_MAX][POINTER_MAX];
    size_t n_rows;
} plan, exec;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool has_bounds(const struct field *row)
{
    return !(row->flags & FIELD_UNSUPPORTED) && row->type != FIELD_BOOLEAN &&
           (row->type != FIELD_OBJECT || row->max > 0);
}

static void flatten(struct table *table, const struct field *row, const char *parent)
{
    CLEANUP_FREE char *pointer = field_pointer(parent, row->name);

    if (table->n_rows == ROWS_MAX || !pointer || strlen(pointer) >= POINTER_MAX)
        abort(); /* the table outgrew this file's bounds: any test that reads a row sees it */
    memcpy(table->pointers[table->n_rows], pointer, strlen(pointer) + 1);
    table->rows[table->n_rows] = (struct spec_field){
        .pointer = table->pointers[table->n_rows],
        .type = field_type_name(row->type),
        .minimum = has_bounds(row) ? row->min : -1,
        .maximum = has_bounds(row) ? row->max : -1,
        .total = row->total ? row->total : -1,
        .or_object = row->type == FIELD_STRING && row->n_fields > 0,
        .pattern = row->pattern,
        .names = row->names ? row->names->pattern : NULL,
        .names_maximum = row->names ? row->names->max : -1,
        .values = row->values,
        .fallback = row->fallback,
        .fallback_number = row->fallback_number,
        .required = (row->flags & FIELD_REQUIRED) != 0,
        .unsupported = (row->flags & FIELD_UNSUPPORTED) != 0,
        .doc = row->doc,
    };
    table->n_rows++;
    for (size_t i = 0; i < row->n_fields; i++)
        flatten(table, &row->fields[i], pointer);
    if (row->item)
        flatten(table, row->item, pointer);
}

static void make(void)
{
    size_t count;
    const struct field *fields = spec_rows(&count);

    for (size_t i = 0; i < count; i++)
        flatten(&plan, &fields[i], "");
    fields = exec_spec_rows(&count);
    for (size_t i = 0; i < count; i++)
        flatten(&exec, &fields[i], "");
}

const struct spec_field *spec_fields(size_t *ret_count)
{
    (void)pthread_once(&once, make);
    *ret_count = plan.n_rows;
    return plan.rows;
}

/* Sets a member that a row may lack. */
static void set_bound(json_t *object, const char *name, int64_t bound)
{
    if (bound >= 0)
        (void)json_object_set_new(object, name, json_integer(bound));
}

static void set_words(json_t *object, const char *name, const char *words)
{
    if (words)
        (void)json_object_set_new(object, name, json_string(words));
}

static json_t *encode_row(const struct spec_field *row)
{
    json_t *ret = json_object();

    set_words(ret, "pointer", row->pointer);
    set_words(ret, "type", row->type);
    if (row->or_object)
        (void)json_object_set_new(ret, "or_object", json_true());
    (void)json_object_set_new(ret, "required", json_boolean(row->required));
    (void)json_object_set_new(ret, "supported", json_boolean(!row->unsupported));
    set_bound(ret, "minimum", row->minimum);
    set_bound(ret, "maximum", row->maximum);
    set_bound(ret, "total_bytes", row->total);
    set_words(ret, "pattern", row->pattern);
    set_words(ret, "names_pattern", row->names);
    set_bound(ret, "names_maximum", row->names_maximum);
    if (row->values) {
        json_t *values = json_array();
        for (const char *const *v = row->values; *v; v++)
            (void)json_array_append_new(values, json_string(*v));
        (void)json_object_set_new(ret, "values", values);
    }
    set_words(ret, "default", row->fallback);
    if (row->fallback_number > 0)
        set_bound(ret, "default", row->fallback_number);
    set_words(ret, "description", row->doc);
    return ret;
}

static json_t *encode(const struct table *table)
{
    (void)pthread_once(&once, make);
    json_t *ret = json_array();

    for (size_t i = 0; i < table->n_rows; i++) {
        if (json_array_append_new(ret, encode_row(&table->rows[i])) == 0)
            continue;
        json_decref(ret);
        return NULL;
    }
    return ret;
}

json_t *spec_fields_encode(void)
{
    return encode(&plan);
}

json_t *exec_fields_encode(void)
{
    return encode(&exec);
}
