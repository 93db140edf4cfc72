/* Linked into the programs of a build with a sanitizer: where its reports go. A supervisor gets an
 * environment of its own, so it could be told no other way. Reports are files in REPORTS, which is
 * made by whoever runs the tests, for all users; tests/e2e/sanitizer.py looks for them. */
#include <sys/prctl.h>

const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__tsan_default_options(void);
int __lsan_is_turned_off(void);

const char *__asan_default_options(void)
{
    return "log_path=" REPORTS "/asan:detect_leaks=1:abort_on_error=0:handle_abort=1";
}

const char *__ubsan_default_options(void)
{
    return "log_path=" REPORTS "/ubsan:print_stacktrace=1:halt_on_error=1";
}

const char *__tsan_default_options(void)
{
    return "log_path=" REPORTS "/tsan:second_deadlock_stack=1:halt_on_error=0:"
           "report_signal_unsafe=0:exitcode=0";
}

/* Looking for leaks means to trace oneself, which a process that lets nobody look into it can't: a
 * supervisor. Its leaks are valgrind's to find (make valgrind-shim). */
int __lsan_is_turned_off(void)
{
    return prctl(PR_GET_DUMPABLE) != 1;
}
