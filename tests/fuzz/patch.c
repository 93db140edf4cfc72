/* A merge patch of a plan: two values with a NUL between them. A patch that is taken leaves a plan,
 * and the same one when it is applied again; of any two values the result is what RFC 7396 says. */
#include <string.h>

#include "api/patch.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

/* RFC 7396, member by member, from the result's side. */
static void must_be(const json_t *target, const json_t *patch, const json_t *result)
{
    const char *name;
    json_t *value;

    if (!json_is_object(patch)) {
        MUST(json_equal(patch, result));
        return;
    }
    MUST(json_is_object(result));
    json_object_foreach((json_t *)(uintptr_t)patch, name, value)
    {
        const json_t *member = json_object_get(result, name);
        if (json_is_null(value))
            MUST(!member);
        else
            must_be(json_object_get(target, name), value, member);
    }
    json_object_foreach((json_t *)(uintptr_t)result, name, value)
        MUST(json_object_get(patch, name) || json_equal(value, json_object_get(target, name)));
    json_object_foreach((json_t *)(uintptr_t)target, name, value)
        MUST(json_object_get(patch, name) || json_object_get(result, name));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    const uint8_t *middle = memchr(bytes, 0, length);
    size_t first = middle ? (size_t)(middle - bytes) : length;
    json_t *spec = json_parse((const char *)bytes, first, NULL);
    json_t *patch = middle ? json_parse((const char *)middle + 1, length - first - 1, NULL) : NULL;

    if (spec && patch) {
        json_t *result = json_merge_patch(spec, patch);
        MUST(result || json_is_null(patch));
        if (result)
            must_be(spec, patch, result);
        json_decref(result);
    }
    if (json_is_object(spec) && patch) {
        struct problem problem = {0};
        json_t *once = spec_patch(spec, patch, &problem);
        json_t *twice = once && !problem.type ? spec_patch(once, patch, &problem) : NULL;
        MUST(!twice || json_equal(once, twice));
        json_decref(once);
        json_decref(twice);
        problem_free(&problem);
    }
    json_decref(spec);
    json_decref(patch);
    return 0;
}
