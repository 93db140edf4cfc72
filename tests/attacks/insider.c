/* What somebody who owns gvproxy, the VM or the proxy's engine can do: this program runs in its
 * place, in its jail, and tries. What is tried stands behind the program's own bytes (the tests put
 * it there, tests/attacks/test_second_ring.py), a line each:
 *
 *   NAME VERB ARGUMENT…
 *
 * and each is answered by a line, "NAME<TAB>OK" where the attempt succeeded, or "NAME<TAB>NO" and
 * why it did not. Each runs in a process of its own where there may be one. Static: a jail may hold
 * nothing else. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS_MAX = 5, SELF_MAX = 4 << 20, WAIT_MS = 400, PID_MAX = 65536, FORKS_MAX = 1500 };

#define MARKER "\nINSIDER" /* and "-TRIES\n" */

static const char *self;

static long number(const char *text)
{
    return strtol(text, NULL, 0);
}

/* Each attempt: 0 it succeeded, else an errno. */

static int result(long value)
{
    return value < 0 ? errno : 0;
}

static int dial(int type, char **words)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(words[1]))};
    const struct timeval wait = {0, WAIT_MS * 1000L};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    char answer[64];

    if (fd < 0)
        return errno;
    (void)inet_pton(AF_INET, words[0], &to.sin_addr);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ||
        (type == SOCK_DGRAM && send(fd, "insider", 7, 0) < 0) ||
        recv(fd, answer, sizeof answer, 0) < 0)
        return errno;
    return 0;
}

static int try_tcp(char **words)
{
    return dial(SOCK_STREAM, words);
}

static int try_udp(char **words)
{
    return dial(SOCK_DGRAM, words);
}

/* A name that starts with '@' is an abstract one. */
static int try_unix(char **words)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int type = words[1] && strcmp(words[1], "packets") == 0 ? SOCK_SEQPACKET : SOCK_STREAM;
    int fd = socket(AF_UNIX, type, 0);

    (void)snprintf(to.sun_path, sizeof to.sun_path, "%s", words[0]);
    size_t length = strlen(to.sun_path);
    if (to.sun_path[0] == '@')
        to.sun_path[0] = '\0';
    return fd < 0 ? errno
                  : result(connect(fd, (struct sockaddr *)&to,
                                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)));
}

static int try_socket(char **words)
{
    return result(
        socket((int)number(words[0]), (int)number(words[1]) | SOCK_CLOEXEC, (int)number(words[2])));
}

static int try_read(char **words)
{
    int fd = open(words[0], O_RDONLY | O_CLOEXEC);
    char byte;

    return fd < 0 ? errno : result(read(fd, &byte, 1));
}

static int try_write(char **words)
{
    return result(open(words[0], O_WRONLY | O_CLOEXEC));
}

static int try_create(char **words)
{
    int fd = open(words[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

    if (fd < 0)
        return errno;
    (void)unlink(words[0]);
    return 0;
}

static int try_list(char **words)
{
    return result(open(words[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

/* A file of that many MiB. */
static int try_fill(char **words)
{
    static char block[1 << 20];
    int fd = open(words[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0666), fault = fd < 0 ? errno : 0;

    for (long i = 0; !fault && i < number(words[1]); i++)
        if (write(fd, block, sizeof block) != sizeof block)
            fault = errno ? errno : EFBIG;
    (void)unlink(words[0]);
    return fault;
}

static int try_kill(char **words)
{
    return result(kill((pid_t)number(words[0]), 0));
}

/* Any process at all but those of the jail. */
static int try_kill_any(char **words)
{
    (void)words;
    for (pid_t pid = 2; pid < PID_MAX; pid++)
        if (pid != getpid() && pid != getppid() && kill(pid, 0) == 0)
            return 0;
    return ESRCH;
}

static int try_ptrace(char **words)
{
    pid_t pid = (pid_t)number(words[0]);
    int fault = result(ptrace(PTRACE_SEIZE, pid, NULL, NULL));

    if (!fault)
        (void)ptrace(PTRACE_DETACH, pid, NULL, NULL);
    return fault;
}

static int try_memory(char **words)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)(uintptr_t)0x400000, 1};
    long got = process_vm_readv((pid_t)number(words[0]), &here, 1, &there, 1, 0);

    return got < 0 && errno == EFAULT ? 0 : result(got); /* nothing there: yet it was looked at */
}

static int try_pidfd(char **words)
{
    return result(syscall(SYS_pidfd_open, (pid_t)number(words[0]), 0));
}

static int try_unshare(char **words)
{
    return result(unshare((int)number(words[0])));
}

static int try_clone(char **words)
{
    long pid = syscall(SYS_clone, number(words[0]) | SIGCHLD, 0, 0, 0, 0);

    if (pid == 0)
        _exit(0);
    return result(pid);
}

static int try_setns(char **words)
{
    int fd = open(words[0], O_RDONLY | O_CLOEXEC);

    return fd < 0 ? errno : result(setns(fd, 0));
}

static int try_mount(char **words)
{
    (void)unshare(CLONE_NEWUSER | CLONE_NEWNS); /* if it may: then it hurts nobody */
    return result(mount("none", words[0], "tmpfs", 0, NULL));
}

static int try_setuid(char **words)
{
    return result(setuid((uid_t)number(words[0])));
}

static int try_device(char **words)
{
    int fault =
        result(mknod(words[0], S_IFCHR | 0600, (dev_t)(number(words[1]) << 8 | number(words[2]))));

    if (!fault)
        (void)unlink(words[0]);
    return fault;
}

static int try_raise(char **words)
{
    const struct rlimit all = {(rlim_t)number(words[1]), (rlim_t)number(words[1])};

    return result(setrlimit((__rlimit_resource_t)number(words[0]), &all));
}

/* Memory of that many MiB, all of it touched. */
static int try_map(char **words)
{
    size_t length = (size_t)number(words[0]) << 20;
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? errno : 0;
}

/* Processes, until there may be no more. */
static int try_forks(char **words)
{
    static pid_t pids[FORKS_MAX];
    int count = 0, fault = 0;

    for (; !fault && count < number(words[0]) && count < FORKS_MAX; count++) {
        pids[count] = fork();
        if (pids[count] == 0) {
            (void)pause();
            _exit(0);
        }
        fault = result(pids[count]);
    }
    for (int i = 0; i < count; i++)
        if (pids[i] > 0 && kill(pids[i], SIGKILL) == 0)
            (void)waitpid(pids[i], NULL, 0);
    return fault;
}

/* A program that is root's by its mode: this one, which then tells by its exit status. */
static int try_setuid_program(char **words)
{
    int status;
    pid_t pid = fork();

    if (pid < 0)
        return errno;
    if (pid == 0) {
        (void)execl(words[0], words[0], "--euid", NULL);
        _exit(errno);
    }
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

static int try_new_privileges(char **words)
{
    (void)words;
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? EPERM : 0;
}

/* A descriptor that the jail's maker forgot. `words`: the numbers that it meant. */
static int try_inherited(char **words)
{
    for (int fd = 3; fd < 64; fd++) {
        size_t i = 0;
        while (words[i] && number(words[i]) != fd)
            i++;
        if (!words[i] && fcntl(fd, F_GETFD) >= 0 && !(fcntl(fd, F_GETFD) & FD_CLOEXEC))
            return 0;
    }
    return EBADF;
}

/* Did the kernel do what the call is for, or at least look at what it was given? */
static int try_call(char **words)
{
    static const struct {
        const char *name;
        long call, a, b, c;
    } calls[] = {
        {"bpf", SYS_bpf, 0, 0, 0},
        {"keyctl", SYS_keyctl, 0, -3, 1},
        {"add_key", SYS_add_key, 0, 0, 0},
        {"request_key", SYS_request_key, 0, 0, 0},
        {"io_uring", SYS_io_uring_setup, 1, 0, 0},
        {"userfaultfd", SYS_userfaultfd, 1, 0, 0},
        {"perf", SYS_perf_event_open, 0, 0, 0},
        {"kexec", SYS_kexec_load, 0, 1, 0},
        {"module", SYS_init_module, 0, 1, 0},
        {"module_file", SYS_finit_module, -1, 0, 0},
        {"handle", SYS_open_by_handle_at, -1, 0, 0},
        {"fsopen", SYS_fsopen, 0, 0, 0},
        {"open_tree", SYS_open_tree, -100, 0, 1},
        {"move_mount", SYS_move_mount, -1, 0, -1},
        {"mount_setattr", SYS_mount_setattr, -1, 0, 0},
        {"clone3", SYS_clone3, 0, 0, 0},
        {"chroot", SYS_chroot, 0, 0, 0},
        {"pivot_root", SYS_pivot_root, 0, 0, 0},
        {"syslog", SYS_syslog, 10, 0, 0},
        {"reboot", SYS_reboot, 0, 0, 0},
        {"swapon", SYS_swapon, 0, 0, 0},
        {"iopl", SYS_iopl, 4, 0, 0},
        {"setgroups", SYS_setgroups, 0, 0, 0},
        {"sethostname", SYS_sethostname, 0, 1, 0},
        {"fanotify", SYS_fanotify_init, 0xffff0000, 0, 0},
    };

    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        if (strcmp(calls[i].name, words[0]) != 0)
            continue;
        long got = syscall(calls[i].call, calls[i].a, calls[i].b, calls[i].c, 0, 0, 0);
        return got < 0 && (errno == EPERM || errno == ENOSYS || errno == EACCES) ? errno : 0;
    }
    return EINVAL;
}

static const struct {
    const char *name;
    int (*attempt)(char **words);
} verbs[] = {
    {"tcp", try_tcp},
    {"udp", try_udp},
    {"unix", try_unix},
    {"socket", try_socket},
    {"read", try_read},
    {"write", try_write},
    {"create", try_create},
    {"list", try_list},
    {"fill", try_fill},
    {"kill", try_kill},
    {"kill-any", try_kill_any},
    {"ptrace", try_ptrace},
    {"memory", try_memory},
    {"pidfd", try_pidfd},
    {"unshare", try_unshare},
    {"clone", try_clone},
    {"setns", try_setns},
    {"mount", try_mount},
    {"setuid", try_setuid},
    {"device", try_device},
    {"raise", try_raise},
    {"map", try_map},
    {"forks", try_forks},
    {"setuid-program", try_setuid_program},
    {"privileges", try_new_privileges},
    {"inherited", try_inherited},
    {"call", try_call},
};

static int run(const char *verb, char **words)
{
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(verbs[i].name, verb) == 0)
            return verbs[i].attempt(words);
    return EINVAL;
}

static int run_apart(const char *verb, char **words)
{
    int status;
    pid_t pid = fork();

    if (pid < 0)
        return run(verb, words);
    if (pid == 0)
        _exit(run(verb, words));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

static void try_line(char *line)
{
    char *next = NULL, *name = strtok_r(line, " ", &next), *verb = strtok_r(NULL, " ", &next);
    char *words[WORDS_MAX + 1] = {0};

    if (!name || !verb)
        return;
    for (size_t i = 0; i < WORDS_MAX; i++)
        if (!(words[i] = strtok_r(NULL, " ", &next)))
            break;
    int fault = run_apart(verb, words);
    (void)printf("%s\t%s %s\n", name, fault ? "NO" : "OK", fault ? strerror(fault) : "");
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    static char bytes[SELF_MAX];
    char *next = NULL;

    if (argc == 2 && strcmp(argv[1], "--euid") == 0)
        return geteuid() == 0 ? 0 : EPERM;
    self = argv[0];
    int fd = open(self, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, bytes, sizeof bytes - 1);
    static const char marker[] = MARKER "-TRIES\n";
    char *tries = length > 0 ? memmem(bytes, (size_t)length, marker, sizeof marker - 1) : NULL;
    /* The marker is also part of the program: what counts is the last one. */
    for (char *at = tries; at;
         at = memmem(at + 1, (size_t)(bytes + length - at - 1), marker, sizeof marker - 1))
        tries = at;
    (void)signal(SIGXFSZ, SIG_IGN);
    for (char *line = tries ? strtok_r(tries + sizeof marker - 1, "\n", &next) : NULL; line;
         line = strtok_r(NULL, "\n", &next))
        try_line(line);
    (void)printf("all tried\n");
    return 0;
}
