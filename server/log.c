#include "server/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "base/util.h"

const char *const log_level_names[N_LEVELS] = {"error", "warning", "info", "debug"};

static atomic_int threshold = LEVEL_INFO;
static atomic_bool as_json, to_journal;

void log_set_level(enum log_level level)
{
    atomic_store(&threshold, (int)level);
}

void log_set_json(bool json)
{
    atomic_store(&as_json, json);
}

void log_find_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    char words[48];

    if (!stream || fstat(STDERR_FILENO, &status) < 0)
        return;
    (void)snprintf(words, sizeof words, "%llu:%llu", (unsigned long long)status.st_dev,
                   (unsigned long long)status.st_ino);
    atomic_store(&to_journal, strcmp(stream, words) == 0);
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

static void write_logfmt(struct text *line, const char *level, const char *message,
                         const struct log_field *fields, size_t n_fields)
{
    text_addf(line, "level=%s msg=", level);
    add_value(line, message);
    for (size_t i = 0; i < n_fields; i++) {
        text_addf(line, " %s=", fields[i].key);
        if (fields[i].text)
            add_value(line, fields[i].text);
        else
            text_addf(line, "%lld", (long long)fields[i].number);
    }
}

static void write_json(struct text *line, const char *time, const char *level, const char *message,
                       const struct log_field *fields, size_t n_fields)
{
    CLEANUP_JSON json_t *object = json_object();

    if (time)
        (void)json_object_set_new(object, "time", json_string(time));
    (void)json_object_set_new(object, "level", json_string(level));
    (void)json_object_set_new(object, "msg", json_string_lossy(message));
    for (size_t i = 0; i < n_fields; i++)
        (void)json_object_set_new(object, fields[i].key,
                                  fields[i].text ? json_string_lossy(fields[i].text)
                                                 : json_integer(fields[i].number));
    CLEANUP_FREE char *words = json_text(object);
    text_add(line, words ? words : "{}");
}

void log_fields(enum log_level level, const char *message, const struct log_field *fields,
                size_t n_fields)
{
    static const char *const priorities[] = {SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG, SD_NOTICE};
    CLEANUP_TEXT struct text line = TEXT_INIT;
    char now[TIMESTAMP_SIZE];
    const char *name = log_level_names[level == LEVEL_ALWAYS ? LEVEL_INFO : level];
    bool journal = atomic_load(&to_journal);

    if (level != LEVEL_ALWAYS && (int)level > atomic_load(&threshold))
        return;
    timestamp_format(clock_wall_ms(), now);
    text_add(&line, journal ? priorities[level] : "");
    if (atomic_load(&as_json)) {
        write_json(&line, journal ? NULL : now, name, message, fields, n_fields);
    } else {
        if (!journal)
            text_addf(&line, "time=%s ", now);
        write_logfmt(&line, name, message, fields, n_fields);
    }
    text_add(&line, "\n");
    if (!line.failed)
        (void)write_all(STDERR_FILENO, line.data, line.length);
}
