/* The table walker: see field.h.
 *
 * A `place` is the path from the root to a value, as a chain of stack frames; it becomes a pointer
 * only when there is a fault to report. Text that a client chose is cut before it is shown: names
 * longer than SHOWN_MAX are left out of pointers, which then name the parent. */
#include "api/field.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "base/util.h"
#include "renderers/config.h"

enum { SHOWN_MAX = 256, EDITS_MAX = 2, NEAR_NAME_MAX = 32 };

struct place {
    const struct place *up;
    const char *name; /* NULL: an index */
    size_t index;
};

struct walk {
    void *base;
    struct problem *problem;
    const struct field *root;
    size_t n_root;
};

static const char *const type_names[N_FIELD_TYPES] = {
    [FIELD_STRING] = "string", [FIELD_INTEGER] = "integer", [FIELD_BOOLEAN] = "boolean",
    [FIELD_OBJECT] = "object", [FIELD_LIST] = "array",      [FIELD_MAP] = "object",
    [FIELD_FLAG] = "object"};

const char *field_type_name(enum field_type type)
{
    return type_names[type];
}

static void add_token(struct text *text, const char *name)
{
    text_add(text, "/");
    for (; *name; name++) {
        if (*name == '~')
            text_add(text, "~0");
        else if (*name == '/')
            text_add(text, "~1");
        else
            text_add_bytes(text, name, 1);
    }
}

static void add_place(struct text *text, const struct place *place)
{
    if (!place)
        return;
    add_place(text, place->up);
    if (!place->name)
        text_addf(text, "/%zu", place->index);
    else if (strlen(place->name) <= SHOWN_MAX)
        add_token(text, place->name);
}

char *field_pointer(const char *parent, const char *name)
{
    struct text text = TEXT_INIT;

    text_add(&text, parent);
    add_token(&text, name);
    return text_take(&text);
}

__attribute__((format(printf, 4, 5))) static void
fault(struct walk *walk, const struct place *place, const char *code, const char *format, ...)
{
    CLEANUP_TEXT struct text pointer = TEXT_INIT;
    char words[480];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(words, sizeof words, format, args);
    va_end(args);
    add_place(&pointer, place);
    problem_add_fault(walk->problem, pointer.data ? pointer.data : "", code, "%s", words);
}

static void no_memory(struct walk *walk)
{
    problem_set(walk->problem, "internal", "memory is short");
}

/* What a value is, in words. */
static const char *got_words(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a decimal point or an exponent";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

/* Whether the value's JSON type is the row's; a fault when not. */
static bool type_fits(struct walk *walk, const struct place *place, const struct field *row,
                      const json_t *value)
{
    static const char *const words[N_FIELD_TYPES] = {
        [FIELD_STRING] = "a string",  [FIELD_INTEGER] = "an integer", [FIELD_BOOLEAN] = "a boolean",
        [FIELD_OBJECT] = "an object", [FIELD_LIST] = "an array",      [FIELD_MAP] = "an object",
        [FIELD_FLAG] = "an object"};
    bool fits = false;

    switch (row->type) {
    case FIELD_STRING:
        fits = json_is_string(value);
        break;
    case FIELD_INTEGER:
        fits = json_is_integer(value);
        break;
    case FIELD_BOOLEAN:
        fits = json_is_boolean(value);
        break;
    case FIELD_LIST:
        fits = json_is_array(value);
        break;
    case FIELD_OBJECT:
    case FIELD_MAP:
    case FIELD_FLAG:
        fits = json_is_object(value);
        break;
    case N_FIELD_TYPES:
        return false;
    }
    if (!fits)
        fault(walk, place, "wrong-type", "expected %s, got %s", words[row->type], got_words(value));
    return fits;
}

static void check_value_list(struct walk *walk, const struct place *place, const struct field *row,
                             const char *value)
{
    CLEANUP_TEXT struct text known = TEXT_INIT;

    for (const char *const *v = row->values; *v; v++) {
        if (strcmp(*v, value) == 0)
            return;
        text_addf(&known, "%s\"%s\"", v == row->values ? "" : ", ", *v);
    }
    fault(walk, place, "unknown-value", "expected one of %s, got \"%.64s\"",
          known.data ? known.data : "", value);
}

/* A string against its row; `what` begins the sentences ("" or "the name "). */
static void check_string(struct walk *walk, const struct place *place, const struct field *row,
                         const char *value, size_t length, const char *what)
{
    const char *wrong;

    if (strlen(value) != length)
        fault(walk, place, "pattern", "%sholds a NUL", what);
    else if (row->values)
        check_value_list(walk, place, row, value);
    else if ((int64_t)length < row->min && row->min == 1)
        fault(walk, place, "too-short", "%smay not be empty", what);
    else if ((int64_t)length < row->min)
        fault(walk, place, "too-short", "%shas %zu bytes; at least %" PRId64 " are needed", what,
              length, row->min);
    else if ((int64_t)length > row->max)
        fault(walk, place, "too-long", "%shas %zu bytes; at most %" PRId64 " are allowed", what,
              length, row->max);
    else if (row->check && (wrong = row->check(value)))
        fault(walk, place, "pattern", "%s%s", what, wrong);
}

static void check_count(struct walk *walk, const struct place *place, const struct field *row,
                        size_t count, int64_t total)
{
    if ((int64_t)count < row->min && row->min == 1)
        fault(walk, place, "too-short", "may not be empty");
    else if ((int64_t)count < row->min)
        fault(walk, place, "too-short", "has %zu entries; at least %" PRId64 " are needed", count,
              row->min);
    if ((int64_t)count > row->max)
        fault(walk, place, "too-long", "has %zu entries; at most %" PRId64 " are allowed", count,
              row->max);
    if (row->total && total > row->total)
        fault(walk, place, "too-long",
              "takes %" PRId64 " bytes in all; at most %" PRId64 " are allowed", total, row->total);
}

static void decode_object(struct walk *walk, const struct place *place, const json_t *object,
                          const struct field *fields, size_t n_fields);

/* An item of a list: the string itself or the first member of the object that stands for it; a
 * fault and NULL when it is neither. Owned. */
static char *decode_item(struct walk *walk, const struct place *place, const struct field *row,
                         const json_t *item)
{
    union {
        char *string;
        char room[FIELD_FORM_SIZE];
    } form = {.room = {0}};
    struct walk inner = {&form, walk->problem, walk->root, walk->n_root};

    if (row->n_fields == 0 ? !type_fits(walk, place, row, item)
                           : !json_is_object(item) && !json_is_string(item)) {
        if (row->n_fields)
            fault(walk, place, "wrong-type", "expected a string or an object, got %s",
                  got_words(item));
        return NULL;
    }
    if (json_is_object(item)) {
        decode_object(&inner, place, item, row->fields, row->n_fields);
        return form.string;
    }
    check_string(walk, place, row, json_string_value(item), json_string_length(item), "");
    form.string = strdup(json_string_value(item));
    if (!form.string)
        no_memory(walk);
    return form.string;
}

static void decode_list(struct walk *walk, const struct place *place, const struct field *row,
                        const json_t *value, struct string_list *ret)
{
    size_t count = json_array_size(value);
    int64_t total = 0;

    ret->items = calloc(count + 1, sizeof *ret->items);
    if (!ret->items) {
        no_memory(walk);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(value, i);
        struct place here = {place, NULL, i};
        char *string = decode_item(walk, &here, row->item, item);
        if (string)
            total += (int64_t)strlen(string) + 1;
        else
            string = strdup("?"); /* in place of what is refused: breaks no later rule */
        ret->items[i] = string;
        if (!string) {
            no_memory(walk);
            return;
        }
        ret->count++;
    }
    check_count(walk, place, row, count, total);
}

/* Objects, each decoded into a struct of its own; a member that is refused stays zero. */
static void decode_objects(struct walk *walk, const struct place *place, const struct field *row,
                           const json_t *value, struct object_list *ret)
{
    size_t count = json_array_size(value);

    check_count(walk, place, row, count, 0);
    if ((int64_t)count > row->max)
        return;
    ret->items = calloc(count + 1, row->item->size);
    if (!ret->items) {
        no_memory(walk);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(value, i);
        struct place here = {place, NULL, i};
        struct walk inner = {(char *)ret->items + i * row->item->size, walk->problem, walk->root,
                             walk->n_root};
        if (type_fits(walk, &here, row->item, item))
            decode_object(&inner, &here, item, row->item->fields, row->item->n_fields);
        ret->count++;
    }
}

static void decode_map(struct walk *walk, const struct place *place, const struct field *row,
                       const json_t *value, struct string_map *ret)
{
    json_t *object = (json_t *)value; /* jansson's iterators take no const; nothing is changed */
    size_t count = json_object_size(value);
    int64_t total = 0;

    ret->items = calloc(count + 1, sizeof *ret->items);
    if (!ret->items) {
        no_memory(walk);
        return;
    }
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        const char *name = json_object_iter_key(i), *string = "";
        const json_t *item = json_object_iter_value(i);
        struct place here = {place, name, 0};
        check_string(walk, &here, row->names, name, json_object_iter_key_len(i), "the name ");
        if (type_fits(walk, &here, row->item, item)) {
            string = json_string_value(item);
            total += (int64_t)(strlen(name) + json_string_length(item)) + 2;
            check_string(walk, &here, row->item, string, json_string_length(item), "");
        }
        struct env_var *entry = &ret->items[ret->count++];
        entry->name = strdup(name);
        entry->value = strdup(string);
        if (!entry->name || !entry->value) {
            no_memory(walk);
            return;
        }
    }
    check_count(walk, place, row, count, total);
}

static void decode_object_map(struct walk *walk, const struct place *place, const struct field *row,
                              const json_t *value, struct object_map *ret)
{
    json_t *object = (json_t *)value; /* as in decode_map */
    size_t count = json_object_size(value);

    ret->names = calloc(count + 1, sizeof *ret->names);
    ret->items = calloc(count + 1, row->item->size);
    if (!ret->names || !ret->items) {
        no_memory(walk);
        return;
    }
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        const char *name = json_object_iter_key(i);
        const json_t *item = json_object_iter_value(i);
        struct place here = {place, name, 0};
        struct walk inner = {(char *)ret->items + ret->count * row->item->size, walk->problem,
                             walk->root, walk->n_root};
        check_string(walk, &here, row->names, name, json_object_iter_key_len(i), "the name ");
        if (!(ret->names[ret->count] = strdup(name))) {
            no_memory(walk);
            return;
        }
        ret->count++;
        if (!type_fits(walk, &here, row->item, item))
            continue;
        decode_object(&inner, &here, item, row->item->fields, row->item->n_fields);
        check_count(walk, &here, row->item, json_object_size(item), 0);
    }
    check_count(walk, place, row, count, 0);
}

static void decode_value(struct walk *walk, const struct place *place, const struct field *row,
                         const json_t *value)
{
    char *at = (char *)walk->base + row->offset;

    if (row->flags & FIELD_UNSUPPORTED) {
        fault(walk, place, "unsupported", "this version does not have it; leave it out");
        return;
    }
    if (!type_fits(walk, place, row, value))
        return;
    switch (row->type) {
    case FIELD_STRING:
        check_string(walk, place, row, json_string_value(value), json_string_length(value), "");
        *(char **)at = strdup(json_string_value(value));
        if (!*(char **)at)
            no_memory(walk);
        break;
    case FIELD_INTEGER:
        *(int64_t *)at = json_integer_value(value);
        if (*(int64_t *)at < row->min || *(int64_t *)at > row->max)
            fault(walk, place, "out-of-range", "expected %" PRId64 " to %" PRId64 ", got %" PRId64,
                  row->min, row->max, *(int64_t *)at);
        break;
    case FIELD_BOOLEAN:
        *(bool *)at = json_is_true(value);
        break;
    case FIELD_FLAG:
        *(bool *)at = true;
        decode_object(walk, place, value, NULL, 0);
        break;
    case FIELD_OBJECT:
        decode_object(walk, place, value, row->fields, row->n_fields);
        break;
    case FIELD_LIST:
        if (row->item->type == FIELD_OBJECT)
            decode_objects(walk, place, row, value, (struct object_list *)at);
        else
            decode_list(walk, place, row, value, (struct string_list *)at);
        break;
    case FIELD_MAP:
        if (row->item->type == FIELD_OBJECT)
            decode_object_map(walk, place, row, value, (struct object_map *)at);
        else
            decode_map(walk, place, row, value, (struct string_map *)at);
        break;
    case N_FIELD_TYPES:
        break;
    }
}

static void decode_default(struct walk *walk, const struct place *place, const struct field *row)
{
    char *at = (char *)walk->base + row->offset;

    if (row->flags & FIELD_REQUIRED)
        fault(walk, place, "required", "it is required");
    if (row->flags & FIELD_UNSUPPORTED)
        return;
    if (row->type == FIELD_OBJECT) {
        /* Its members' defaults hold all the same; an optional object has no required ones. */
        for (size_t i = 0; i < row->n_fields; i++) {
            struct place here = {place, row->fields[i].name, 0};
            decode_default(walk, &here, &row->fields[i]);
        }
    } else if (row->type == FIELD_INTEGER) {
        *(int64_t *)at = row->fallback_number;
    } else if (row->type == FIELD_STRING && row->fallback) {
        *(char **)at = strdup(row->fallback);
        if (!*(char **)at)
            no_memory(walk);
    }
}

/* Edits (insert, remove, change, swap neighbours) between two short names, without regard to case.
 */
static size_t edits(const char *a, const char *b)
{
    size_t rows[3][NEAR_NAME_MAX + 1], n = strlen(a), m = strlen(b);

    for (size_t j = 0; j <= m; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = rows[i % 3], *before = rows[(i - 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
            size_t best = before[j - 1] + (x != y);
            best = before[j] + 1 < best ? before[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                y == tolower((unsigned char)a[i - 2]) && rows[(i - 2) % 3][j - 2] + 1 < best)
                best = rows[(i - 2) % 3][j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[n % 3][m];
}

/* The row whose name is nearest, within EDITS_MAX and less than the whole name. */
static const struct field *nearest(const char *name, const struct field *fields, size_t n_fields)
{
    const struct field *ret = NULL;
    size_t best = EDITS_MAX + 1, length = strlen(name);

    for (size_t i = 0; i < n_fields; i++) {
        size_t known = strlen(fields[i].name);
        if (length > NEAR_NAME_MAX || known > NEAR_NAME_MAX ||
            (length > known ? length - known : known - length) > EDITS_MAX ||
            (fields[i].flags & FIELD_UNSUPPORTED))
            continue;
        size_t distance = edits(name, fields[i].name);
        if (distance < best && distance < length) {
            best = distance;
            ret = &fields[i];
        }
    }
    return ret;
}

/* Adds the pointer of a row of exactly that name, anywhere in the table; whether there is one. */
static bool find_elsewhere(const char *name, const struct field *fields, size_t n_fields,
                           const struct place *up, struct text *pointer)
{
    for (size_t i = 0; i < n_fields; i++) {
        struct place here = {up, fields[i].name, 0};
        if (strcmp(fields[i].name, name) == 0) {
            add_place(pointer, &here);
            return true;
        }
        if (find_elsewhere(name, fields[i].fields, fields[i].n_fields, &here, pointer))
            return true;
    }
    return false;
}

static void unknown_field(struct walk *walk, const struct place *place, const struct field *fields,
                          size_t n_fields)
{
    CLEANUP_TEXT struct text pointer = TEXT_INIT;
    const struct field *near = nearest(place->name, fields, n_fields);

    if (near)
        fault(walk, place, "unknown-field", "there is no field \"%.64s\"; did you mean \"%s\"?",
              place->name, near->name);
    else if (find_elsewhere(place->name, walk->root, walk->n_root, NULL, &pointer))
        fault(walk, place, "unknown-field",
              "there is no field \"%.64s\" here; did you mean \"%s\"?", place->name,
              pointer.data ? pointer.data : "");
    else
        fault(walk, place, "unknown-field", "there is no field \"%.64s\"", place->name);
}

static const struct field *find_row(const char *name, const struct field *fields, size_t n_fields)
{
    for (size_t i = 0; i < n_fields; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static void decode_object(struct walk *walk, const struct place *place, const json_t *object,
                          const struct field *fields, size_t n_fields)
{
    json_t *members = (json_t *)object; /* as in decode_map */

    for (void *i = json_object_iter(members); i; i = json_object_iter_next(members, i)) {
        const char *name = json_object_iter_key(i);
        struct place here = {place, name, 0};
        const struct field *row = find_row(name, fields, n_fields);
        if (row)
            decode_value(walk, &here, row, json_object_iter_value(i));
        else
            unknown_field(walk, &here, fields, n_fields);
    }
    for (size_t i = 0; i < n_fields; i++) {
        struct place here = {place, fields[i].name, 0};
        if (!json_object_get(object, fields[i].name))
            decode_default(walk, &here, &fields[i]);
    }
}

void field_decode(const json_t *object, const struct field *fields, size_t n_fields, void *base,
                  struct problem *problem)
{
    struct walk walk = {base, problem, fields, n_fields};
    const struct field whole = {.type = FIELD_OBJECT, .fields = fields, .n_fields = n_fields};

    if (type_fits(&walk, NULL, &whole, object))
        decode_object(&walk, NULL, object, fields, n_fields);
}
