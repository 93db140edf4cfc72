/* Texts that are read by hand: a rule of egress, an image's reference; and an image's config. */
#include <stdlib.h>
#include <string.h>

#include "api/image.h"
#include "api/spec.h"
#include "base/json.h"
#include "base/util.h"
#include "tests/fuzz/fuzz.h"

static void rule(const char *text)
{
    struct egress_rule rule = {0};

    if (egress_rule_parse(text, &rule))
        return;
    MUST(rule.host && strlen(rule.host) > 0 && strlen(rule.host) <= 253);
    free((char *)rule.host);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char *text = malloc(length + 1);
    struct image_reference reference;
    struct image_config config = {0};
    struct error err = ERROR_INIT;

    MUST(text);
    memcpy(text, bytes, length);
    text[length] = '\0';
    rule(text);
    (void)image_reference_parse(text, &reference);
    json_t *object = json_parse(text, length, NULL);
    if (object)
        (void)image_config_decode(object, &config, &err);
    image_config_free(&config);
    json_decref(object);
    free(text);
    return 0;
}
