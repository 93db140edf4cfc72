/* What a client asks to be run, and what it tells a program that runs. */
#include "api/exec_spec.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    json_t *body = json_parse_request((const char *)bytes, length, NULL);
    struct problem problem = {0};
    struct exec_spec spec;
    struct exec_signal signal;
    struct exec_size size;

    if (!body)
        return 0;
    if (exec_spec_decode(body, &spec, &problem) == 0)
        exec_spec_free(&spec);
    problem_free(&problem);
    problem = (struct problem){0};
    (void)exec_signal_decode(body, &signal, &problem);
    problem_free(&problem);
    problem = (struct problem){0};
    (void)exec_size_decode(body, &size, &problem);
    problem_free(&problem);
    json_decref(body);
    return 0;
}
