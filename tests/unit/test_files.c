/* Copies of files as the guest makes them, below a folder of the test's own: what goes in comes
 * out, and what an archive asks for stays below. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "base/util.h"
#include "guest/files.h"

static char base[64], said[600];
static int root = -1, real_stderr;

static void setup(void)
{
    (void)snprintf(base, sizeof base, "/tmp/files-%d", (int)getpid());
    cr_assert_eq(mkdir(base, 0755), 0);
    root = open(base, O_PATH | O_DIRECTORY | O_CLOEXEC);
    cr_assert_geq(root, 0);
    real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
}

static void teardown(void)
{
    (void)close(root);
    cr_expect_eq(directory_remove(base, NULL, NULL), 0);
}

/* A file without a name as one of the standard descriptors, for a while. */
static int stand_in(int fd, const void *bytes, size_t length, int *ret_kept)
{
    int memory = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    cr_assert_geq(memory, 0);
    cr_assert_eq(write_all(memory, bytes, length), 0);
    (void)lseek(memory, 0, SEEK_SET);
    *ret_kept = fcntl(fd, F_DUPFD_CLOEXEC, 10);
    cr_assert_eq(dup2(memory, fd), fd);
    return memory;
}

static size_t take_back(int memory, int fd, int kept, char *ret, size_t size)
{
    (void)dup2(kept, fd);
    (void)close(kept);
    (void)lseek(memory, 0, SEEK_SET);
    ssize_t got = read(memory, ret, size);
    (void)close(memory);
    return got < 0 ? 0 : (size_t)got;
}

static char out[1 << 20];
static size_t n_out;

static enum files_outcome copy_with(const void *input, size_t length, char *const *args)
{
    const struct files_owner user = {.uid = geteuid(), .gid = getegid()};
    int kept[3], memory[3];

    (void)fflush(NULL);
    memory[0] = stand_in(0, input, length, &kept[0]);
    memory[1] = stand_in(1, NULL, 0, &kept[1]);
    memory[2] = stand_in(2, NULL, 0, &kept[2]);
    enum files_outcome outcome = files_copy(root, args, &user);
    said[take_back(memory[2], 2, kept[2], said, sizeof said - 1)] = '\0';
    n_out = take_back(memory[1], 1, kept[1], out, sizeof out);
    (void)take_back(memory[0], 0, kept[0], NULL, 0);
    return outcome;
}

#define COPY(input, length, ...) copy_with((input), (length), (char *const[]){__VA_ARGS__, NULL})

static char *path_of(const char *path)
{
    static char whole[512];

    (void)snprintf(whole, sizeof whole, "%s%s", base, path);
    return whole;
}

static void expect_file(const char *path, const char *content)
{
    CLEANUP_FREE char *got = file_read(path_of(path), 1 << 20, NULL, NULL);

    cr_expect(got && strcmp(got, content) == 0, "%s: %s, not %s", path, got ? got : "none",
              content);
}

static void make(const char *path, const char *content)
{
    cr_assert_eq(file_write(path_of(path), content, strlen(content), 0644, false, NULL), 0);
}

Test(files, paths, .init = setup, .fini = teardown)
{
    static const char *const good[] = {"/", "/a", "/a/b c", "/...", "/.a/..b", "/a\nb"};
    static const char *const bad[] = {"",   "a",   "./a",   "//",   "/a/",   "/a//b",
                                      "/.", "/..", "/a/..", "/a/.", "/../a", "/a/./b"};
    char longest[FILES_PATH_MAX + 2] = "", part[FILES_NAME_MAX + 3] = "/";

    for (size_t i = 0; i < COUNT_OF(good); i++)
        cr_expect(files_path_fits(good[i]), "%s", good[i]);
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        cr_expect_not(files_path_fits(bad[i]), "%s", bad[i]);
    memset(part + 1, 'x', FILES_NAME_MAX);
    cr_expect(files_path_fits(part));
    part[FILES_NAME_MAX + 1] = 'x';
    cr_expect_not(files_path_fits(part));
    for (size_t i = 0; i + 1 < FILES_PATH_MAX; i += 2)
        memcpy(longest + i, "/a", 2);
    cr_expect(files_path_fits(longest));
    (void)snprintf(longest + strlen(longest), 3, "/a");
    cr_expect_not(files_path_fits(longest));
}

Test(files, owners, .init = setup, .fini = teardown)
{
    static const char *const bad[] = {":",    "1",    "1:",           ":1",   "1:2:3",        "a:b",
                                      "-1:1", "-0:1", "1:2000000000", " 1:1", "01234567890:1"};
    const struct files_owner fallback = {.uid = 7, .gid = 8};
    struct files_owner got;

    cr_expect(files_owner_parse("", &fallback, &got) && got.uid == 7 && got.gid == 8);
    cr_expect(files_owner_parse("0:1999999999", &fallback, &got) && got.gid == 1999999999U);
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        cr_expect_not(files_owner_parse(bad[i], &fallback, &got), "%s", bad[i]);
}

Test(files, one_goes_in_and_comes_out, .init = setup, .fini = teardown)
{
    struct stat status;

    cr_assert_eq(COPY("hello", 5, "put", "/made/new", "600", ""), FILES_DONE, "%s", said);
    expect_file("/made/new", "hello");
    cr_assert_eq(stat(path_of("/made/new"), &status), 0);
    cr_expect_eq(status.st_mode & 07777, 0600);
    cr_assert_eq(COPY("", 0, "get", "/made/new"), FILES_DONE);
    cr_expect_eq(strncmp(out, "file 5 600 ", 11), 0);
    cr_expect(memcmp(out + n_out - 6, "\nhello", 6) == 0);
    cr_assert_eq(COPY("other", 5, "put", "/made/new", "", ""), FILES_DONE);
    expect_file("/made/new", "other");
}

Test(files, what_can_not_be_copied, .init = setup, .fini = teardown)
{
    make("/file", "kept");
    cr_assert_eq(symlink("file", path_of("/link")), 0);
    cr_assert_eq(symlink(".", path_of("/here")), 0);
    cr_assert_eq(mkfifo(path_of("/fifo"), 0600), 0);
    cr_expect_eq(COPY("", 0, "get", "/none"), FILES_MISSING);
    cr_expect_eq(COPY("", 0, "get", "/none/x"), FILES_MISSING);
    cr_expect_eq(COPY("", 0, "get", "/link"), FILES_REFUSED);
    cr_expect(strstr(said, "is a link to file"), "%s", said);
    cr_expect_eq(COPY("", 0, "get", "/here/file"), FILES_REFUSED);
    cr_expect(strstr(said, "/here is a link to ."), "%s", said);
    cr_expect_eq(COPY("", 0, "get", "/fifo"), FILES_REFUSED);
    cr_expect_eq(COPY("", 0, "get", "/"), FILES_REFUSED);
    cr_expect_eq(COPY("x", 1, "put", "/fifo", "", ""), FILES_REFUSED);
    cr_expect_eq(COPY("x", 1, "put", "/file/x", "", ""), FILES_REFUSED);
    cr_expect_eq(COPY("x", 1, "put", "/here/x", "", ""), FILES_REFUSED);
    cr_expect_eq(COPY("", 0, "pack", "/here"), FILES_REFUSED);
    cr_expect_eq(COPY("", 0, "pack", "/file"), FILES_REFUSED);
    cr_expect_eq(COPY("", 0, "get", "/../etc/passwd"), FILES_FAILED);
    cr_expect_eq(COPY("", 0, "take", "/file"), FILES_FAILED);
    cr_expect_eq(COPY("", 0, "get", "/file", "x"), FILES_FAILED);
    expect_file("/file", "kept");
    cr_expect_eq(COPY("new", 3, "put", "/link", "", ""), FILES_DONE);
    expect_file("/file", "kept");
}

/* ── archives ── */

struct member {
    const char *name;
    char type; /* as tar has it */
    const char *content, *target;
};

static void put_octal(char *field, size_t size, unsigned long number)
{
    for (field[--size] = '\0'; size-- > 0; number >>= 3)
        field[size] = (char)('0' + (number & 7));
}

static void add_member(struct text *tar, const struct member *member)
{
    char block[512] = {0};
    size_t length = member->content ? strlen(member->content) : 0;
    unsigned long sum = 0;

    (void)snprintf(block, 100, "%s", member->name);
    put_octal(block + 100, 8, member->type == '5' ? 0755 : 0644);
    put_octal(block + 108, 8, geteuid());
    put_octal(block + 116, 8, getegid());
    put_octal(block + 124, 12, length);
    put_octal(block + 136, 12, 0);
    memset(block + 148, ' ', 8);
    block[156] = member->type;
    if (member->target)
        (void)snprintf(block + 157, 100, "%s", member->target);
    memcpy(block + 257,
           "ustar\0"
           "00",
           8);
    for (size_t i = 0; i < sizeof block; i++)
        sum += (unsigned char)block[i];
    put_octal(block + 148, 7, sum);
    text_add_bytes(tar, block, sizeof block);
    text_add_bytes(tar, member->content ? member->content : "", length);
    memset(block, 0, sizeof block);
    text_add_bytes(tar, block, (512 - length % 512) % 512);
}

static enum files_outcome unpack(const struct member *members, size_t count, const char *owner)
{
    static const char end[1024];
    CLEANUP_TEXT struct text tar = TEXT_INIT;

    for (size_t i = 0; i < count; i++)
        add_member(&tar, &members[i]);
    text_add_bytes(&tar, end, sizeof end);
    return COPY(tar.data, tar.length, "unpack", "/target", (char *)(uintptr_t)owner);
}

Test(files, a_folder_there_and_back, .init = setup, .fini = teardown)
{
    static const struct member members[] = {
        {"a/", '5', NULL, NULL},        {"a/file", '0', "content", NULL},
        {"/rooted/x", '0', "x", NULL},  {"./a/./dotted", '0', "y", NULL},
        {"a/link", '2', NULL, "file"},  {"a/hard", '1', NULL, "a/file"},
        {"a/fifo", '6', NULL, NULL},    {"a/device", '3', NULL, NULL},
        {"a/link/", '2', NULL, "gone"},
    };
    static char packed[1 << 16];

    cr_assert_eq(unpack(members, COUNT_OF(members), ""), FILES_DONE, "%s", said);
    out[n_out] = '\0';
    cr_expect_str_eq(out, "unpacked 8 9 1\n");
    expect_file("/target/a/file", "content");
    expect_file("/target/a/hard", "content");
    expect_file("/target/rooted/x", "x");
    expect_file("/target/a/dotted", "y");
    cr_assert_eq(COPY("", 0, "pack", "/target"), FILES_DONE, "%s", said);
    cr_assert(n_out > 8 && n_out < sizeof packed && memcmp(out, "archive\n", 8) == 0);
    size_t length = n_out - 8;
    memcpy(packed, out + 8, length);
    cr_assert_eq(length % 512, 0);
    cr_assert_eq(COPY(packed, length, "unpack", "/again", "keep"), FILES_DONE, "%s", said);
    expect_file("/again/a/file", "content");
    expect_file("/again/rooted/x", "x");
}

Test(files, an_archive_stays_below, .init = setup, .fini = teardown)
{
    static const struct {
        struct member members[2];
        enum files_outcome outcome;
    } rows[] = {
        {{{"../new", '0', "x", NULL}}, FILES_BAD_ARCHIVE},
        {{{"a/../../new", '0', "x", NULL}}, FILES_BAD_ARCHIVE},
        {{{"out/new", '0', "x", NULL}}, FILES_REFUSED},
        {{{"absolute/new", '0', "x", NULL}}, FILES_REFUSED},
        {{{"mine", '2', NULL, ".."}, {"mine/new", '0', "x", NULL}}, FILES_REFUSED},
        {{{"mine", '2', NULL, "/"}, {"mine/new/er", '0', "x", NULL}}, FILES_REFUSED},
        {{{"stolen", '1', NULL, "../kept"}}, FILES_BAD_ARCHIVE},
        {{{"stolen", '1', NULL, "out/kept"}, {"stolen", '0', "x", NULL}}, FILES_REFUSED},
        {{{"out", '5', NULL, NULL}}, FILES_REFUSED},
    };

    cr_assert_eq(mkdir(path_of("/target"), 0755), 0);
    cr_assert_eq(symlink("..", path_of("/target/out")), 0);
    cr_assert_eq(symlink(base, path_of("/target/absolute")), 0);
    make("/kept", "kept");
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        size_t count = rows[i].members[1].name ? 2 : 1;
        cr_expect_eq(unpack(rows[i].members, count, ""), rows[i].outcome, "row %zu: %s", i, said);
        cr_expect(said[0]);
        cr_expect(access(path_of("/new"), F_OK) < 0, "row %zu", i);
        expect_file("/kept", "kept");
        (void)unlink(path_of("/target/mine"));
    }
}

static uint32_t noise(uint32_t *state)
{
    *state = *state * 1664525U + 1013904223U;
    return *state >> 8;
}

Test(files, archives_of_noise, .init = setup, .fini = teardown)
{
    static const struct member members[] = {
        {"a/b", '0', "content of a file", NULL},
        {"long", 'L', "a/quite/long/name", NULL},
        {"x", '0', "y", NULL},
        {"pax", 'x', "18 path=a/b/../c\n", NULL},
        {"z", '0', "z", NULL},
        {"link", '2', NULL, "../.."},
        {"link/new", '0', "x", NULL},
        {"hard", '1', NULL, "x"},
    };
    CLEANUP_TEXT struct text tar = TEXT_INIT;
    uint32_t state = 1;

    for (size_t i = 0; i < COUNT_OF(members); i++)
        add_member(&tar, &members[i]);
    for (int round = 0; round < 600; round++) {
        CLEANUP_TEXT struct text bent = TEXT_INIT;
        text_add_bytes(&bent, tar.data, tar.length);
        for (uint32_t k = noise(&state) % 4; k-- > 0;)
            bent.data[noise(&state) % bent.length] = (char)noise(&state);
        size_t length = round % 3 ? bent.length : noise(&state) % bent.length;
        enum files_outcome outcome = COPY(bent.data, length, "unpack", "/target", "");
        cr_assert_leq(outcome, FILES_FAILED);
        cr_assert(outcome == FILES_DONE || said[0]);
    }
    cr_expect(access(path_of("/new"), F_OK) < 0);
}
