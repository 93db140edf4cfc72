/* What a machine's monitor says. */
#include "shim/qmp.h"
#include "base/util.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    CLEANUP_TEXT struct text said = TEXT_INIT;
    struct error err = ERROR_INIT;
    size_t before;

    text_add_bytes(&said, (const char *)bytes, length);
    do {
        before = said.length;
    } while (qmp_take_line(&said, &err) >= 0 && said.length < before);
    return 0;
}
