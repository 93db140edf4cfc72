/* The registry: reservations that never collide, pages that hold still, snapshots that outlive
 * their place. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>

#include "base/hash.h"
#include "base/util.h"
#include "server/etag.h"
#include "server/registry.h"
#include "server/stage.h"

static const struct host host = {.state_dir = "/tmp/none", .run_dir = "/tmp/none"};

static struct registry *make(size_t max_bottles)
{
    const struct registry_limits limits = {max_bottles, 28000, 29999, 1};
    struct registry *registry = registry_new(&limits);

    cr_assert_not_null(registry);
    return registry;
}

static struct spec make_spec(const char *slug)
{
    struct spec spec = {.slug = slug ? strdup(slug) : NULL};

    return spec;
}

/* Reserves and gives the allocation back; the spec's slug is left in `ret_slug`. */
static enum reservation reserve(struct registry *registry, const char *slug, struct allocation *ret,
                                char ret_slug[64], struct error *err)
{
    static struct reservation_waiter waiter;
    struct spec spec = make_spec(slug);
    enum reservation result = registry_reserve(registry, &spec, ret, &waiter, err);

    if (ret_slug)
        (void)snprintf(ret_slug, 64, "%s", spec.slug ? spec.slug : "");
    spec_free(&spec);
    return result;
}

static void publish(struct registry *registry, const char *slug, uint64_t sequence,
                    enum bottle_state state, const struct allocation *allocation)
{
    struct bottle_row row = {.sequence = sequence, .state = state, .generation = 1};

    if (allocation)
        row.allocation = *allocation;
    (void)snprintf(row.slug, sizeof row.slug, "%s", slug);
    (void)snprintf(row.backend, sizeof row.backend, "qemu");
    struct plan_ref *plan = plan_ref_lazy(&host, &row, "{}", "{\"team\":\"ci\"}");
    cr_assert_not_null(plan);
    struct snapshot *snapshot = snapshot_new(&row, plan);
    cr_assert_not_null(snapshot);
    plan_ref_unref(plan);
    registry_publish(registry, snapshot);
}

static void create(struct registry *registry, const char *slug, uint64_t sequence)
{
    struct allocation allocation;
    struct error err = ERROR_INIT;

    cr_assert_eq(reserve(registry, slug, &allocation, NULL, &err), RESERVATION_MADE, "%s",
                 err.text);
    publish(registry, slug, sequence, STATE_PREPARED, &allocation);
}

Test(registry, thousand_reservations_share_nothing)
{
    static bool subnets[SUBNETS_MAX], ports[65536];
    struct registry *registry = make(5000);

    for (unsigned i = 0; i < 1000; i++) {
        struct allocation allocation;
        struct error err = ERROR_INIT;
        cr_assert_eq(reserve(registry, NULL, &allocation, NULL, &err), RESERVATION_MADE, "%s",
                     err.text);
        cr_assert_not(subnets[allocation.subnet]);
        cr_assert_not(ports[allocation.host_ports[0]]);
        cr_assert_eq(allocation.host_ports[1], 0);
        subnets[allocation.subnet] = ports[allocation.host_ports[0]] = true;
    }
    registry_free(registry);
}

Test(registry, what_is_given_back_can_be_had_again)
{
    struct registry *registry = make(5000);
    struct allocation first, second;
    struct error err = ERROR_INIT;

    cr_assert_eq(reserve(registry, "one", &first, NULL, &err), RESERVATION_MADE);
    cr_expect_null(registry_get(registry, "one"), "a reservation is not for readers");
    registry_unreserve(registry, "one");
    cr_assert_eq(reserve(registry, "one", &second, NULL, &err), RESERVATION_MADE);
    cr_expect_eq(first.subnet, second.subnet);
    publish(registry, "one", 1, STATE_PREPARED, &second);
    registry_remove(registry, "one");
    cr_expect_eq(registry_count(registry), 0);
    cr_assert_eq(reserve(registry, "one", &second, NULL, &err), RESERVATION_MADE);
    cr_expect_eq(first.subnet, second.subnet);
    registry_free(registry);
}

Test(registry, a_published_slug_is_taken)
{
    struct registry *registry = make(5000);
    struct allocation allocation;
    struct error err = ERROR_INIT;

    create(registry, "one", 1);
    cr_expect_eq(reserve(registry, "one", &allocation, NULL, &err), RESERVATION_REFUSED);
    cr_expect_str_eq(err.kind, "slug-taken");
    registry_free(registry);
}

static unsigned settled;

static void count_settled(struct reservation_waiter *waiter)
{
    (void)waiter;
    settled++;
}

Test(registry, a_slug_in_creation_is_waited_for_and_not_refused)
{
    struct registry *registry = make(5000);
    struct allocation allocation;
    struct error err = ERROR_INIT;
    struct reservation_waiter waiters[2] = {{count_settled, NULL}, {count_settled, NULL}};
    struct spec spec = make_spec("one");

    cr_assert_eq(reserve(registry, "one", &allocation, NULL, &err), RESERVATION_MADE);
    cr_expect_eq(registry_reserve(registry, &spec, &allocation, &waiters[0], &err),
                 RESERVATION_PENDING);
    cr_expect_eq(registry_reserve(registry, &spec, &allocation, &waiters[1], &err),
                 RESERVATION_PENDING);
    cr_expect_eq(settled, 0);
    publish(registry, "one", 1, STATE_PREPARED, &allocation);
    cr_expect_eq(settled, 2);
    cr_expect_eq(registry_reserve(registry, &spec, &allocation, &waiters[0], &err),
                 RESERVATION_REFUSED);
    spec_free(&spec);
    registry_free(registry);
}

Test(registry, the_limit_holds_and_reservations_count)
{
    struct registry *registry = make(2);
    struct allocation allocation;
    struct error err = ERROR_INIT;

    create(registry, "one", 1);
    cr_expect_eq(reserve(registry, "two", &allocation, NULL, &err), RESERVATION_MADE);
    cr_expect_eq(reserve(registry, "three", &allocation, NULL, &err), RESERVATION_REFUSED);
    cr_expect_str_eq(err.kind, "too-many-bottles");
    registry_unreserve(registry, "two");
    cr_expect_eq(reserve(registry, "three", &allocation, NULL, &err), RESERVATION_MADE);
    registry_free(registry);
}

Test(registry, a_made_up_slug_is_valid)
{
    struct registry *registry = make(10);
    struct allocation allocation;
    struct error err = ERROR_INIT;
    char slug[64];

    cr_assert_eq(reserve(registry, NULL, &allocation, slug, &err), RESERVATION_MADE);
    cr_expect(slug_valid(slug), "%s", slug);
    registry_free(registry);
}

Test(registry, rows_that_share_a_port_are_refused_at_start)
{
    struct registry *registry = make(10);
    struct error err = ERROR_INIT;
    struct bottle_row one = {.slug = "one", .allocation = {.subnet = 3, .host_ports = {20001}}};
    struct bottle_row two = {.slug = "two", .allocation = {.subnet = 4, .host_ports = {0, 20001}}};

    cr_expect_eq(registry_restore(registry, &one, &err), 0);
    cr_expect_eq(registry_restore(registry, &two, &err), -1);
    registry_free(registry);
}

Test(registry, each_address_has_all_ports_once)
{
    const struct registry_limits limits = {10, 28000, 28001, 2};
    struct registry *registry = registry_new(&limits);
    struct allocation each[4], one_more;
    struct error err = ERROR_INIT;
    char slug[64];

    for (size_t i = 0; i < COUNT_OF(each); i++) {
        cr_assert_eq(reserve(registry, NULL, &each[i], slug, &err), RESERVATION_MADE, "%s",
                     err.text);
        cr_expect_eq(each[i].loopback, i / 2, "the first address is filled first");
        for (size_t j = 0; j < i; j++)
            cr_expect(each[i].loopback != each[j].loopback ||
                      each[i].host_ports[0] != each[j].host_ports[0]);
    }
    cr_assert_eq(reserve(registry, NULL, &one_more, NULL, &err), RESERVATION_REFUSED);
    cr_expect_str_eq(err.kind, "no-free-port");
    cr_expect(strstr(err.text, "host_addresses"));
    registry_unreserve(registry, slug);
    cr_assert_eq(reserve(registry, NULL, &one_more, NULL, &err), RESERVATION_MADE);
    cr_expect_eq(one_more.loopback, each[3].loopback);
    cr_expect_eq(one_more.host_ports[0], each[3].host_ports[0]);
    registry_free(registry);
}

Test(registry, rows_with_one_port_of_two_addresses_are_taken_at_start)
{
    struct registry *registry = make(10);
    struct error err = ERROR_INIT;
    struct bottle_row one = {.slug = "one", .allocation = {.subnet = 3, .host_ports = {20001}}};
    struct bottle_row two = {.slug = "two",
                             .allocation = {.subnet = 4, .loopback = 255, .host_ports = {20001}}};
    struct bottle_row bad = {.slug = "bad",
                             .allocation = {.subnet = 5, .loopback = 256, .host_ports = {20002}}};

    cr_expect_eq(registry_restore(registry, &one, &err), 0);
    cr_expect_eq(registry_restore(registry, &two, &err), 0);
    cr_expect_eq(registry_restore(registry, &bad, &err), -1, "there is no such address");
    registry_free(registry);
}

Test(registry, every_subnet_has_its_bottle)
{
    const struct registry_limits limits = {SUBNETS_MAX, 28000, 29999, 1};
    struct registry *registry = registry_new(&limits);
    struct allocation last;
    struct error err = ERROR_INIT;

    for (unsigned subnet = 0; subnet < SUBNETS_MAX; subnet++) {
        struct bottle_row row = {.allocation.subnet = subnet};
        (void)snprintf(row.slug, sizeof row.slug, "b-%u", subnet);
        if (subnet != 17 && subnet != 40000)
            cr_assert_eq(registry_restore(registry, &row, &err), 0, "%s", err.text);
    }
    cr_assert_eq(reserve(registry, "lucky", &last, NULL, &err), RESERVATION_MADE, "%s", err.text);
    cr_expect_eq(last.subnet, 40000);
    cr_assert_eq(reserve(registry, "unlucky", &last, NULL, &err), RESERVATION_REFUSED);
    cr_expect_str_eq(err.kind, "no-free-subnet");
    registry_free(registry);
}

Test(registry, a_port_of_a_former_range_takes_none_of_the_present_one)
{
    const struct registry_limits limits = {10, 28000, 28000, 1};
    struct registry *registry = registry_new(&limits);
    struct allocation allocation;
    struct error err = ERROR_INIT;
    struct bottle_row old = {.slug = "old", .allocation = {.subnet = 3, .host_ports = {20001}}};

    cr_assert_eq(registry_restore(registry, &old, &err), 0);
    cr_assert_eq(reserve(registry, "new", &allocation, NULL, &err), RESERVATION_MADE, "%s",
                 err.text);
    cr_expect_eq(allocation.host_ports[0], 28000);
    registry_free(registry);
}

/* The slugs of a page in one string, and the last sequence. */
static uint64_t read_page(struct registry *registry, uint64_t after, size_t room, char *ret,
                          size_t size)
{
    struct snapshot *page[16];
    size_t count = registry_page(registry, after, page, room), length = 0;

    ret[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        length += (size_t)snprintf(ret + length, size - length, "%s ", page[i]->bottle.slug);
        after = page[i]->sequence;
        snapshot_release(page[i]);
    }
    return after;
}

Test(registry, pages_hold_still_while_bottles_come_and_go)
{
    struct registry *registry = make(100);
    char names[256];

    create(registry, "a", 1);
    create(registry, "b", 2);
    create(registry, "c", 3);
    create(registry, "d", 5);
    uint64_t after = read_page(registry, 0, 2, names, sizeof names);
    cr_expect_str_eq(names, "a b ");
    registry_remove(registry, "a");
    registry_remove(registry, "b");
    create(registry, "a", 9);
    after = read_page(registry, after, 2, names, sizeof names);
    cr_expect_str_eq(names, "c d ");
    publish(registry, "c", 3, STATE_FAILED, NULL);
    (void)read_page(registry, after, 2, names, sizeof names);
    cr_expect_str_eq(names, "a ");
    (void)read_page(registry, 0, 16, names, sizeof names);
    cr_expect_str_eq(names, "c d a ");
    registry_free(registry);
}

Test(registry, a_snapshot_stays_as_it_was)
{
    struct registry *registry = make(100);

    create(registry, "a", 1);
    struct snapshot *held = registry_get(registry, "a");
    cr_assert_not_null(held);
    publish(registry, "a", 1, STATE_RUNNING, NULL);
    struct snapshot *newer = registry_get(registry, "a");
    registry_remove(registry, "a");
    registry_free(registry);
    cr_expect_eq(held->bottle.state, STATE_PREPARED);
    cr_expect_eq(newer->bottle.state, STATE_RUNNING);
    cr_expect_eq(held->json_length, strlen(held->json_text) - 1);
    cr_expect_not_null(strstr(held->json_text, "\"team\":\"ci\""));
    cr_expect_eq(atomic_load(&held->references), 1);
    snapshot_release(held);
    snapshot_release(newer);
}

Test(registry, a_plan_that_can_not_be_resolved_says_so_and_hides_nothing)
{
    struct registry *registry = make(100);
    struct error err = ERROR_INIT;

    create(registry, "a", 1);
    struct snapshot *snapshot = registry_get(registry, "a");
    cr_expect_null(plan_ref_get(snapshot->plan, &err)); /* "{}" has no command */
    cr_expect_not_null(strstr(err.text, "a can not be resolved"), "%s", err.text);
    snapshot_release(snapshot);
    registry_free(registry);
}

struct crowd {
    struct registry *registry;
    unsigned number;
};

static void *come_and_go(void *context)
{
    const struct crowd *crowd = context;
    char slug[64];

    for (unsigned i = 0; i < 200; i++) {
        (void)snprintf(slug, sizeof slug, "t%u-%u", crowd->number, i);
        create(crowd->registry, slug, crowd->number * 1000 + i + 1);
        struct snapshot *page[8];
        size_t count = registry_page(crowd->registry, 0, page, 8);
        for (size_t k = 0; k < count; k++)
            snapshot_release(page[k]);
        if (i % 2)
            registry_remove(crowd->registry, slug);
    }
    return NULL;
}

Test(registry, many_threads_at_once)
{
    struct registry *registry = make(5000);
    struct crowd crowds[4];
    pthread_t threads[4];

    for (unsigned i = 0; i < 4; i++) {
        crowds[i] = (struct crowd){registry, i};
        cr_assert_eq(pthread_create(&threads[i], NULL, come_and_go, &crowds[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        (void)pthread_join(threads[i], NULL);
    cr_expect_eq(registry_count(registry), 400);
    registry_free(registry);
}

Test(registry, entity_tags)
{
    cr_expect(etag_listed("\"a\"", "a", false));
    cr_expect(etag_listed(" \"x\", \"a\"", "a", false));
    cr_expect(etag_listed("*", "a", false));
    cr_expect(etag_listed("W/\"a\"", "a", true));
    cr_expect_not(etag_listed("W/\"a\"", "a", false));
    cr_expect_not(etag_listed("a", "a", false));
    cr_expect_not(etag_listed("\"ab\"", "a", false));
    cr_expect_not(etag_listed("\"a", "a", false));
    cr_expect_not(etag_listed("", "a", false));
}

Test(registry, a_run_directory_is_named_by_a_hash)
{
    char digest[SHA256_HEX_SIZE], expected[64];
    char *path = run_path(&host, "one");

    sha256_hex("one", 3, digest);
    (void)snprintf(expected, sizeof expected, "/tmp/none/b/%.16s", digest);
    cr_expect_str_eq(path, expected);
    free(path);
}
