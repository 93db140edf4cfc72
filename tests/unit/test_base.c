/* The base library: text, numbers, JSON, digests, times, files, processes, the loop, errors. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/loop.h"
#include "base/number.h"
#include "base/process.h"
#include "base/text.h"
#include "base/util.h"

Test(text, grows_and_is_taken)
{
    struct text text = TEXT_INIT;

    for (int i = 0; i < 1000; i++)
        text_addf(&text, "%d,", i);
    text_add_bytes(&text, "a\0b", 3);
    cr_assert_eq(text.length, 3890 + 3);
    cr_assert_eq(text.data[text.length], '\0');
    char *data = text_take(&text);
    cr_assert_eq(strncmp(data, "0,1,2,", 6), 0);
    cr_assert_null(text.data);
    free(data);
    data = text_take(&text);
    cr_assert_str_eq(data, "", "an empty one is empty text, not NULL");
    free(data);
}

Test(text, failure_is_kept)
{
    struct text text = TEXT_INIT;

    text_add(&text, "x");
    text_add_bytes(&text, "", (size_t)-1 / 2);
    cr_assert(text.failed);
    text_add(&text, "y");
    cr_assert_null(text_take(&text));
    cr_assert_null(text.data, "it was released");
}

Test(number, parse)
{
    static const struct {
        const char *text;
        int64_t min, max, value;
        int result;
    } cases[] = {{"0", 0, 9, 0, 0},
                 {"9", 0, 9, 9, 0},
                 {"10", 0, 9, 0, -1},
                 {"-1", -5, 5, -1, 0},
                 {"-6", -5, 5, 0, -1},
                 {"", 0, 9, 0, -1},
                 {"-", -9, 9, 0, -1},
                 {"+1", 0, 9, 0, -1},
                 {" 1", 0, 9, 0, -1},
                 {"1 ", 0, 9, 0, -1},
                 {"1x", 0, 9, 0, -1},
                 {"0x1", 0, 9, 0, -1},
                 {"1.0", 0, 9, 0, -1},
                 {"--1", -9, 9, 0, -1},
                 {"9223372036854775807", 0, INT64_MAX, INT64_MAX, 0},
                 {"9223372036854775808", 0, INT64_MAX, 0, -1},
                 {"18446744073709551617", 0, INT64_MAX, 0, -1}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int64_t value = 77;
        int result = number_parse(cases[i].text, cases[i].min, cases[i].max, &value);
        cr_expect_eq(result, cases[i].result, "%s", cases[i].text);
        cr_expect_eq(value, result ? 77 : cases[i].value, "%s", cases[i].text);
    }
}

Test(number, duration)
{
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {{"0", 0},
                 {"30", 30000},
                 {"30s", 30000},
                 {"500ms", 500},
                 {"5m", 300000},
                 {"24h", 86400000},
                 {"86400s", 86400000},
                 {"25h", -1},
                 {"86401", -1},
                 {"", -1},
                 {"s", -1},
                 {"-1s", -1},
                 {"1.5s", -1},
                 {"1S", -1},
                 {"1 s", -1},
                 {"1d", -1},
                 {"1sm", -1},
                 {"99999999999999999999", -1}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int64_t ms = 7;
        int result = duration_parse(cases[i].text, &ms);
        cr_expect_eq(result, cases[i].ms < 0 ? -1 : 0, "%s", cases[i].text);
        cr_expect_eq(ms, cases[i].ms < 0 ? 7 : cases[i].ms, "%s", cases[i].text);
    }
}

static char *nested(size_t depth, const char *before, const char *after)
{
    struct text text = TEXT_INIT;

    for (size_t i = 0; i < depth; i++)
        text_add(&text, before);
    text_add(&text, "1");
    for (size_t i = 0; i < depth; i++)
        text_add(&text, after);
    return text_take(&text);
}

Test(json, strict)
{
    static const struct {
        const char *text;
        size_t length; /* 0: strlen */
        bool taken;
    } cases[] = {{"{\"a\":1}", 0, true},
                 {" [1, 2] \n", 0, true},
                 {"\"x\"", 0, true},
                 {"null", 0, true},
                 {"", 0, false},
                 {" ", 0, false},
                 {"{\"a\":1,\"a\":2}", 0, false},
                 {"{\"a\":{\"b\":1,\"b\":1}}", 0, false},
                 {"{} {}", 0, false},
                 {"{}x", 0, false},
                 {"{\"a\":\"\\u0000\"}", 0, false},
                 {"{\"\\u0000\":1}", 0, false},
                 {"\"a\0b\"", 5, false},
                 {"{}\0", 3, false},
                 {"\"\xff\"", 0, false},
                 {"\"\xc0\x80\"", 0, false},
                 {"\"\xed\xa0\x80\"", 0, false},
                 {"\"\\ud800\"", 0, false},
                 {"{'a':1}", 0, false},
                 {"{\"a\":1,}", 0, false},
                 {"[1,]", 0, false},
                 {"NaN", 0, false},
                 {"01", 0, false},
                 {"9223372036854775808", 0, false},
                 {"\"\n\"", 0, false},
                 {"// x\n1", 0, false},
                 {"\xef\xbb\xbf{}", 0, false}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct error err = ERROR_INIT;
        size_t length = cases[i].length ? cases[i].length : strlen(cases[i].text);
        CLEANUP_JSON json_t *value = json_parse(cases[i].text, length, &err);
        cr_expect_eq(value != NULL, cases[i].taken, "case %zu: %s", i, cases[i].text);
        if (!value)
            cr_expect_str_eq(err.kind, "malformed-json");
    }
}

Test(json, depth)
{
    CLEANUP_FREE char *most = nested(JSON_DEPTH_MAX, "[", "]");
    CLEANUP_FREE char *more = nested(JSON_DEPTH_MAX + 1, "{\"a\":", "}");
    CLEANUP_FREE char *bomb = nested(200000, "[", "");
    struct error err = ERROR_INIT;

    CLEANUP_JSON json_t *value = json_parse(most, strlen(most), &err);
    cr_assert_not_null(value);
    cr_assert_null(json_parse(more, strlen(more), &err));
    cr_assert_null(json_parse(bomb, strlen(bomb), &err));
    cr_assert(strstr(err.text, "32"));
    const char *quoted = "\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[\"";
    CLEANUP_JSON json_t *string = json_parse(quoted, strlen(quoted), &err);
    cr_assert_not_null(string, "brackets in a string are no depth");
}

Test(json, lossy_strings)
{
    static const struct {
        const char *bytes, *wanted;
    } cases[] = {{"", ""},
                 {"plain", "plain"},
                 {"\xc3\xa9\xf0\x9f\x98\x80", "\xc3\xa9\xf0\x9f\x98\x80"},
                 {"a\xff", "a\xef\xbf\xbd"},
                 {"\xc3", "\xef\xbf\xbd"},
                 {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf0\x9f\x98", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf4\x90\x80\x80z", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz"}};

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP_JSON json_t *value = json_string_lossy(cases[i].bytes);
        cr_expect_str_eq(json_string_value(value), cases[i].wanted, "case %zu", i);
    }
}

Test(hash, known_values)
{
    char digest[SHA256_HEX_SIZE];

    sha256_hex("", 0, digest);
    cr_expect_str_eq(digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_hex("abc", 3, digest);
    cr_expect_str_eq(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    cr_expect_eq(fnv1a32(""), 0x811c9dc5u);
    cr_expect_eq(fnv1a32("a"), 0xe40c292cu);
    cr_expect_eq(fnv1a32("foobar"), 0xbf9cf968u);
}

Test(clock, timestamps)
{
    static const struct {
        int64_t ms;
        const char *text;
    } cases[] = {{0, "1970-01-01T00:00:00.000Z"},
                 {951782399999, "2000-02-28T23:59:59.999Z"},
                 {1767323045678, "2026-01-02T03:04:05.678Z"},
                 {4102444800001, "2100-01-01T00:00:00.001Z"}};
    char stamp[TIMESTAMP_SIZE];

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        timestamp_format(cases[i].ms, stamp);
        cr_expect_str_eq(stamp, cases[i].text);
    }
    cr_expect_gt(clock_wall_ms(), 1700000000000);
    cr_expect_leq(clock_monotonic_ms(), clock_monotonic_ms());
}

Test(error, set_wrap_and_cut)
{
    struct error err = ERROR_INIT;
    char longest[2000] = {0};

    cr_assert_eq(error_set(&err, "timeout", "%d s", 3), -1);
    cr_assert_eq(error_wrap(&err, "starting %s", "qemu"), -1);
    cr_assert_str_eq(err.text, "starting qemu: 3 s");
    cr_assert_str_eq(err.kind, "timeout");
    errno = ENOENT;
    cr_assert_eq(error_errno(&err, NULL, "/x"), -1);
    cr_assert_str_eq(err.text, "/x: No such file or directory");
    cr_assert_eq(errno, ENOENT);
    memset(longest, 'x', sizeof longest - 1);
    error_wrap(&err, "%s", longest);
    cr_assert_eq(strlen(err.text), sizeof err.text - 1);
    error_wrap(&err, "%s", longest);
    error_errno(&err, NULL, "%s", longest);
    cr_assert_eq(strlen(err.text), sizeof err.text - 1);
    cr_assert_eq(error_set(NULL, NULL, "x"), -1);
    cr_assert_eq(error_wrap(NULL, "x"), -1);
    cr_assert_eq(error_errno(NULL, NULL, "x"), -1);
}

/* A directory of the test's own. */
static char *make_place(void)
{
    char *place = strdup("/tmp/bottled-base-XXXXXX");

    cr_assert_not_null(mkdtemp(place));
    return place;
}

static char *below(const char *place, const char *name)
{
    struct text text = TEXT_INIT;

    text_addf(&text, "%s/%s", place, name);
    return text_take(&text);
}

Test(file, write_read_replace)
{
    CLEANUP_FREE char *place = make_place(), *path = below(place, "f"),
                      *left = below(place, "f.new");
    CLEANUP_FREE char *nowhere = below(place, "no/f");
    struct error err = ERROR_INIT;
    struct stat status;
    size_t length;

    cr_assert_eq(file_write(path, "one\0two", 7, 0600, true, &err), 0, "%s", err.text);
    CLEANUP_FREE char *first = file_read(path, 7, &length, &err);
    cr_assert_eq(length, 7);
    cr_assert_eq(memcmp(first, "one\0two", 8), 0, "with a NUL after it");
    cr_assert_null(file_read(path, 6, NULL, &err), "larger than the limit");
    cr_assert_eq(symlink("/etc/hostname", left), 0);
    cr_assert_eq(file_write(path, "x", 1, 0640, false, &err), 0, "a planted link is not followed");
    cr_assert_eq(lstat(path, &status), 0);
    cr_assert(S_ISREG(status.st_mode) && (status.st_mode & 07777) == 0640 && status.st_size == 1);
    cr_assert_eq(access(left, F_OK), -1);
    cr_assert_eq(file_write(nowhere, "x", 1, 0600, false, &err), -1);
    cr_assert(strstr(err.text, nowhere));
    cr_assert_null(file_read(nowhere, 10, NULL, &err));
    cr_assert_null(file_read(place, 10, NULL, &err), "a directory");
    cr_assert_eq(directory_remove(place, NULL, &err), 0);
}

Test(file, large_file_is_read_whole)
{
    CLEANUP_FREE char *place = make_place(), *path = below(place, "f"), *big = malloc(1000000);
    struct error err = ERROR_INIT;
    size_t length;

    memset(big, 'z', 1000000);
    cr_assert_eq(file_write(path, big, 1000000, 0600, false, &err), 0);
    CLEANUP_FREE char *got = file_read(path, 1 << 20, &length, &err);
    cr_assert_eq(length, 1000000);
    cr_assert_eq(memcmp(got, big, length), 0);
    cr_assert_eq(directory_remove(place, NULL, &err), 0);
}

Test(file, directories)
{
    CLEANUP_FREE char *place = make_place(), *deep = below(place, "a/b/c"),
                      *file = below(place, "a/f");
    CLEANUP_FREE char *link = below(place, "a/b/link"), *out = make_place(),
                      *kept = below(out, "kept");
    CLEANUP_FREE char *top = below(place, "a"), *under = below(place, "a/f/x");
    struct error err = ERROR_INIT;
    off_t bytes = 0;

    cr_assert_eq(directory_make(deep, 0700, &err), 0, "%s", err.text);
    cr_assert_eq(directory_make(deep, 0700, &err), 0, "once more");
    cr_assert_eq(file_write(file, "12345", 5, 0600, false, &err), 0);
    cr_assert_eq(file_write(kept, "1", 1, 0600, false, &err), 0);
    cr_assert_eq(symlink(out, link), 0);
    cr_assert_eq(directory_make(file, 0700, &err), -1, "a file is in the way");
    cr_assert_eq(directory_make(under, 0700, &err), -1);
    cr_assert_eq(directory_make("", 0700, &err), -1);
    cr_assert_eq(directory_bytes(place), 5);
    cr_assert_eq(directory_remove(top, &bytes, &err), 0, "%s", err.text);
    cr_assert_eq(bytes, 5);
    cr_assert_eq(access(top, F_OK), -1);
    cr_assert_eq(access(kept, F_OK), 0, "what a link pointed at is still there");
    cr_assert_eq(directory_remove(top, &bytes, &err), 0, "missing is fine");
    cr_assert_eq(directory_bytes(top), 0);
    cr_assert_eq(directory_remove(out, NULL, &err), 0);
    cr_assert_eq(directory_remove(place, NULL, &err), 0);
}

Test(process, run_gives_output_and_status)
{
    const char *const argv[] = {"/bin/sh", "-c", "echo \"$A\"; echo err >&2; exit 3", NULL};
    const char *const env[] = {"A=x y", NULL};
    struct error err = ERROR_INIT;
    char *output, words[64];
    int status;

    cr_assert_eq(process_run(argv, env, 10000, 100, &output, &status, &err), 0, "%s", err.text);
    cr_assert_str_eq(output, "x y\nerr\n");
    wait_status_words(status, words, sizeof words);
    cr_assert_str_eq(words, "exit status 3");
    free(output);
    cr_assert_eq(process_run(argv, env, 10000, 5, &output, &status, &err), 0);
    cr_assert_str_eq(output, "x y\ne", "cut at the limit");
    free(output);
}

/* At the deadline everything that the program started goes too: the pipe that it holds open has an
 * end. */
Test(process, run_kills_at_the_deadline)
{
    CLEANUP_FREE char *place = make_place(), *pipe_path = below(place, "pipe");
    CLEANUP_FREE char *script = below(place, "pipe; sleep 30 & sleep 30");
    struct text command = TEXT_INIT;
    struct error err = ERROR_INIT;
    int64_t before = clock_monotonic_ms();
    char *output = NULL;
    int status;

    cr_assert_eq(mkfifo(pipe_path, 0600), 0);
    CLEANUP_CLOSE int fd = open(pipe_path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    text_addf(&command, "exec 3>%s", script);
    const char *const argv[] = {"/bin/sh", "-c", command.data, NULL};
    cr_assert_eq(process_run(argv, NULL, 300, 100, &output, &status, &err), -1);
    cr_assert_lt(clock_monotonic_ms() - before, 5000);
    cr_assert(strstr(err.text, "/bin/sh"));
    cr_assert_null(output);
    struct pollfd held = {.fd = fd, .events = POLLIN};
    cr_assert_eq(poll(&held, 1, 5000), 1);
    cr_assert(held.revents & POLLHUP, "something still holds the pipe");
    text_free(&command);
    cr_assert_eq(directory_remove(place, NULL, &err), 0);
}

Test(process, missing_program_is_named)
{
    const char *const argv[] = {"/no/such/program", NULL};
    struct error err = ERROR_INIT;
    int status;

    cr_assert_eq(process_run(argv, NULL, 1000, 100, NULL, &status, &err), -1);
    cr_assert(strstr(err.text, "/no/such/program"));
}

/* Nothing but what was named is inherited, 0-2 are /dev/null by default, and each number is the
 * right one, also when the parent has them crossed or far up. */
Test(process, descriptors)
{
    const char *const argv[] = {"/bin/sh", "-c",
                                "cat /proc/self/fd/50 /proc/self/fd/51; readlink /proc/self/fd/0; "
                                "for fd in /proc/$$/fd/*; do echo \"${fd##*/}\"; done",
                                NULL};
    static const int numbers[][2] = {{51, 50}, {50, 51}, {50, 60}, {203, 204}, {204, 203}};
    struct error err = ERROR_INIT;
    FILE *files[2] = {tmpfile(), tmpfile()};
    int status;

    cr_assert_eq(close_range(3, ~0u, CLOSE_RANGE_CLOEXEC), 0, "criterion's own");
    (void)fputs("first\n", files[0]);
    (void)fputs("second\n", files[1]);
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        struct spawn_fd fds[2];
        char got[4096] = {0};
        size_t length = 0;
        int out[2];
        pid_t pid;
        for (int k = 0; k < 2; k++) {
            (void)fflush(files[k]);
            fds[k] = (struct spawn_fd){numbers[i][k], 50 + k};
            cr_assert_eq(dup3(fileno(files[k]), numbers[i][k], O_CLOEXEC), numbers[i][k]);
        }
        cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
        const struct spawn spawn = {
            .argv = argv, .in = -1, .out = out[1], .error = out[1], .fds = fds, .n_fds = 2};
        cr_assert_eq(process_spawn(&spawn, &pid, NULL, &err), 0, "%s", err.text);
        close(out[1]);
        for (ssize_t n; (n = read(out[0], got + length, sizeof got - 1 - length)) > 0;)
            length += (size_t)n;
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        /* 3 is the folder that the shell reads them from. */
        cr_expect_str_eq(got, "first\nsecond\n/dev/null\n0\n1\n2\n3\n50\n51\n", "case %zu", i);
        close(out[0]);
        close(fds[0].parent);
        close(fds[1].parent);
    }
    (void)fclose(files[0]);
    (void)fclose(files[1]);
}

Test(process, identity_is_pid_and_start_time)
{
    const char *const argv[] = {"/bin/sleep", "30", NULL};
    const struct spawn spawn = {.argv = argv, .in = -1, .out = -1, .error = -1, .directory = "/"};
    struct error err = ERROR_INIT;
    int pidfd, status;
    pid_t pid;

    cr_assert_eq(process_spawn(&spawn, &pid, &pidfd, &err), 0, "%s", err.text);
    uint64_t start = process_start_time(pid);
    cr_assert_gt(start, 0);
    cr_assert_geq(start, process_start_time(getpid()), "it began after this test did");
    cr_assert_eq(process_open(pid, start + 1), -1, "another start: another process");
    cr_assert_eq(process_open(0, 0), -1);
    cr_assert_eq(process_open(-1, 0), -1);
    CLEANUP_CLOSE int again = process_open(pid, start);
    cr_assert_geq(again, 0);
    cr_assert_eq(pidfd_reap(pidfd, &status), 0, "still running");
    cr_assert_eq(pidfd_kill(again, SIGKILL), 0);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    cr_assert_eq(poll(&ended, 1, 5000), 1);
    cr_assert_eq(pidfd_reap(pidfd, &status), 1);
    char words[64];
    wait_status_words(status, words, sizeof words);
    cr_assert_str_eq(words, "killed by signal 9 (Killed)");
    cr_assert_eq(process_start_time(pid), 0);
    cr_assert_eq(process_open(pid, start), -1);
    close(pidfd);
}

/* A name with ')' and spaces in it does not shift the fields. */
Test(process, start_time_of_an_odd_name)
{
    CLEANUP_FREE char *place = make_place(), *program = below(place, "a) S 1 (b");
    struct error err = ERROR_INIT;
    pid_t pid;

    cr_assert_eq(symlink("/bin/sleep", program), 0);
    const char *const plain[] = {"/bin/sleep", "30", NULL}, *const odd[] = {program, "30", NULL};
    struct spawn spawn = {.argv = plain, .in = -1, .out = -1, .error = -1};
    cr_assert_eq(process_spawn(&spawn, &pid, NULL, &err), 0);
    uint64_t before = process_start_time(pid);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    spawn.argv = odd;
    cr_assert_eq(process_spawn(&spawn, &pid, NULL, &err), 0);
    uint64_t after = process_start_time(pid);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    cr_assert(after >= before && after < before + 1000, "%llu, then %llu",
              (unsigned long long)before, (unsigned long long)after);
    cr_assert_eq(directory_remove(place, NULL, &err), 0);
}

struct record {
    struct loop *loop;
    struct loop_source sources[2];
    char order[16];
    size_t length;
};

static void on_timer(struct loop_timer *timer)
{
    struct record *record = timer->data;

    record->order[record->length++] = (char)('0' + timer->at_ms % 10);
    if (record->length == 3)
        loop_quit(record->loop);
}

Test(loop, timers_fire_in_order_once)
{
    struct error err = ERROR_INIT;
    struct record record = {.loop = loop_new(&err)};
    struct loop_timer timers[5];
    int64_t base = clock_monotonic_ms() / 10 * 10 - 100;

    for (int i = 0; i < 5; i++) {
        timers[i] = (struct loop_timer){.callback = on_timer, .data = &record};
        loop_timer_set(record.loop, &timers[i], base + 9 - i);
    }
    loop_timer_cancel(record.loop, &timers[4]);
    loop_timer_cancel(record.loop, &timers[4]);
    loop_timer_set(record.loop, &timers[0], base + 1); /* again: earlier */
    loop_timer_set(record.loop, &timers[3], clock_monotonic_ms() + 600000);
    cr_assert_eq(loop_run(record.loop, &err), 0);
    cr_assert_str_eq(record.order, "178");
    loop_timer_cancel(record.loop, &timers[3]);
    loop_free(record.loop);
    loop_free(NULL);
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    struct record *record = source->data;

    cr_assert(events & EPOLLIN);
    record->length++;
    loop_remove(record->loop, &record->sources[0]);
    loop_remove(record->loop, &record->sources[1]);
}

static void on_end(struct loop_timer *timer)
{
    loop_quit(((struct record *)timer->data)->loop);
}

/* Both are ready at once; whichever comes first removes both. */
Test(loop, a_source_removed_in_a_callback_is_not_called)
{
    struct error err = ERROR_INIT;
    struct record record = {.loop = loop_new(&err)};
    struct loop_timer end = {.callback = on_end, .data = &record};
    int pipes[2][2];

    for (int i = 0; i < 2; i++) {
        cr_assert_eq(pipe2(pipes[i], O_CLOEXEC), 0);
        record.sources[i] = (struct loop_source){
            .fd = pipes[i][0], .events = EPOLLIN, .callback = on_ready, .data = &record};
        cr_assert_eq(loop_add(record.loop, &record.sources[i], &err), 0);
        cr_assert_eq(write(pipes[i][1], "x", 1), 1);
    }
    cr_assert_eq(loop_add(record.loop, &record.sources[1], &err), -1, "twice");
    cr_assert_eq(loop_modify(record.loop, &record.sources[0], EPOLLIN | EPOLLHUP), 0);
    loop_timer_set(record.loop, &end, clock_monotonic_ms() + 50);
    cr_assert_eq(loop_run(record.loop, &err), 0);
    cr_assert_eq(record.length, 1);
    loop_free(record.loop);
    for (int i = 0; i < 2; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
}
