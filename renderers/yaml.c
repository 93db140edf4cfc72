/* How it works: each call makes one libyaml event. libyaml writes a list that is a map's value at
 * the column of its key, and has no setting for that; yaml_finish() moves such lists two columns to
 * the right. That pass may go line by line because no value spans lines: all strings are
 * double-quoted and folding is off. */
#include "renderers/yaml.h"

#include <inttypes.h>
#include <stdio.h>

enum { NESTING_MAX = 16 };

static int collect(void *data, unsigned char *bytes, size_t length)
{
    struct yaml_writer *writer = data;

    text_add_bytes(&writer->raw, bytes, length);
    return !writer->raw.failed;
}

/* `made`: what yaml_…_event_initialize() answered. The emitter owns the event also when it fails.
 */
static void emit(struct yaml_writer *writer, yaml_event_t *event, int made)
{
    if (!made) {
        writer->failed = true;
    } else if (writer->failed) {
        yaml_event_delete(event);
    } else if (!yaml_emitter_emit(&writer->emitter, event)) {
        writer->failed = true;
    }
}

void yaml_begin(struct yaml_writer *writer)
{
    yaml_event_t event;

    writer->raw = (struct text)TEXT_INIT;
    writer->failed = !yaml_emitter_initialize(&writer->emitter);
    if (writer->failed)
        return;
    yaml_emitter_set_output(&writer->emitter, collect, writer);
    yaml_emitter_set_unicode(&writer->emitter, 1);
    yaml_emitter_set_width(&writer->emitter, -1);
    emit(writer, &event, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING));
    emit(writer, &event, yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1));
}

void yaml_map(struct yaml_writer *writer, bool flow)
{
    yaml_event_t event;

    emit(writer, &event,
         yaml_mapping_start_event_initialize(
             &event, NULL, NULL, 1, flow ? YAML_FLOW_MAPPING_STYLE : YAML_BLOCK_MAPPING_STYLE));
}

void yaml_map_end(struct yaml_writer *writer)
{
    yaml_event_t event;

    emit(writer, &event, yaml_mapping_end_event_initialize(&event));
}

void yaml_list(struct yaml_writer *writer, bool flow)
{
    yaml_event_t event;

    emit(writer, &event,
         yaml_sequence_start_event_initialize(
             &event, NULL, NULL, 1, flow ? YAML_FLOW_SEQUENCE_STYLE : YAML_BLOCK_SEQUENCE_STYLE));
}

void yaml_list_end(struct yaml_writer *writer)
{
    yaml_event_t event;

    emit(writer, &event, yaml_sequence_end_event_initialize(&event));
}

static void scalar(struct yaml_writer *writer, const char *value, yaml_scalar_style_t style)
{
    yaml_event_t event;

    emit(writer, &event,
         yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)value,
                                      (int)strlen(value), 1, 1, style));
}

void yaml_key(struct yaml_writer *writer, const char *name)
{
    scalar(writer, name, YAML_PLAIN_SCALAR_STYLE);
}

void yaml_string(struct yaml_writer *writer, const char *value)
{
    scalar(writer, value, YAML_DOUBLE_QUOTED_SCALAR_STYLE);
}

void yaml_integer(struct yaml_writer *writer, int64_t value)
{
    char digits[32];

    (void)snprintf(digits, sizeof digits, "%" PRId64, value);
    scalar(writer, digits, YAML_PLAIN_SCALAR_STYLE);
}

void yaml_boolean(struct yaml_writer *writer, bool value)
{
    scalar(writer, value ? "true" : "false", YAML_PLAIN_SCALAR_STYLE);
}

/* Columns at which lists that belong to a key at the same column are open, outermost first. */
struct open_lists {
    size_t columns[NESTING_MAX], count;
};

/* Takes in one line: closes what ended before it, opens the list that it begins. False: too deep.
 */
static bool follow(struct open_lists *lists, size_t column, bool item)
{
    while (lists->count) {
        size_t last = lists->columns[lists->count - 1];
        if (last < column || (last == column && item))
            break;
        lists->count--;
    }
    if (!item || (lists->count && lists->columns[lists->count - 1] == column))
        return true;
    if (lists->count == NESTING_MAX)
        return false;
    lists->columns[lists->count++] = column;
    return true;
}

static bool indent_lists(const struct text *raw, struct text *out)
{
    struct open_lists lists = {{0}, 0};

    for (const char *line = raw->data; line && *line;) {
        size_t column = strspn(line, " "), length = strcspn(line, "\n");
        if (!follow(&lists, column, line[column] == '-' && line[column + 1] == ' '))
            return false;
        for (size_t i = 0; i < lists.count; i++)
            text_add(out, "  ");
        text_add_bytes(out, line, length);
        text_add(out, "\n");
        line += length + (line[length] == '\n');
    }
    return true;
}

int yaml_finish(struct yaml_writer *writer, struct text *out, struct error *err)
{
    yaml_event_t event;

    emit(writer, &event, yaml_document_end_event_initialize(&event, 1));
    emit(writer, &event, yaml_stream_end_event_initialize(&event));
    bool good = !writer->failed && !writer->raw.failed && indent_lists(&writer->raw, out);
    yaml_emitter_delete(&writer->emitter);
    text_free(&writer->raw);
    return good && !out->failed ? 0 : error_set(err, NULL, "could not write YAML");
}
