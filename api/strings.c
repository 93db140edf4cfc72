/* The lists and maps of strings that decoded tables hold. */
#include <stdlib.h>
#include <string.h>

#include "api/field.h"
#include "renderers/config.h"

void string_list_free(struct string_list *list)
{
    for (size_t i = 0; list->items && i < list->count; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct string_list){0};
}

void string_map_free(struct string_map *map)
{
    for (size_t i = 0; map->items && i < map->count; i++) {
        free((char *)map->items[i].name);
        free((char *)map->items[i].value);
    }
    free(map->items);
    *map = (struct string_map){0};
}

void object_map_free(struct object_map *map)
{
    for (size_t i = 0; map->names && i < map->count; i++)
        free(map->names[i]);
    free(map->names);
    free(map->items);
    *map = (struct object_map){0};
}

int string_map_add(struct string_map *map, const char *name, const char *value)
{
    struct env_var *items = realloc(map->items, (map->count + 1) * sizeof *items);

    if (!items)
        return -1;
    map->items = items;
    struct env_var *entry = &items[map->count];
    entry->name = strdup(name);
    entry->value = strdup(value);
    if (!entry->name || !entry->value) {
        free((char *)entry->name);
        free((char *)entry->value);
        return -1;
    }
    map->count++;
    return 0;
}

const char *string_map_get(const struct string_map *map, const char *name)
{
    for (size_t i = 0; i < map->count; i++)
        if (strcmp(map->items[i].name, name) == 0)
            return map->items[i].value;
    return NULL;
}
