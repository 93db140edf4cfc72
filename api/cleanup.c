/* Cleanup plans: the list, its tag, its JSON. */
#include "api/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/text.h"

enum { ID_DIGITS = 12 };

const char *const cleanup_kind_names[N_CLEANUP_KINDS] = {
    [CLEANUP_PROCESS] = "process",     [CLEANUP_SOCKET] = "socket", [CLEANUP_PORT] = "port",
    [CLEANUP_DIRECTORY] = "directory", [CLEANUP_FILE] = "file",     [CLEANUP_MOUNT] = "mount",
    [CLEANUP_CGROUP] = "cgroup",       [CLEANUP_RECORD] = "record"};

static int make_room(struct cleanup_plan *plan, size_t more)
{
    size_t room = plan->room ? plan->room : 8;

    while (room < plan->count + more)
        room *= 2;
    if (room == plan->room)
        return 0;
    struct cleanup_item *items = realloc(plan->items, room * sizeof *items);
    if (!items)
        return -1;
    plan->items = items;
    plan->room = room;
    return 0;
}

int cleanup_append(struct cleanup_plan *plan, struct cleanup_plan *more)
{
    if (make_room(plan, more->count) < 0)
        return -1;
    for (size_t i = 0; i < more->count; i++)
        plan->items[plan->count++] = more->items[i];
    more->count = 0;
    return 0;
}

static void free_item(struct cleanup_item *item)
{
    free(item->name);
    free(item->reason);
    free(item->action);
    free(item->outcome);
}

int cleanup_add(struct cleanup_plan *plan, enum cleanup_kind kind, const char *name,
                const char *reason, const char *action, int64_t bytes)
{
    struct cleanup_item item = {kind, strdup(name), strdup(reason), strdup(action), bytes, NULL};

    if (item.name && item.reason && item.action && make_room(plan, 1) == 0) {
        plan->items[plan->count++] = item;
        return 0;
    }
    free_item(&item);
    return -1;
}

void cleanup_outcome(struct cleanup_item *item, const char *outcome)
{
    free(item->outcome);
    item->outcome = strdup(outcome);
}

/* Kind and name with their NULs: neither can be mistaken for a part of the other. */
static void add_identity(struct text *text, const struct cleanup_item *item)
{
    const char *kind = cleanup_kind_names[item->kind];

    text_add_bytes(text, kind, strlen(kind) + 1);
    text_add_bytes(text, item->name, strlen(item->name) + 1);
}

static json_t *encode_item(const struct cleanup_plan *plan, const struct cleanup_item *item)
{
    CLEANUP_TEXT struct text identity = TEXT_INIT;
    char id[SHA256_HEX_SIZE];

    add_identity(&identity, item);
    if (identity.failed)
        return NULL;
    sha256_hex(identity.data, identity.length, id);
    id[ID_DIGITS] = '\0';
    json_t *ret =
        json_pack("{s:s, s:s, s:o, s:o, s:s, s:s, s:I}", "id", id, "kind",
                  cleanup_kind_names[item->kind], "name", json_string_lossy(item->name), "owner",
                  plan->slug[0] ? json_string(plan->slug) : json_null(), "reason", item->reason,
                  "action", item->action, "bytes", (json_int_t)item->bytes);
    if (item->outcome)
        (void)json_object_set_new(ret, "outcome", json_string_lossy(item->outcome));
    return ret;
}

json_t *cleanup_encode(const struct cleanup_plan *plan)
{
    json_t *items = json_array();
    json_int_t total = 0;

    for (size_t i = 0; i < plan->count; i++) {
        total += plan->items[i].bytes;
        if (json_array_append_new(items, encode_item(plan, &plan->items[i])) == 0)
            continue;
        json_decref(items);
        return NULL;
    }
    return json_pack("{s:o, s:b, s:I, s:o}", "slug",
                     plan->slug[0] ? json_string(plan->slug) : json_null(), "empty",
                     plan->count == 0, "total_bytes", total, "items", items);
}

static bool has_item(const struct cleanup_plan *plan, enum cleanup_kind kind, const char *name)
{
    for (size_t i = 0; i < plan->count; i++)
        if (plan->items[i].kind == kind && strcmp(plan->items[i].name, name) == 0)
            return true;
    return false;
}

static int decode_item(const json_t *json, struct cleanup_plan *plan)
{
    const char *kind = json_member_string(json, "kind"), *name = json_member_string(json, "name");
    const char *reason = json_member_string(json, "reason");
    const char *action = json_member_string(json, "action");
    const char *outcome = json_member_string(json, "outcome");

    for (int i = 0; kind && name && reason && action && i < N_CLEANUP_KINDS; i++) {
        if (strcmp(kind, cleanup_kind_names[i]) != 0)
            continue;
        if (has_item(plan, (enum cleanup_kind)i, name))
            return 0;
        if (cleanup_add(plan, (enum cleanup_kind)i, name, reason, action,
                        json_member_integer(json, "bytes", 0)) < 0)
            return -1;
        if (outcome && strncmp(outcome, "failed", strlen("failed")) != 0)
            cleanup_outcome(&plan->items[plan->count - 1], outcome);
        return 0;
    }
    return -1;
}

int cleanup_decode(const json_t *json, struct cleanup_plan *plan)
{
    const json_t *items = json_object_get(json, "items"), *item;
    size_t i;

    if (!json_is_array(items))
        return -1;
    json_array_foreach(items, i, item)
    {
        if (decode_item(item, plan) < 0)
            return -1;
    }
    return 0;
}

void cleanup_tag(const struct cleanup_plan *plan, char ret[17])
{
    CLEANUP_TEXT struct text text = TEXT_INIT;
    char digest[SHA256_HEX_SIZE];

    text_add_bytes(&text, plan->slug, strlen(plan->slug) + 1);
    for (size_t i = 0; i < plan->count; i++) {
        add_identity(&text, &plan->items[i]);
        text_add_bytes(&text, plan->items[i].action, strlen(plan->items[i].action) + 1);
    }
    /* Memory that was short gives a tag that no plan has, so that a pinned deletion is refused. */
    sha256_hex(text.failed ? "" : text.data, text.failed ? 0 : text.length, digest);
    memcpy(ret, digest, 16);
    ret[16] = '\0';
}

void cleanup_free(struct cleanup_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        free_item(&plan->items[i]);
    free(plan->items);
    *plan = (struct cleanup_plan){0};
}
