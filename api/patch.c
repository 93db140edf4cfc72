#include "api/patch.h"

#include <stdlib.h>
#include <string.h>

#include "api/spec.h"
#include "base/json.h"
#include "base/util.h"

static const char *const changeable[] = {"labels", "egress", "ttl_seconds"};

static bool can_change(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(changeable); i++)
        if (strcmp(changeable[i], name) == 0)
            return true;
    return false;
}

static void refuse(const char *name, struct problem *problem)
{
    CLEANUP_FREE char *pointer = field_pointer("", name);
    const char *place = pointer ? pointer : "";
    size_t count;
    const struct field *rows = spec_rows(&count);

    for (size_t i = 0; i < count; i++) {
        if (strcmp(rows[i].name, name) != 0)
            continue;
        if (rows[i].flags & FIELD_UNSUPPORTED)
            problem_add_fault(problem, place, "unsupported",
                              "this version does not have it; leave it out");
        else
            problem_add_fault(problem, place, "immutable",
                              "it can't be changed; only labels, egress and ttl_seconds can");
        return;
    }
    problem_add_fault(problem, place, "unknown-field", "there is no field \"%.64s\"", name);
}

json_t *spec_patch(const json_t *spec, const json_t *patch, struct problem *problem)
{
    CLEANUP_JSON json_t *part = json_object();
    const char *name;
    json_t *value;

    if (!json_is_object(patch)) {
        problem_add_fault(problem, "", "wrong-type", "expected an object: a merge patch of a plan");
        return NULL;
    }
    json_object_foreach((json_t *)(uintptr_t)patch, name, value)
    {
        if (can_change(name))
            (void)json_object_set(part, name, value);
        else
            refuse(name, problem);
    }
    json_t *ret = json_merge_patch(spec, part);
    if (!ret)
        problem_set(problem, "internal", "memory is short");
    return ret;
}
