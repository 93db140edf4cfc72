#include "server/log.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

const char *const log_level_names[N_LEVELS] = {"error", "warning", "info", "debug"};

static atomic_int threshold = LEVEL_INFO;

void log_set_level(enum log_level level)
{
    atomic_store(&threshold, (int)level);
}

/* A bare word stays bare; anything else is quoted, with what would end the line or the quotes
 * escaped. */
static void add_value(struct text *line, const char *value)
{
    size_t bare =
        strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@+,");

    if (bare > 0 && value[bare] == '\0') {
        text_add(line, value);
        return;
    }
    text_add(line, "\"");
    for (const unsigned char *c = (const unsigned char *)value; *c; c++) {
        if (*c == '"' || *c == '\\')
            text_addf(line, "\\%c", *c);
        else if (*c == '\n')
            text_add(line, "\\n");
        else if (*c < 0x20 || *c == 0x7f)
            text_addf(line, "\\x%02x", *c);
        else
            text_add_bytes(line, c, 1);
    }
    text_add(line, "\"");
}

void log_fields(enum log_level level, const char *message, const struct log_field *fields,
                size_t n_fields)
{
    CLEANUP_TEXT struct text line = TEXT_INIT;
    char now[TIMESTAMP_SIZE];

    if ((int)level > atomic_load(&threshold))
        return;
    timestamp_format(clock_wall_ms(), now);
    text_addf(&line, "time=%s level=%s msg=", now, log_level_names[level]);
    add_value(&line, message);
    for (size_t i = 0; i < n_fields; i++) {
        text_addf(&line, " %s=", fields[i].key);
        if (fields[i].text)
            add_value(&line, fields[i].text);
        else
            text_addf(&line, "%lld", (long long)fields[i].number);
    }
    text_add(&line, "\n");
    if (!line.failed)
        (void)write_all(STDERR_FILENO, line.data, line.length);
}
