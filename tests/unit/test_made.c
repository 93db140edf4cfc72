/* Responses that are made once and sent often. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "server/made.h"
#include "server/request.h"

static struct shared_bytes *bytes(void)
{
    struct shared_bytes *made = shared_bytes_new(strdup("{}\n"), 3);

    cr_assert_not_null(made);
    return made;
}

static struct made *make(struct shared_bytes *of, const char *id)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(3, (void *)(uintptr_t) "{}\n", MHD_RESPMEM_PERSISTENT);

    cr_assert_eq(MHD_add_response_header(response, "X-Request-Id", id), MHD_YES);
    cr_assert_eq(MHD_add_response_header(response, "ETag", "\"1-1\""), MHD_YES);
    struct made *made = made_new(of, response, id);
    cr_assert_not_null(made);
    return made;
}

static enum MHD_Result tell(void *context, enum MHD_ValueKind kind, const char *name,
                            const char *value)
{
    char *told = context;
    const size_t length = strlen(told);

    (void)kind;
    (void)snprintf(told + length, 256 - length, "%s=%s ", name, value);
    return MHD_YES;
}

Test(made, names_each_request)
{
    struct shared_bytes *of = bytes();
    char longest[MADE_ID_SIZE], told[256] = "";

    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    made_give(make(of, "first"));
    for (int i = 0; i < 3; i++) {
        const char *id = i % 2 ? longest : "b";
        struct made *made = made_take(of, id);
        cr_assert_not_null(made);
        cr_expect_str_eq(MHD_get_response_header(made->response, "X-Request-Id"), id);
        cr_expect_eq(MHD_get_response_headers(made->response, NULL, NULL), 2);
        made_give(made);
    }
    struct made *made = made_take(of, "last");
    (void)MHD_get_response_headers(made->response, tell, told);
    cr_expect_not_null(strstr(told, "X-Request-Id=last "));
    cr_expect_not_null(strstr(told, "ETag=\"1-1\" "));
    made_give(made);
    shared_bytes_unref(of);
}

Test(made, is_with_one_request)
{
    struct shared_bytes *of = bytes();

    cr_expect_null(made_take(of, "a"), "nothing was made yet");
    struct made *made = make(of, "a");
    cr_expect_null(made_take(of, "b"), "it is being sent");
    made_give(made);
    cr_assert_eq(made_take(of, "b"), made);
    cr_expect_null(made_take(of, "c"));
    struct made *other = make(of, "c");
    made_give(made);
    made_give(other); /* in its place */
    cr_expect_eq(made_take(of, "d"), other);
    made_give(other);
    made_give(NULL);
    shared_bytes_unref(of);
}

/* The bytes of a bottle that is gone may be followed by others at their address. */
Test(made, keeps_its_bytes)
{
    enum { MANY = 1000 };
    struct shared_bytes *of[MANY];
    struct made *kept[MANY];
    unsigned n_kept = 0;

    for (size_t i = 0; i < MANY; i++) {
        of[i] = bytes();
        made_give(make(of[i], "a"));
        shared_bytes_unref(of[i]);
        struct shared_bytes *next = bytes();
        cr_expect_neq(next, of[i]);
        cr_expect_null(made_take(next, "b"));
        shared_bytes_unref(next);
        struct made *made = made_take(of[i], "c");
        cr_expect_not_null(made);
        made_give(made);
    }
    for (size_t i = 0; i < MANY; i++) {
        kept[n_kept] = made_take(of[i], "d"); /* an address may have been one's before */
        n_kept += kept[n_kept] != NULL;
    }
    cr_expect_gt(n_kept, 1, "each has a place by its address");
    cr_expect_leq(n_kept, 64, "and there are so many");
    while (n_kept > 0)
        made_give(kept[--n_kept]);
}

static void *look(void *context)
{
    cr_expect_null(made_take(context, "b"), "another thread's");
    made_give(make(context, "c"));
    return NULL; /* what it kept is freed: a leak would be a sanitizer's report */
}

Test(made, is_the_threads_own)
{
    struct shared_bytes *of = bytes();
    pthread_t thread;

    made_give(make(of, "a"));
    cr_assert_eq(pthread_create(&thread, NULL, look, of), 0);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    struct made *made = made_take(of, "d");
    cr_expect_not_null(made);
    made_give(made);
    shared_bytes_unref(of);
}
