/* A plan as sent. What is taken has to be taken again, byte for byte, from what was stored of it.
 */
#include <stdlib.h>
#include <string.h>

#include "api/spec.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

static void again(const struct spec *spec)
{
    char *text = json_text(spec->json);
    json_t *stored = text ? json_parse(text, strlen(text), NULL) : NULL;
    struct problem problem = {0};
    struct spec copy;

    MUST(stored && json_equal(stored, spec->json));
    MUST(spec_decode(stored, &copy, &problem) == 0);
    spec_free(&copy);
    json_decref(stored);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    json_t *body = json_parse_request((const char *)bytes, length, NULL);
    struct problem problem = {0};
    struct spec spec;

    if (!body)
        return 0;
    if (spec_decode(body, &spec, &problem) == 0) {
        again(&spec);
        spec_free(&spec);
    } else {
        MUST(problem.type);
    }
    problem_free(&problem);
    json_decref(body);
    return 0;
}
