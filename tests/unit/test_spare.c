/* Blocks that threads keep at hand. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

#include "server/spare.h"

#ifndef KEEP_NO_SPARES
enum { KEPT = 1 };
#else
enum { KEPT = 0 };
#endif

Test(spare, is_taken_again)
{
    char *first = spare_take(SPARE_READ, 4096);

    cr_assert_not_null(first);
    memset(first, 1, 4096);
    spare_give(SPARE_READ, first);
    char *second = spare_take(SPARE_READ, 4096), *third = spare_take(SPARE_READ, 4096);
    if (KEPT)
        cr_expect_eq(second, first);
    cr_assert_not_null(third);
    cr_expect_neq(second, third, "only once");
    spare_give(SPARE_READ, second);
    spare_give(SPARE_READ, third);
    spare_give(SPARE_READ, NULL);
    char *other = spare_take(SPARE_REQUEST, 64);
    cr_assert_not_null(other);
    cr_expect_neq(other, second, "each kind has its own");
    spare_give(SPARE_REQUEST, other);
}

static void *take_and_give(void *context)
{
    char *own = spare_take(SPARE_READ, 4096);

    cr_expect_neq(own, *(char **)context, "another thread's");
    spare_give(SPARE_READ, own);
    return NULL; /* what it kept is freed: a leak would be a sanitizer's report */
}

Test(spare, is_the_threads_own)
{
    char *kept = spare_take(SPARE_READ, 4096);
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, take_and_give, &kept), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    spare_give(SPARE_READ, kept);
    cr_assert_eq(pthread_create(&thread, NULL, take_and_give, &kept), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
}
