/* The configuration as YAML: read by libyaml's parser, event by event, with the line of each fault;
 * written by our writer.
 *
 * Taken is the plain subset that a table of keys needs: one document, one mapping, scalars, and
 * lists of scalars for repeatable keys. No anchors, no tags, no nesting. Whether a scalar is quoted
 * makes no difference. */
#include "server/config_keys.h"

#include <stdio.h>

#include "base/file.h"
#include "base/text.h"
#include "base/util.h"
#include "renderers/yaml.h"

enum { CONFIG_BYTES_MAX = 256 * 1024 };

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the one that was read last; deleted before the next */
    const char *path;
    bool *seen; /* per row of config_keys */
};

static size_t line_of(const struct reader *reader)
{
    return reader->event.start_mark.line + 1;
}

static int next_event(struct reader *reader, struct error *err)
{
    yaml_event_delete(&reader->event);
    if (yaml_parser_parse(&reader->parser, &reader->event))
        return 0;
    return error_set(err, NULL, "%s:%zu: %s", reader->path, reader->parser.problem_mark.line + 1,
                     reader->parser.problem ? reader->parser.problem : "no YAML");
}

/* The scalar of the current event, or NULL for anything else. Tags and NULs are refused. */
static const char *scalar(const struct reader *reader)
{
    const yaml_event_t *event = &reader->event;

    if (event->type != YAML_SCALAR_EVENT || event->data.scalar.tag || event->data.scalar.anchor)
        return NULL;
    const char *value = (const char *)event->data.scalar.value;
    return strlen(value) == event->data.scalar.length ? value : NULL;
}

static int set_one(struct reader *reader, struct config *config, const struct config_key *key,
                   struct error *err)
{
    const char *value = scalar(reader);

    if (!value)
        return error_set(err, NULL, "%s:%zu: %s has to be a plain value", reader->path,
                         line_of(reader), key->name);
    if (config_set(config, key, value, err) < 0)
        return error_wrap(err, "%s:%zu", reader->path, line_of(reader));
    return 0;
}

static int read_value(struct reader *reader, struct config *config, const struct config_key *key,
                      struct error *err)
{
    if (next_event(reader, err) < 0)
        return -1;
    if (reader->event.type != YAML_SEQUENCE_START_EVENT)
        return set_one(reader, config, key, err);
    if (key->type != CONFIG_LISTEN)
        return error_set(err, NULL, "%s:%zu: %s takes one value, not a list", reader->path,
                         line_of(reader), key->name);
    for (;;) {
        if (next_event(reader, err) < 0)
            return -1;
        if (reader->event.type == YAML_SEQUENCE_END_EVENT)
            return 0;
        if (set_one(reader, config, key, err) < 0)
            return -1;
    }
}

static int read_mapping(struct reader *reader, struct config *config, struct error *err)
{
    for (;;) {
        if (next_event(reader, err) < 0)
            return -1;
        if (reader->event.type == YAML_MAPPING_END_EVENT)
            return 0;
        const char *name = scalar(reader);
        if (!name)
            return error_set(err, NULL, "%s:%zu: a key has to be a plain name", reader->path,
                             line_of(reader));
        const struct config_key *key = config_key(name);
        if (!key)
            return error_set(err, NULL,
                             "%s:%zu: there is no key \"%.64s\"; bottled --help lists them",
                             reader->path, line_of(reader), name);
        if (reader->seen[key - config_keys])
            return error_set(err, NULL, "%s:%zu: the key %s is there twice", reader->path,
                             line_of(reader), key->name);
        reader->seen[key - config_keys] = true;
        if (read_value(reader, config, key, err) < 0)
            return -1;
    }
}

static int read_stream(struct reader *reader, struct config *config, struct error *err)
{
    unsigned documents = 0;

    for (;;) {
        if (next_event(reader, err) < 0)
            return -1;
        switch (reader->event.type) {
        case YAML_STREAM_END_EVENT:
            return 0;
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            break;
        case YAML_DOCUMENT_START_EVENT:
            if (documents++ > 0)
                return error_set(err, NULL, "%s:%zu: there is a second document", reader->path,
                                 line_of(reader));
            break;
        case YAML_MAPPING_START_EVENT:
            if (read_mapping(reader, config, err) < 0)
                return -1;
            break;
        default: {
            /* A document of nothing but comments is one empty scalar. */
            const char *value = scalar(reader);
            if (!value || *value)
                return error_set(err, NULL,
                                 "%s:%zu: the file has to be a mapping of keys to values",
                                 reader->path, line_of(reader));
        }
        }
    }
}

int config_read_text(struct config *config, const char *path, const char *text, size_t length,
                     struct error *err)
{
    struct reader reader = {.path = path, .seen = calloc(n_config_keys, sizeof(bool))};
    int result = -1;

    if (!reader.seen || !yaml_parser_initialize(&reader.parser)) {
        error_set(err, NULL, "%s: out of memory", path);
        free(reader.seen);
        return -1;
    }
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, length);
    result = read_stream(&reader, config, err);
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    free(reader.seen);
    return result;
}

int config_read_file(struct config *config, const char *path, struct error *err)
{
    size_t length;
    CLEANUP_FREE char *text = file_read(path, CONFIG_BYTES_MAX, &length, err);

    return text ? config_read_text(config, path, text, length, err) : -1;
}

static void write_value(struct yaml_writer *writer, const struct config *config,
                        const struct config_key *key)
{
    const void *field = (const char *)config + key->offset;
    char words[48];

    switch (key->type) {
    case CONFIG_PATH:
    case CONFIG_PATHS:
    case CONFIG_HOSTS:
    case CONFIG_NAMES:
    case CONFIG_WORD:
    case CONFIG_ORIGINS:
    case CONFIG_CHOICE: {
        const char *value = *(char *const *)field;
        yaml_string(writer, value ? value : "");
        break;
    }
    case CONFIG_INTEGER:
        yaml_integer(writer, *(const int64_t *)field);
        break;
    case CONFIG_DURATION:
        (void)snprintf(words, sizeof words, "%lldms", (long long)*(const int64_t *)field);
        yaml_string(writer, words);
        break;
    case CONFIG_PORTS:
        (void)snprintf(words, sizeof words, "%lld-%lld", (long long)config->host_port_first,
                       (long long)config->host_port_last);
        yaml_string(writer, words);
        break;
    case CONFIG_BOOLEAN:
        yaml_boolean(writer, *(const bool *)field);
        break;
    case CONFIG_LISTEN:
        yaml_list(writer, config->n_listen == 0);
        for (unsigned i = 0; i < config->n_listen; i++)
            yaml_string(writer, config->listen[i]);
        yaml_list_end(writer);
        break;
    }
}

/* What a key means, as comments. */
static void write_words(struct text *out, const struct config_key *key)
{
    char flag[40];

    (void)snprintf(flag, sizeof flag, "%s", key->name);
    for (char *c = flag; *c; c++)
        if (*c == '_')
            *c = '-';
    text_addf(out, "# %s\n# --%s%s%s", key->doc, flag, key->words ? " " : "",
              key->words ? key->words : "");
    if (key->initial && *key->initial)
        text_addf(out, "; default %s", key->initial);
    text_add(out, key->live ? "; read again on SIGHUP\n" : "\n");
}

static int write_key(struct text *out, const struct config *config, const struct config_key *key)
{
    struct yaml_writer writer;

    yaml_begin(&writer);
    yaml_map(&writer, false);
    yaml_key(&writer, key->name);
    write_value(&writer, config, key);
    yaml_map_end(&writer);
    return yaml_finish(&writer, out, NULL);
}

bool config_differs(const struct config *a, const struct config *b, const struct config_key *key)
{
    CLEANUP_TEXT struct text one = TEXT_INIT, other = TEXT_INIT;

    return write_key(&one, a, key) < 0 || write_key(&other, b, key) < 0 || one.failed ||
           other.failed || strcmp(one.data, other.data) != 0;
}

/* A path that was not worked out yet (config_load() does it): an empty one would not be taken. */
static bool has_no_value(const struct config *config, const struct config_key *key)
{
    const char *value = key->type == CONFIG_PATH && !key->initial
                            ? *(char *const *)((const char *)config + key->offset)
                            : "-";

    return !value || !*value;
}

char *config_text(const struct config *config)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;

    for (size_t i = 0; i < n_config_keys; i++) {
        text_add(&out, i ? "\n" : "");
        write_words(&out, &config_keys[i]);
        if (!has_no_value(config, &config_keys[i]) && write_key(&out, config, &config_keys[i]) < 0)
            return NULL;
    }
    return text_take(&out);
}
