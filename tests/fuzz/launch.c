/* The launch spec that a supervisor reads. */
#include "base/util.h"
#include "shim/spec.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct error err = ERROR_INIT;
    struct launch launch;

    if (launch_decode((const char *)bytes, length, &launch, &err) == 0)
        launch_free(&launch);
    else
        MUST(err.text[0]);
    return 0;
}
