/* Finding programs, and what of it is remembered. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/choices.h"
#include "backends/tools.h"
#include "base/file.h"

struct place {
    char folder[64];
    char program[128]; /* the last that place_add() made */
};

static void place_make(struct place *place)
{
    (void)snprintf(place->folder, sizeof place->folder, "/tmp/test-tools-XXXXXX");
    cr_assert_not_null(mkdtemp(place->folder));
}

static void place_add(struct place *place, const char *name)
{
    (void)snprintf(place->program, sizeof place->program, "%s/%s", place->folder, name);
    int fd = open(place->program, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
    cr_assert_geq(fd, 0);
    (void)close(fd);
}

static bool is_there(const struct place *place, const char *name)
{
    char found[256];

    return tool_is_there(place->folder, name, found, sizeof found) == 0;
}

Test(tools, a_relative_or_empty_part_of_the_path_is_not_searched)
{
    char found[256];

    cr_expect_eq(tool_find("::.:bin", "sh-that-is-not-there", found, sizeof found), -1);
    cr_assert_eq(chdir("/bin"), 0);
    cr_expect_eq(tool_find("", "sh", found, sizeof found), -1);
    cr_expect_eq(tool_find(".", "sh", found, sizeof found), -1);
    cr_expect_eq(tool_find("/bin", "sh", found, sizeof found), 0);
}

/* It is remembered for a second, not believed. */
Test(tools, a_program_that_goes_is_missing_at_once)
{
    struct place place;

    place_make(&place);
    place_add(&place, "a-tool");
    for (int i = 0; i < 2; i++)
        cr_expect(is_there(&place, "a-tool"));
    cr_expect_neq(tool_is_there("/bin", "a-tool", (char[256]){0}, 256), 0, "another path");
    cr_assert_eq(chmod(place.program, 0600), 0);
    cr_expect_not(is_there(&place, "a-tool"));
    cr_assert_eq(unlink(place.program), 0);
    cr_expect_not(is_there(&place, "a-tool"));
    place_add(&place, "a-tool");
    cr_expect(is_there(&place, "a-tool"));
    cr_expect_eq(directory_remove(place.folder, NULL, NULL), 0);
}

/* What is run is looked for each time: here where one comes before it. */
Test(tools, the_first_one_is_run)
{
    struct place before, place;
    char list[160], found[256];

    place_make(&before);
    place_make(&place);
    (void)snprintf(list, sizeof list, "%s:%s", before.folder, place.folder);
    place_add(&place, "a-tool");
    cr_expect_eq(tool_is_there(list, "a-tool", found, sizeof found), 0);
    cr_expect_eq(tool_find(list, "a-tool", found, sizeof found), 0);
    cr_expect_str_eq(found, place.program);
    place_add(&before, "a-tool");
    cr_expect_eq(tool_find(list, "a-tool", found, sizeof found), 0);
    cr_expect_str_eq(found, before.program);
    cr_expect_eq(directory_remove(before.folder, NULL, NULL), 0);
    cr_expect_eq(directory_remove(place.folder, NULL, NULL), 0);
}

/* More than are remembered. */
Test(tools, each_of_many_is_found)
{
    struct place place;
    char name[16];

    place_make(&place);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 40; i++) {
            (void)snprintf(name, sizeof name, "tool-%d", i);
            if (round == 0)
                place_add(&place, name);
            cr_expect(is_there(&place, name), "%s", name);
        }
    cr_expect_eq(directory_remove(place.folder, NULL, NULL), 0);
}

Test(tools, a_choice_is_kept_for_its_own)
{
    struct choices *choices = choices_new();
    struct backend_choice choice = {&backends[1], "words"};

    cr_expect_not(choices_backend(choices, &choice));
    choices_keep_backend(choices, &choice);
    choices_keep_engine(choices, SIDECAR_PIPELOCK, &engines[1]);
    choice = (struct backend_choice){0};
    cr_expect(choices_backend(choices, &choice));
    cr_expect_eq(choice.backend, &backends[1]);
    cr_expect_str_eq(choice.words, "words");
    cr_expect_eq(choices_engine(choices, SIDECAR_PIPELOCK), &engines[1]);
    cr_expect_null(choices_engine(choices, SIDECAR_GIT_GATE));
    choices_free(choices);
    cr_expect_not(choices_backend(NULL, &choice));
    cr_expect_null(choices_engine(NULL, SIDECAR_PIPELOCK));
    choices_keep_backend(NULL, &choice);
    choices_keep_engine(NULL, SIDECAR_PIPELOCK, &engines[1]);
}

/* auto's engine is remembered, and looked at again. */
Test(tools, an_engine_that_goes_is_not_chosen)
{
    struct place place;
    struct host host = {.tools_path = place.folder, .choices = choices_new()};
    char found[256];

    place_make(&place);
    place_add(&place, "pipelock");
    for (int i = 0; i < 2; i++)
        cr_expect_str_eq(engine_choose(&host, SIDECAR_PIPELOCK, "auto", found, sizeof found)->name,
                         "pipelock");
    cr_assert_eq(unlink(place.program), 0);
    cr_expect_str_eq(engine_choose(&host, SIDECAR_PIPELOCK, "auto", found, sizeof found)->name,
                     "squid");
    choices_free(host.choices);
    cr_expect_eq(directory_remove(place.folder, NULL, NULL), 0);
}
