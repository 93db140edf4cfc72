/* A decoder that is a table: rows say name, type, place, bounds and pattern; the code walks them.
 *
 * Every fault of an object is added to a problem, each with its JSON Pointer and one of the codes
 * below; nothing stops at the first. The same rows give GET /limits, and a test compares them with
 * openapi.yaml.
 *
 *   wrong-type     expected and got are named (1.0 is no integer)
 *   unknown-field  no such member; the nearest known one is named
 *   required       a member is missing
 *   too-short, too-long   bytes of a string, members of an array or object, bytes of all of them
 *   out-of-range   an integer outside its bounds
 *   pattern        a string that breaks its rule
 *   unknown-value  a string that is not one of the listed
 *   unsupported    a member that the contract knows and this version does not have
 *   duplicate, reserved, immutable, refused, not-allowed, unreadable   said by the callers' own
 *                  checks */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "api/problem.h"

struct string_list {
    char **items; /* NULL-terminated; NULL when empty */
    size_t count;
};

/* Decoded objects one after the other; what they own is released by the struct's own owner. */
struct object_list {
    void *items; /* `count` structs of the item's `size`; NULL when there was none */
    size_t count;
};

struct string_map {
    struct env_var *items; /* names and values are owned, in the order that was sent */
    size_t count;
};

/* An object whose members are all objects of one kind. */
struct object_map {
    char **names; /* owned, in the order that was sent */
    void *items;  /* structs of the row's `size`; what they own is the caller's to release */
    size_t count;
};

enum field_type {
    FIELD_STRING,  /* char *, owned */
    FIELD_INTEGER, /* int64_t */
    FIELD_BOOLEAN, /* bool */
    FIELD_OBJECT,  /* its members are `fields`, with offsets into the same struct */
    FIELD_LIST,    /* struct string_list of `item`; of objects: struct object_list */
    FIELD_MAP,     /* struct string_map of `names` → `item`, or struct object_map where that is an
                      object */
    FIELD_FLAG,    /* bool: an object without members is there */
    N_FIELD_TYPES
};

enum { FIELD_REQUIRED = 1, FIELD_UNSUPPORTED = 2 };

/* An object in place of a string is decoded into a struct of at most this size: the string is its
 * first member and goes to the list; the others, of which none is owned, the caller reads from the
 * JSON. */
enum { FIELD_FORM_SIZE = 32 };

/* NULL, or what is wrong with the value (static text that ends a sentence). */
typedef const char *field_check(const char *value);

struct field {
    const char *name;
    enum field_type type;
    unsigned flags;
    size_t offset;
    int64_t min, max; /* value; bytes of a string; members of a list or map */
    int64_t total;    /* bytes of a whole list or map as the kernel counts it: each string with its
                         NUL, a map's as NAME=value; 0: no bound */
    const char *pattern;        /* ECMA 262, for clients: what `check` accepts matches it */
    field_check *check;         /* the rule itself; NULL: none */
    const char *const *values;  /* the only ones allowed, NULL-terminated; NULL: any */
    const char *fallback;       /* a string's default, NULL: none */
    int64_t fallback_number;    /* an integer's */
    size_t size;                /* of an object that is an item of a list or a map: its struct's */
    const struct field *fields; /* an object's members; of a list's item that is a string: those of
                                   the object that may stand for it (see FIELD_FORM_SIZE) */
    size_t n_fields;
    const struct field *names, *item;
    const char *doc;
};

/* "string", "integer", … as in JSON Schema. */
const char *field_type_name(enum field_type type);
/* Decodes `object` into the struct at `base`, by the rows, with defaults for what is absent. Adds
 * each fault to *problem; the struct may then be half filled, and is the caller's to release in any
 * case. */
void field_decode(const json_t *object, const struct field *fields, size_t n_fields, void *base,
                  struct problem *problem);
/* `parent` followed by one more reference token, escaped (RFC 6901). The caller frees; NULL when
 * memory is short. */
char *field_pointer(const char *parent, const char *name);

void string_list_free(struct string_list *list);
void string_map_free(struct string_map *map);
/* Only the names and the array of items. */
void object_map_free(struct object_map *map);
/* Appends copies. -1 when memory is short. The map's room is a power of two that is never kept. */
int string_map_add(struct string_map *map, const char *name, const char *value);
/* The value, or NULL. */
const char *string_map_get(const struct string_map *map, const char *name);
