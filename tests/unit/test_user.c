/* USER of an image: who it is by the image's own files. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/util.h"
#include "guest/user.h"

static char etc[64];

static void put(const char *name, const char *text)
{
    char path[128];

    (void)snprintf(path, sizeof path, "%s/%s", etc, name);
    cr_assert_eq(file_write(path, text, strlen(text), 0644, false, NULL), 0);
}

static void make_etc(void)
{
    (void)snprintf(etc, sizeof etc, "/tmp/bottled-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(etc));
    put("passwd", "root:x:0:0:root:/root:/bin/sh\nbroken\n:::\nx:y:z:w\n"
                  "app:x:1000:1001:An app:/home/app:/bin/sh\nbare:x:7:8\n42:x:77:78::/n:\n"
                  "huge:x:99999999999:1::/:\nlast:x:5:6::relative");
    put("group", "root:x:0:\nstaff:x:50:other\nextra:x:60:other,app\nbroken:x\nalso:x:70:app,last\n"
                 "apps:x:80:application\nnumber:x:90:bare");
}

static void remove_etc(void)
{
    (void)directory_remove(etc, NULL, NULL);
}

Test(user, forms, .init = make_etc, .fini = remove_etc)
{
    static const struct {
        const char *text;
        unsigned uid, gid, n_groups;
        const char *home;
    } rows[] = {
        {"", 0, 0, 0, "/root"},
        {"root", 0, 0, 0, "/root"},
        {"0", 0, 0, 0, "/root"},
        {"app", 1000, 1001, 2, "/home/app"},
        {"1000", 1000, 1001, 2, "/home/app"},
        {"app:staff", 1000, 50, 0, "/home/app"},
        {"app:50", 1000, 50, 0, "/home/app"},
        {"app:", 1000, 1001, 2, "/home/app"},
        {":staff", 0, 50, 0, "/root"},
        {"4000", 4000, 0, 0, "/"},
        {"4000:4001", 4000, 4001, 0, "/"},
        {"bare", 7, 8, 1, "/"},
        {"42", 77, 78, 0, "/n"}, /* a name wins over a number */
        {"last", 5, 6, 1, "/"},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct user user;
        struct error err = ERROR_INIT;
        cr_assert_eq(user_resolve(etc, rows[i].text, &user, &err), 0, "%s: %s", rows[i].text,
                     err.text);
        cr_expect_eq(user.uid, rows[i].uid, "%s", rows[i].text);
        cr_expect_eq(user.gid, rows[i].gid, "%s", rows[i].text);
        cr_expect_eq(user.n_groups, rows[i].n_groups, "%s", rows[i].text);
        cr_expect_str_eq(user.home, rows[i].home, "%s", rows[i].text);
    }
}

Test(user, refused, .init = make_etc, .fini = remove_etc)
{
    static const char *const rows[] = {"nobody", "-1", "99999999999", "app:none",
                                       "huge",   "x",  "broken",      "a p p"};
    char longest[600];
    struct user user;
    struct error err;

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_expect_eq(user_resolve(etc, rows[i], &user, &err), -1, "%s", rows[i]);
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    cr_expect_eq(user_resolve(etc, longest, &user, &err), -1);
}

Test(user, files_that_are_none, .init = make_etc, .fini = remove_etc)
{
    char path[128];
    struct user user;

    remove_etc();
    cr_assert_eq(mkdir(etc, 0755), 0);
    cr_expect_eq(user_resolve(etc, "5:6", &user, NULL), 0);
    cr_expect_eq(user_resolve(etc, "app", &user, NULL), -1);
    (void)snprintf(path, sizeof path, "%s/passwd", etc);
    cr_assert_eq(mkfifo(path, 0644), 0);
    cr_expect_eq(user_resolve(etc, "app", &user, NULL), -1, "and it does not wait for a writer");
}

Test(user, root_is_changed_in_nothing, .init = make_etc, .fini = remove_etc)
{
    struct user user;

    cr_assert_eq(user_resolve(etc, "", &user, NULL), 0);
    cr_expect_eq(user_become(&user), 0);
}
