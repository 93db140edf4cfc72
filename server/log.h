/* The daemon's log: one line per event on stderr, written whole, so that lines of threads do not
 * mix.
 *
 *   time=2026-01-02T03:04:05.678Z level=info msg="bottle created" slug=fix-flaky-test
 *   {"time":"2026-01-02T03:04:05.678Z","level":"info","msg":"bottle
 * created","slug":"fix-flaky-test"}
 *
 * Where stderr is the journal each line begins with its priority, as "<6>" (sd-daemon(3)), and has
 * no time, which the journal knows.
 *
 * Only names and numbers belong in it: no environment values, no bodies, no tokens. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LEVEL_ERROR, LEVEL_WARNING, LEVEL_INFO, LEVEL_DEBUG, N_LEVELS };

extern const char *const log_level_names[N_LEVELS];

/* Lines above this level are dropped; LEVEL_INFO until set. */
void log_set_level(enum log_level level);
void log_set_json(bool json);
/* Looks whether stderr is the journal (JOURNAL_STREAM, as systemd.exec(5) has it). */
void log_find_journal(void);

struct log_field {
    const char *key;
    const char *text; /* NULL: `number` counts */
    int64_t number;
};

/* A text that is not known is logged as "-". */
static inline const char *log_text(const char *text)
{
    return text ? text : "-";
}

#define LOG_TEXT(key, text)                                                                        \
    {                                                                                              \
        (key), log_text(text), 0                                                                   \
    }
#define LOG_NUMBER(key, number)                                                                    \
    {                                                                                              \
        (key), NULL, (number)                                                                      \
    }

/* Like level info, but whatever the level: for what has to be in the log. */
#define LEVEL_ALWAYS N_LEVELS

void log_fields(enum log_level level, const char *message, const struct log_field *fields,
                size_t n_fields);

/* log_event(LEVEL_INFO, "bottle created", LOG_TEXT("slug", slug), LOG_NUMBER("ms", 12)); at least
 * one field. */
#define log_event(level, message, ...)                                                             \
    log_fields((level), (message), (const struct log_field[]){__VA_ARGS__},                        \
               sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))
