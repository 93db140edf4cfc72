/* GET /bottles: a page, oldest first.
 *
 * The cursor is the sequence of the last bottle of the page before, so pages hold still while
 * bottles are made and deleted. The registry is read in slices and the filters run on the slices,
 * outside its lock; bodies are put together from the snapshots' own JSON. */
#include "server/handlers.h"

#include <stdio.h>
#include <string.h>

#include "base/number.h"
#include "base/text.h"
#include "base/util.h"
#include "server/app.h"
#include "server/query.h"
#include "server/registry.h"

enum { SLICE = 256, LABELS_MAX = 16, LIMIT_DEFAULT = 100, LIMIT_MAX = 1000 };

/* Opaque to clients, and not a number that they would be tempted to make up. */
#define CURSOR_PREFIX "after-"

struct label {
    const char *key; /* with its length, up to the '=' */
    size_t key_length;
    const char *value;
};

struct filter {
    unsigned states; /* 0: any */
    struct label labels[LABELS_MAX];
    size_t n_labels;
};

struct page {
    struct filter filter;
    uint64_t after, last; /* `last`: sequence of the last bottle that is in */
    int64_t limit;
    int64_t count;
    bool more;
    struct text body;
};

static int read_labels(struct request *request, struct filter *filter)
{
    const char *value;

    for (size_t k = 0; (value = request_query_nth(request, "label", k)); k++) {
        const char *equals = strchr(value, '=');
        if (!equals || equals == value || k == LABELS_MAX) {
            reply_fault(request, "invalid-query", "label: at most %d of the form name=value",
                        LABELS_MAX);
            return -1;
        }
        filter->labels[filter->n_labels++] =
            (struct label){value, (size_t)(equals - value), equals + 1};
    }
    return 0;
}

static int read_cursor(struct request *request, uint64_t *ret)
{
    const char *value = request_query(request, "after");
    const size_t length = strlen(CURSOR_PREFIX);
    int64_t number;

    if (!value)
        return 0;
    if (strncmp(value, CURSOR_PREFIX, length) != 0 ||
        number_parse(value + length, 0, INT64_MAX, &number) < 0) {
        reply_fault(request, "invalid-query", "after: the \"next\" of an earlier page, as it was");
        return -1;
    }
    *ret = (uint64_t)number;
    return 0;
}

static bool label_fits(const struct label *label, const json_t *labels)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)labels, key,
                        value) if (strlen(key) == label->key_length &&
                                   memcmp(key, label->key, label->key_length) ==
                                       0) return json_is_string(value) &&
        strcmp(json_string_value(value), label->value) == 0;
    return false;
}

static bool fits(const struct filter *filter, const struct snapshot *snapshot)
{
    if (filter->states && !(filter->states >> snapshot->bottle.state & 1))
        return false;
    for (size_t i = 0; i < filter->n_labels; i++)
        if (!label_fits(&filter->labels[i], snapshot->bottle.labels))
            return false;
    return true;
}

/* Takes one more into the page; false when it is full, and then there are more. */
static bool add(struct page *page, const struct snapshot *snapshot)
{
    if (!fits(&page->filter, snapshot))
        return true;
    if (page->count == page->limit) {
        page->more = true;
        return false;
    }
    text_add(&page->body, page->count++ ? "," : "");
    text_add_bytes(&page->body, snapshot->json_text, snapshot->json_length);
    page->last = snapshot->sequence;
    return true;
}

static void fill(struct registry *registry, struct page *page)
{
    struct snapshot *slice[SLICE];
    bool going = true;
    size_t count;

    while (going && (count = registry_page(registry, page->after, slice, SLICE)) > 0) {
        page->after = slice[count - 1]->sequence;
        for (size_t i = 0; i < count; i++) {
            going = going && add(page, slice[i]);
            snapshot_release(slice[i]);
        }
    }
}

void handle_bottle_list(struct request *request)
{
    struct page page = {.limit = LIMIT_DEFAULT, .body = TEXT_INIT};

    if (query_states(request, "state", (1U << N_STATES) - 1, &page.filter.states) < 0 ||
        query_integer(request, "limit", 1, LIMIT_MAX, &page.limit) < 0 ||
        read_labels(request, &page.filter) < 0 || read_cursor(request, &page.after) < 0)
        return;
    text_add(&page.body, "{\"bottles\":[");
    fill(request_app(request)->registry, &page);
    if (page.more)
        text_addf(&page.body, "],\"next\":\"" CURSOR_PREFIX "%llu\"}",
                  (unsigned long long)page.last);
    else
        text_add(&page.body, "],\"next\":null}");
    char *body = text_take(&page.body);
    if (body)
        reply_text(request, 200, "application/json", body);
    else
        reply_fault(request, NULL, "out of memory");
}
