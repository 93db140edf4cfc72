/* The child makes the work directory, becomes a session leader, and searches the PATH of its own
 * environment. It reports a failure over a pipe that a successful exec closes. */
#include "guest/command.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "guest/files.h"
#include "guest/root.h"
#include "guest/user.h"

/* For a command whose environment has no PATH. */
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum {
    NAME_SHOWN_MAX = 160, /* bytes of a name that is put into words */
    OPEN_FILES_MAX = 524288,
    START_SECONDS = 10, /* PID 1 has more to do than to wait for a file system that hangs */
};

enum stage {
    STAGE_PREPARE = 1,
    STAGE_WORKDIR,
    STAGE_USER,
    STAGE_EXEC,
};

struct report {
    enum stage stage;
    int error;
};

static void give_up(int report_fd, enum stage stage) __attribute__((noreturn));

static void give_up(int report_fd, enum stage stage)
{
    struct report report = {.stage = stage, .error = errno};

    if (write(report_fd, &report, sizeof report) != (ssize_t)sizeof report)
        _exit(125);
    _exit(126);
}

/* The value of the first PATH. */
static const char *search_path(char *const *env)
{
    for (; *env; env++)
        if (strncmp(*env, "PATH=", 5) == 0)
            return *env + 5;
    return DEFAULT_PATH;
}

/* Comes back with errno: ELIBACC where the program is there and the interpreter or loader that it
 * names is not, which the kernel tells like a program that is missing. */
static void run(const char *path, const struct command_plan *plan)
{
    (void)execve(path, plan->args, plan->env);
    if (errno == ENOENT)
        errno = access(path, F_OK) == 0 ? ELIBACC : ENOENT;
}

/* Tries one directory of the search path ("" is the work directory). Returns with errno. */
static void try_directory(const char *directory, size_t length, const struct command_plan *plan)
{
    char path[PATH_MAX];
    const char *name = plan->args[0];
    size_t name_length = strlen(name);

    if (length + 1 + name_length >= sizeof path) {
        errno = ENAMETOOLONG;
        return;
    }
    memcpy(path, directory, length);
    if (length)
        path[length++] = '/';
    memcpy(path + length, name, name_length + 1);
    run(path, plan);
}

/* Returns, with errno, only when the program can not be run. A program that may not be run is
 * passed over, as a shell does, yet named as the reason when no other is found. */
static void search_and_exec(const struct command_plan *plan)
{
    const char *at = search_path(plan->env);
    bool forbidden = false;

    if (strchr(plan->args[0], '/') || !plan->args[0][0]) {
        run(plan->args[0], plan);
        return;
    }
    for (;;) {
        size_t length = strcspn(at, ":");
        try_directory(at, length, plan);
        forbidden = forbidden || errno == EACCES;
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES && errno != ENAMETOOLONG)
            return;
        if (!at[length])
            break;
        at += length + 1;
    }
    errno = forbidden ? EACCES : ENOENT;
}

/* PID 1's own blocked and ignored signals are not the command's. */
static void default_signals(void)
{
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        (void)signal(number, SIG_DFL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* One of the three standard descriptors of the child, for each. */
static int take_ends(const int ends[3])
{
    for (int i = 0; i < 3; i++)
        if (dup2(ends[i], i) < 0)
            return -1;
    return close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
}

/* In place of a program: that the report's pipe closes says that it runs, as with exec. */
static void copy_files(const struct command_plan *plan, const struct user *user)
    __attribute__((noreturn));

static void copy_files(const struct command_plan *plan, const struct user *user)
{
    const struct files_owner owner = {.uid = user->uid, .gid = user->gid};

    (void)close_range(3, ~0U, 0);
    _exit(files_main(plan->args, &owner));
}

/* The environment, with HOME the user's where it has none. */
static char *const *with_home(char *const *env, const struct user *user)
{
    static char home[USER_HOME_MAX + 8];
    size_t count = 0;

    for (; env[count]; count++)
        if (strncmp(env[count], "HOME=", 5) == 0)
            return env;
    char **ret = calloc(count + 2, sizeof *ret);
    if (!ret)
        return env;
    (void)snprintf(home, sizeof home, "HOME=%s", user->home);
    memcpy(ret, env, count * sizeof *ret);
    ret[count] = home;
    return ret;
}

static void child(const struct command_plan *plan, const struct user *user, const int ends[3],
                  int report_fd) __attribute__((noreturn));

static void child(const struct command_plan *plan, const struct user *user, const int ends[3],
                  int report_fd)
{
    const struct rlimit files = {.rlim_cur = 1024, .rlim_max = OPEN_FILES_MAX};

    default_signals();
    (void)setrlimit(RLIMIT_NOFILE, &files);
    if (setsid() < 0 || take_ends(ends) < 0 ||
        ((plan->flags & EXEC_TERMINAL) && ioctl(0, TIOCSCTTY, 0) < 0))
        give_up(report_fd, STAGE_PREPARE);
    if (plan->flags & EXEC_FILES)
        copy_files(plan, user);
    if (root_make_directory(plan->workdir) < 0 || chdir(plan->workdir) < 0)
        give_up(report_fd, STAGE_WORKDIR);
    if (user_become(user) < 0)
        give_up(report_fd, STAGE_USER);
    struct command_plan own = *plan;
    own.env = with_home(plan->env, user);
    search_and_exec(&own);
    give_up(report_fd, STAGE_EXEC);
}

/* A name as it may be shown: cut, control bytes replaced. */
static const char *shown(const char *name, char ret[NAME_SHOWN_MAX + 4])
{
    size_t length = strnlen(name, NAME_SHOWN_MAX);

    /* Not in the middle of a UTF-8 sequence. */
    while (name[length] && length && ((unsigned char)name[length] & 0xc0) == 0x80)
        length--;
    memcpy(ret, name, length);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)ret[i] < 0x20 || ret[i] == 0x7f)
            ret[i] = '?';
    memcpy(ret + length, name[length] ? "..." : "", name[length] ? 4 : 1);
    return ret;
}

static enum command_result refused(const struct report *report, const struct command_plan *plan,
                                   struct command *ret, struct error *err)
{
    char name[NAME_SHOWN_MAX + 4];
    const char *program = plan->args[0];

    ret->exit_code = 126;
    errno = report->error;
    if (report->stage == STAGE_PREPARE) {
        (void)error_errno(err, NULL, "preparing the command's process");
        return COMMAND_FAULT;
    }
    if (report->stage == STAGE_WORKDIR) {
        (void)error_errno(err, NULL, "the work directory \"%s\" can not be used",
                          shown(plan->workdir, name));
        return COMMAND_REFUSED;
    }
    if (report->stage == STAGE_USER) {
        (void)error_errno(err, NULL, "becoming the image's user \"%s\"", shown(plan->user, name));
        return COMMAND_REFUSED;
    }
    if (report->error == ENOENT)
        ret->exit_code = 127;
    if (report->error == ELIBACC)
        (void)error_set(
            err, NULL,
            "the command \"%s\" can not be run: the interpreter or loader that it names "
            "is not there",
            shown(program, name));
    else if (report->error == ENOEXEC)
        (void)error_set(
            err, NULL,
            "the command \"%s\" can not be run: it is no program for this machine, nor a "
            "script that begins with #!",
            shown(program, name));
    else if (report->error == ENOENT && !strchr(program, '/'))
        (void)error_set(err, NULL, "the command \"%s\" was not found in the directories of PATH",
                        shown(program, name));
    else
        (void)error_errno(err, NULL, "the command \"%s\" can not be run", shown(program, name));
    return COMMAND_REFUSED;
}

/* Waits for exec: what the child reports, or nothing. */
static enum command_result hear(int report_fd, const struct command_plan *plan, struct command *ret,
                                struct error *err)
{
    struct pollfd end = {.fd = report_fd, .events = POLLIN};
    struct report report = {0};
    ssize_t got;

    if (poll(&end, 1, START_SECONDS * 1000) == 0) {
        (void)kill(ret->pid, SIGKILL); /* and it is reaped with all the others */
        (void)error_set(err, NULL, "the program did not start within %d s", START_SECONDS);
        return COMMAND_FAULT;
    }
    do
        got = read(report_fd, &report, sizeof report);
    while (got < 0 && errno == EINTR);
    if (got == 0)
        return COMMAND_RUNS;
    (void)waitpid(ret->pid, NULL, 0);
    if (got == (ssize_t)sizeof report)
        return refused(&report, plan, ret, err);
    (void)error_set(err, NULL, "the command's process ended before its program started");
    return COMMAND_FAULT;
}

static void close_all(int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
}

/* Both ends of a terminal; TIOCGPTPEER needs no path to it. */
static int open_terminal(const struct command_plan *plan, int ours[3], int theirs[3])
{
    const struct winsize size = {.ws_row = plan->rows, .ws_col = plan->columns};
    int unlock = 0;

    ours[1] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (ours[1] < 0 || ioctl(ours[1], TIOCSPTLCK, &unlock) < 0 ||
        ioctl(ours[1], TIOCSWINSZ, &size) < 0)
        return -1;
    theirs[1] = ioctl(ours[1], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (theirs[1] < 0)
        return -1;
    ours[0] = fcntl(ours[1], F_DUPFD_CLOEXEC, 3);
    theirs[0] = fcntl(theirs[1], F_DUPFD_CLOEXEC, 3);
    theirs[2] = fcntl(theirs[1], F_DUPFD_CLOEXEC, 3);
    return ours[0] < 0 || theirs[0] < 0 || theirs[2] < 0 ? -1 : 0;
}

static int open_pipe(int *reads, int *writes, const int *ours)
{
    int pair[2];

    if (pipe2(pair, O_CLOEXEC) < 0)
        return -1;
    *reads = pair[0];
    *writes = pair[1];
    return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

static int open_ends(const struct command_plan *plan, int ours[3], int theirs[3])
{
    if (plan->flags & EXEC_TERMINAL)
        return open_terminal(plan, ours, theirs);
    for (int i = 1; i < 3; i++)
        if (open_pipe(&ours[i], &theirs[i], &ours[i]) < 0)
            return -1;
    if (plan->flags & EXEC_STDIN)
        return open_pipe(&theirs[0], &ours[0], &ours[0]);
    theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return theirs[0] < 0 ? -1 : 0;
}

enum command_result command_start(const struct command_plan *plan, struct command *ret,
                                  struct error *err)
{
    struct command command = {.pid = -1, .ends = {-1, -1, -1}};
    int theirs[3] = {-1, -1, -1}, report[2] = {-1, -1};
    enum command_result result = COMMAND_FAULT;
    struct user user;

    if (user_resolve("/etc", plan->user, &user, err) < 0) {
        command.exit_code = 126;
        *ret = command;
        return COMMAND_REFUSED;
    }
    if (open_ends(plan, command.ends, theirs) < 0 || pipe2(report, O_CLOEXEC) < 0) {
        (void)error_errno(err, NULL, "making the command's pipes");
        goto out;
    }
    command.pid = fork();
    if (command.pid == 0)
        child(plan, &user, theirs, report[1]);
    if (command.pid < 0) {
        (void)error_errno(err, NULL, "starting the command's process");
        goto out;
    }
    (void)close(steal_fd(&report[1]));
    result = hear(report[0], plan, &command, err);
out:
    if (result != COMMAND_RUNS) {
        close_all(command.ends, 3);
        command.ends[0] = command.ends[1] = command.ends[2] = -1;
    }
    close_all(theirs, 3);
    close_all(report, 2);
    *ret = command;
    return result;
}
