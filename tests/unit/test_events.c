/* The table of events in pages, and what a supervisor says of egress, made harmless. */
#include <criterion/criterion.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>

#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "server/egress.h"
#include "server/engine_internal.h"
#include "server/events.h"
#include "server/feed.h"

static char directory[64];

static void set_up(void)
{
    (void)snprintf(directory, sizeof directory, "/tmp/bottled-events-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void tear_down(void)
{
    cr_assert_eq(directory_remove(directory, NULL, NULL), 0);
}

static struct store *open_store(int64_t rows)
{
    struct error err = ERROR_INIT;
    struct store *store = store_open(directory, &err);

    cr_assert_not_null(store, "%s", err.text);
    cr_assert_eq(events_bound(store, rows, &err), 0, "%s", err.text);
    return store;
}

/* Stores `count` events and returns a store in which they are committed. */
static struct store *with_events(int64_t rows, int count)
{
    static const char *const slugs[] = {"one", "two"};
    struct store *store = open_store(rows);

    for (int i = 0; i < count; i++) {
        struct event_list *list = event_list_new(slugs[i % 2]);
        event_list_add(list, i % 3 ? "bottle.running" : "egress.denied",
                       json_pack("{s:i}", "n", i + 1));
        event_list_submit(list, store);
    }
    store_close(store); /* commits what is queued */
    return open_store(rows);
}

static json_t *page(struct store *store, struct events_query query)
{
    struct error err = ERROR_INIT;
    json_t *ret = events_page(store, &query, &err);

    cr_assert(ret, "%s", err.text);
    return ret;
}

static void expect_page(struct store *store, struct events_query query, size_t count,
                        int64_t first_id, int64_t next, int64_t first, bool gap)
{
    CLEANUP_JSON json_t *got = page(store, query);
    const json_t *events = json_object_get(got, "events");

    cr_expect_eq(json_array_size(events), count, "%zu events", json_array_size(events));
    cr_expect_eq(json_member_integer(json_array_get(events, 0), "id", 0), first_id);
    cr_expect_eq(json_member_integer(got, "next", -1), next);
    cr_expect_eq(json_member_integer(got, "first", -1), first);
    cr_expect_eq(json_is_true(json_object_get(got, "gap")), gap);
}

Test(events, pages, .init = set_up, .fini = tear_down)
{
    struct store *store = with_events(1000, 20);
    uint64_t denied = UINT64_C(1) << event_type_parse("egress.denied");

    expect_page(store, (struct events_query){.limit = 7}, 7, 1, 7, 1, false);
    expect_page(store, (struct events_query){.after = 14, .limit = 7}, 6, 15, 20, 1, false);
    expect_page(store, (struct events_query){.after = 20, .limit = 7}, 0, 0, 20, 1, false);
    expect_page(store, (struct events_query){.after = 13, .limit = 7}, 7, 14, 20, 1, false);
    expect_page(store, (struct events_query){.limit = 100, .slug = "two"}, 10, 2, 20, 1, false);
    expect_page(store, (struct events_query){.limit = 3, .slug = "two"}, 3, 2, 6, 1, false);
    expect_page(store, (struct events_query){.limit = 100, .types = denied}, 7, 1, 20, 1, false);
    expect_page(store, (struct events_query){.after = 1, .limit = 2, .types = denied}, 2, 4, 7, 1,
                false);
    expect_page(store, (struct events_query){.limit = 9, .slug = "nobody"}, 0, 0, 20, 1, false);
    expect_page(store, (struct events_query){.after = 21, .limit = 9}, 0, 0, 20, 1, true);
    store_close(store);
}

Test(events, the_oldest_go, .init = set_up, .fini = tear_down)
{
    struct store *store = with_events(5, 20);

    expect_page(store, (struct events_query){.limit = 100}, 5, 16, 20, 16, true);
    expect_page(store, (struct events_query){.after = 15, .limit = 100}, 5, 16, 20, 16, false);
    expect_page(store, (struct events_query){.after = 14, .limit = 100}, 5, 16, 20, 16, true);
    store_close(store);
    store = open_store(2);
    expect_page(store, (struct events_query){.after = 18, .limit = 100}, 2, 19, 20, 19, false);
    store_close(store);
}

Test(events, of_an_empty_table, .init = set_up, .fini = tear_down)
{
    struct store *store = open_store(5);

    expect_page(store, (struct events_query){.limit = 100}, 0, 0, 0, 1, false);
    store_close(store);
}

Test(events, types_are_known_by_name)
{
    for (int i = 0; event_type(i); i++)
        cr_expect_eq(event_type_parse(event_type(i)), i);
    cr_expect_eq(event_type_parse("bottle"), -1);
    cr_expect_eq(event_type_parse(""), -1);
}

/* --- Egress ----------------------------------------------------------------------------------- */

static struct egress_news *news_of(const char *text)
{
    static struct egress_news news;
    struct error err = ERROR_INIT;
    CLEANUP_JSON json_t *packet = json_parse(text, strlen(text), &err);

    cr_assert(packet, "%s", err.text);
    egress_news_read(packet, &news);
    return &news;
}

Test(egress, a_packet_is_read)
{
    const struct egress_news *news =
        news_of("{\"egress\":[{\"verdict\":\"allowed\",\"host\":\"a.example\",\"port\":443,"
                "\"rule\":\"*.example\",\"why\":null,\"count\":2,\"bytes_out\":3,\"bytes_in\":4,"
                "\"last_ms\":5}],\"lost\":6,\"totals\":{\"allowed\":7,\"denied\":8,"
                "\"bytes_out\":9,\"bytes_in\":10}}");

    cr_assert_eq(news->count, 1);
    cr_expect(news->notes[0].allowed);
    cr_expect_str_eq(news->notes[0].host, "a.example");
    cr_expect_str_eq(news->notes[0].rule, "*.example");
    cr_expect_str_eq(news->notes[0].why, "");
    cr_expect_eq(news->notes[0].port, 443);
    cr_expect_eq(news->notes[0].count + news->notes[0].bytes_out + news->notes[0].bytes_in, 9);
    cr_expect_eq(news->lost, 6);
    cr_expect_eq(news->totals.bytes_in, 10);
}

Test(egress, whatever_a_packet_holds)
{
    static const char *const odd[] = {"{}", "{\"egress\":7,\"lost\":-1,\"totals\":null}",
                                      "{\"egress\":[1,null,{},{\"verdict\":\"allowed\"},[]]}",
                                      "{\"egress\":[{\"verdict\":\"no\",\"host\":\"x\"}]}",
                                      "{\"egress\":{\"verdict\":\"denied\",\"host\":\"x\"}}"};

    for (size_t i = 0; i < COUNT_OF(odd); i++) {
        const struct egress_news *news = news_of(odd[i]);
        cr_expect_eq(news->count, 0);
        cr_expect_eq(news->lost, 0);
    }
}

Test(egress, more_notes_than_there_is_room_for_are_counted)
{
    static struct egress_news news;
    CLEANUP_JSON json_t *list = json_array();

    for (int i = 0; i < 70; i++)
        json_array_append_new(list, json_pack("{s:s, s:s}", "verdict", "denied", "host", "x"));
    CLEANUP_JSON json_t *packet = json_pack("{s:O, s:i}", "egress", list, "lost", 10);
    egress_news_read(packet, &news);
    cr_expect_eq(news.count, EGRESS_NOTES_MAX);
    cr_expect_eq(news.lost, 16);
}

Test(egress, words_are_cut_and_cleaned)
{
    static const struct {
        const char *from, *to;
    } words[] = {{"a\x01\x1f\x7f z", "a??? z"},
                 {"\xc2\x80\xc2\x9f\xc2\xa0", "????\xc2\xa0"},
                 {"1234567890", "123456789"},
                 {"12345678\xc3\xa9", "12345678"},
                 {"1234567\xc3\xa9", "1234567\xc3\xa9"},
                 {"", ""}};
    char ret[10];

    for (size_t i = 0; i < COUNT_OF(words); i++) {
        egress_words(ret, sizeof ret, words[i].from);
        cr_expect_str_eq(ret, words[i].to);
    }
}

Test(egress, the_budget_is_a_burst_and_a_rate)
{
    struct egress_budget budget = {0};

    cr_expect_eq(egress_budget_take(&budget, 100, 1000), 100);
    cr_expect_eq(egress_budget_take(&budget, 100, 1000), EGRESS_BURST - 100);
    cr_expect_eq(egress_budget_take(&budget, 100, 1100), 0);
    cr_expect_eq(egress_budget_take(&budget, 100, 2000), EGRESS_RATE);
    for (int64_t ms = 2001; ms <= 3000; ms++) /* in small steps nothing is gained or lost */
        (void)egress_budget_take(&budget, 0, ms);
    cr_expect_eq(egress_budget_take(&budget, 100, 3000), EGRESS_RATE);
    cr_expect_eq(egress_budget_take(&budget, 1000, 1000000), EGRESS_BURST);
}

/* --- Reports ---------------------------------------------------------------------------------- */

Test(report, is_passed_when_all_are)
{
    static const struct {
        const char *packet;
        bool passed;
        size_t count;
    } reports[] = {
        {"{\"checks\":[{\"name\":\"a\",\"passed\":true}]}", true, 1},
        {"{\"checks\":[{\"name\":\"a\",\"passed\":true},{\"passed\":false}]}", false, 2},
        {"{\"checks\":[{\"passed\":true},{\"passed\":1}]}", false, 2},
        {"{\"checks\":[{\"passed\":true},7]}", false, 2},
        {"{\"checks\":[]}", false, 0},
        {"{\"checks\":{}}", false, 0},
        {"{}", false, 0},
    };

    for (size_t i = 0; i < COUNT_OF(reports); i++) {
        CLEANUP_JSON json_t *packet =
            json_parse(reports[i].packet, strlen(reports[i].packet), NULL);
        CLEANUP_JSON json_t *got = report_encode(packet);
        cr_expect_eq(json_is_true(json_object_get(got, "passed")), reports[i].passed, "%s",
                     reports[i].packet);
        cr_expect_eq(json_array_size(json_object_get(got, "checks")), reports[i].count);
    }
}

/* --- The live end --------------------------------------------------------------------------------
 */

static sem_t rung;

static void on_ring(void *context)
{
    (void)context;
    (void)sem_post(&rung);
}

static void submit(struct store *store, int count)
{
    for (int i = 0; i < count; i++) {
        struct event_list *list = event_list_new(i % 2 ? "two" : "one");
        event_list_add(list, i % 3 ? "bottle.running" : "egress.denied", NULL);
        event_list_submit(list, store);
    }
}

/* Submits `count` events and waits until the feed has them, up to the id `last`. */
static void grow(struct feed *feed, struct store *store, int count, int64_t last)
{
    struct events_query query = {.after = last - 1};

    submit(store, count);
    while (query.after < last) {
        CLEANUP_TEXT struct text out = TEXT_INIT;
        (void)sem_wait(&rung);
        cr_assert(feed_take(feed, &query, &out, 1));
    }
}

static void expect_taken(struct feed *feed, struct events_query query, const char *const ids[],
                         int64_t after)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;
    char *rest = NULL;
    size_t count = 0;

    text_add(&out, "\n");
    cr_assert(feed_take(feed, &query, &out, SIZE_MAX));
    cr_expect_eq(query.after, after);
    for (char *line = strtok_r(out.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "id: ", 4) != 0)
            continue;
        cr_assert(ids[count]);
        cr_expect_str_eq(line + 4, ids[count++]);
    }
    cr_expect_null(ids[count]);
}

Test(events, live_end, .init = set_up, .fini = tear_down, .timeout = 60)
{
    struct store *store = with_events(1000, 5);
    struct error err = ERROR_INIT;
    struct feed *feed = feed_start(store, 8, &err);
    struct events_query query = {.after = 4};
    CLEANUP_TEXT struct text out = TEXT_INIT;

    cr_assert(feed, "%s", err.text);
    (void)sem_init(&rung, 0, 0);
    feed_listen(feed, on_ring, NULL);
    feed_join(feed);
    cr_expect_not(feed_take(feed, &query, &out, SIZE_MAX), "what was there before is the store's");
    grow(feed, store, 6, 11); /* one, two, one, … and denied, running, running, denied, … */
    expect_taken(feed, (struct events_query){.after = 5},
                 (const char *[]){"6", "7", "8", "9", "10", "11", NULL}, 11);
    expect_taken(feed, (struct events_query){.after = 5, .slug = "two"},
                 (const char *[]){"7", "9", "11", NULL}, 11);
    expect_taken(
        feed,
        (struct events_query){.after = 5, .slug = "two", .types = event_types_named("egress.*")},
        (const char *[]){"9", NULL}, 11);
    grow(feed, store, 4, 15);
    query.after = 6;
    cr_expect_not(feed_take(feed, &query, &out, SIZE_MAX), "8 are kept");
    cr_expect_eq(query.after, 6);
    expect_taken(feed, (struct events_query){.after = 7},
                 (const char *[]){"8", "9", "10", "11", "12", "13", "14", "15", NULL}, 15);
    expect_taken(feed, (struct events_query){.after = 90}, (const char *[]){NULL}, 90);
    feed_free(feed);
    store_close(store);
    (void)sem_destroy(&rung);
}

/* Waits until the feed does not have an id that is past. */
static void await_gone(struct feed *feed, int64_t id)
{
    bool here;

    do {
        struct events_query query = {.after = id - 1};
        CLEANUP_TEXT struct text out = TEXT_INIT;
        here = feed_take(feed, &query, &out, 1);
        (void)sched_yield();
    } while (here);
}

static void await_stored(struct store *store, int64_t last)
{
    struct events_ends ends = {0};

    while (ends.last < last)
        cr_assert_eq(events_ends(store, &ends, NULL), 0);
}

Test(events, nothing_is_read_for_nobody, .init = set_up, .fini = tear_down, .timeout = 60)
{
    struct store *store = with_events(1000, 5);
    struct error err = ERROR_INIT;
    struct feed *feed = feed_start(store, 8, &err);

    cr_assert(feed, "%s", err.text);
    (void)sem_init(&rung, 0, 0);
    feed_listen(feed, on_ring, NULL);
    feed_join(feed);
    grow(feed, store, 1, 6);
    feed_leave(feed);
    submit(store, 3);
    await_stored(store, 9);
    await_gone(feed, 6); /* what was kept is not any more */
    while (sem_trywait(&rung) == 0)
        continue;
    feed_join(feed);
    (void)sem_wait(&rung); /* who has looked into the store before that looks again */
    await_gone(feed, 9);
    grow(feed, store, 2, 11);
    expect_taken(feed, (struct events_query){.after = 9}, (const char *[]){"10", "11", NULL}, 11);
    feed_join(feed);
    feed_leave(feed);
    grow(feed, store, 1, 12); /* one is left */
    feed_free(feed);
    store_close(store);
    (void)sem_destroy(&rung);
}

Test(events, families)
{
    cr_expect_eq(event_types_named("egress.denied"), UINT64_C(1)
                                                         << event_type_parse("egress.denied"));
    cr_expect_eq(event_types_named("bottle.*") & event_types_named("bottle.failed"),
                 event_types_named("bottle.failed"));
    cr_expect_eq(event_types_named("bottle.*") & event_types_named("guest.*"), 0);
    for (size_t i = 0; i < 6; i++)
        cr_expect_eq(
            event_types_named((const char *[]){"", "*", ".*", "bottle", "bottle.", "bott.*"}[i]),
            0);
}
