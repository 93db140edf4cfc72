/* The configuration file. What is taken is taken again, the same, from what --print-config writes
 * of it. */
#include <stdlib.h>
#include <string.h>

#include "server/config_keys.h"
#include "tests/fuzz/fuzz.h"

/* As a daemon has it before its file is read. */
static void begin(struct config *config)
{
    *config = (struct config){0};
    for (size_t i = 0; i < n_config_keys; i++)
        if (config_keys[i].initial && config_keys[i].type != CONFIG_LISTEN)
            MUST(config_set(config, &config_keys[i], config_keys[i].initial, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct error err = ERROR_INIT;
    struct config config, again;

    begin(&config);
    if (config_read_text(&config, "file", (const char *)bytes, length, &err) < 0) {
        MUST(strncmp(err.text, "file:", 5) == 0); /* with its line */
        config_free(&config);
        return 0;
    }
    char *text = config_text(&config);
    MUST(text);
    begin(&again);
    MUST(config_read_text(&again, "file", text, strlen(text), &err) == 0);
    char *same = config_text(&again);
    MUST(same && strcmp(text, same) == 0);
    free(text);
    free(same);
    config_free(&config);
    config_free(&again);
    return 0;
}
