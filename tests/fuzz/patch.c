/* A merge patch of a plan: two values with a NUL between them. A patch that is taken leaves a plan,
 * and the same one when it is applied again. */
#include <string.h>

#include "api/patch.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    const uint8_t *middle = memchr(bytes, 0, length);
    size_t first = middle ? (size_t)(middle - bytes) : length;
    json_t *spec = json_parse((const char *)bytes, first, NULL);
    json_t *patch = middle ? json_parse((const char *)middle + 1, length - first - 1, NULL) : NULL;

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
