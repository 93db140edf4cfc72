/* Runs criterion's tests under ThreadSanitizer; takes the place of criterion's own runner in that
 * build.
 *
 * criterion's runner shares memory with the processes of its tests at a random address and so ends
 * before the first test: ThreadSanitizer keeps most of the address space for itself. The tests
 * themselves are only rows of a section, "cr_tst", and a passing assertion calls nothing. So this
 * file walks the rows, runs each test in a process of its own, and answers the few calls that
 * assertions make; the linker prefers these to the library's. It ends with the closing line that
 * criterion prints. An argument is a pattern of "suite/test". */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS = 60, EXIT_FAILED = 65, EXIT_SKIPPED = 64 };

extern struct criterion_test *__start_cr_tst[];
extern struct criterion_test *__stop_cr_tst[];

struct criterion_options criterion_options;
static bool failed;

void criterion_internal_test_setup(void)
{
}

void criterion_internal_test_main(void (*function)(void))
{
    function();
}

void criterion_internal_test_teardown(void)
{
}

void cri_asserts_passed_incr(void)
{
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
    if (stats->passed)
        return;
    failed = true;
    fprintf(stderr, "%s:%u: assertion failed: %s\n", stats->file, stats->line, stats->message);
}

void criterion_continue_test(void)
{
}

void criterion_abort_test(void)
{
    _exit(EXIT_FAILED);
}

void criterion_skip_test(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _exit(EXIT_SKIPPED);
}

void *cr_malloc(size_t size)
{
    return malloc(size);
}

void *cr_calloc(size_t count, size_t size)
{
    return calloc(count, size);
}

void *cr_realloc(void *old, size_t size)
{
    return realloc(old, size);
}

void cr_free(void *pointer)
{
    free(pointer);
}

/* The child's whole life. `parameter` is NULL for a test without parameters. */
static void run_child(const struct criterion_test *test, void *parameter)
{
    alarm(test->data->timeout > 0 ? (unsigned)test->data->timeout + 1 : SECONDS);
    if (test->data->init)
        test->data->init();
    if (parameter)
        ((void (*)(void *))(void *)test->test)(parameter);
    else
        test->test();
    if (test->data->fini)
        test->data->fini();
    _exit(failed ? EXIT_FAILED : 0);
}

/* 0: as the test wants it. */
static int judge(const struct criterion_test *test, int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIPPED)
        return 0;
    if (test->data->signal != 0)
        return WIFSIGNALED(status) && WTERMSIG(status) == test->data->signal ? 0 : -1;
    return WIFEXITED(status) && WEXITSTATUS(status) == test->data->exit_code ? 0 : -1;
}

static int run_test(const struct criterion_test *test, void *parameter)
{
    int status = -1;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child == 0)
        run_child(test, parameter);
    if (child < 0 || waitpid(child, &status, 0) < 0 || judge(test, status) < 0) {
        printf("[FAIL] %s::%s (status %d)\n", test->category, test->name, status);
        return -1;
    }
    return 0;
}

static void run_row(const struct criterion_test *test, unsigned *tested, unsigned *passing)
{
    struct criterion_test_params set = {.size = 0, .params = NULL, .length = 1};
    bool has_parameters = test->data->kind_ == CR_TEST_PARAMETERIZED;

    if (has_parameters)
        set = test->data->param_();
    for (size_t i = 0; i < set.length; i++) {
        void *parameter = has_parameters ? (char *)set.params + i * set.size : NULL;

        *tested += 1;
        *passing += run_test(test, parameter) == 0;
    }
    if (set.cleanup)
        set.cleanup(&set);
}

int main(int argc, char **argv)
{
    unsigned tested = 0, passing = 0;

    for (struct criterion_test **row = __start_cr_tst; row < __stop_cr_tst; row++) {
        char name[256];

        if (!*row || (*row)->data->disabled)
            continue;
        snprintf(name, sizeof name, "%s/%s", (*row)->category, (*row)->name);
        if (argc < 2 || fnmatch(argv[1], name, 0) == 0)
            run_row(*row, &tested, &passing);
    }
    printf("[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: 0\n", tested,
           passing, tested - passing);
    return tested == passing ? 0 : 1;
}
