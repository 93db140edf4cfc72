/* Failpoints, without a word of them in the product: a library that is preloaded into bottled or
 * bottle-shim and stands between them (and what they call: SQLite, libmicrohttpd, jansson) and the
 * C library, at every call that changes something or may fail for want of it.
 *
 * A point is a call and how it was come to: the return addresses, as module and offset, of the
 * innermost FRAMES callers outside of the C library. The same build has the same points every time.
 *
 * A test speaks with it through a file that both map, the board (environment: FAILPOINT_BOARD;
 * FAILPOINT_PROGRAM is the program's name: in any other this library does nothing). In mode RECORD
 * each new point is written to the board; in mode ARMED the one whose number is `target` does what
 * `action` says, once: kill the process, or fail with that errno. A program that posix_spawn()
 * starts with an environment of its own gets the board as well. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>
#include <unwind.h>

enum {
    FRAMES = 10,
    LIBRARY_FRAMES = 3,
    POINTS_MAX = 8192,
    POINT_SIZE = 512,
    MODULES_MAX = 32,
    NAME = 40,
    ENV_MAX = 64
};
enum mode { MODE_OFF, MODE_RECORD, MODE_ARMED };
enum { ACTION_CRASH = 0 }; /* else an errno */

/* The board, as tests/failpoints/board.py has it. */
struct board {
    _Atomic uint32_t mode, action;
    _Atomic uint64_t target;
    _Atomic uint32_t fired, n_points;
    struct {
        uint64_t number;
        char text[POINT_SIZE - sizeof(uint64_t)]; /* call class|module+offset|… innermost first */
    } points[POINTS_MAX];
};

static struct board *board;
static atomic_flag recording = ATOMIC_FLAG_INIT;
static _Thread_local bool inside;
static char *own_path;
static char preload_env[4096], board_env[4096], program_env[128];

/* --- Whose address is it? --------------------------------------------------------------------- */

static struct module {
    uintptr_t base, start, end;
    char name[NAME];
    bool counts;
} modules[MODULES_MAX];
static size_t n_modules;

/* Libraries that only hand a call on: whose they are says nothing. */
static const char *const passed_over[] = {"failpoints.so", "libc.so", "libpthread.so", "ld-linux",
                                          "libgcc_s.so"};

static int note_module(struct dl_phdr_info *info, size_t size, void *context)
{
    const char *name = info->dlpi_name[0] ? strrchr(info->dlpi_name, '/') : NULL;
    struct module *module = &modules[n_modules];

    (void)size;
    (void)context;
    if (n_modules == MODULES_MAX)
        return 0;
    *module = (struct module){.base = info->dlpi_addr, .counts = true, .start = UINTPTR_MAX};
    (void)snprintf(module->name, sizeof module->name, "%s",
                   name             ? name + 1
                   : n_modules == 0 ? "program"
                                    : info->dlpi_name);
    for (size_t i = 0; i < sizeof passed_over / sizeof *passed_over; i++)
        if (strncmp(module->name, passed_over[i], strlen(passed_over[i])) == 0)
            module->counts = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + header->p_vaddr, end = start + header->p_memsz;
        if (header->p_type != PT_LOAD)
            continue;
        module->start = start < module->start ? start : module->start;
        module->end = end > module->end ? end : module->end;
    }
    n_modules++;
    return 0;
}

struct trace {
    struct {
        const struct module *module;
        uintptr_t offset;
    } frames[FRAMES];
    unsigned count, of_library;
};

static _Unwind_Reason_Code add_frame(struct _Unwind_Context *context, void *data)
{
    struct trace *trace = data;
    uintptr_t at = _Unwind_GetIP(context);

    for (size_t i = 0; at && i < n_modules; i++) {
        if (at < modules[i].start || at >= modules[i].end)
            continue;
        /* Of a library's own the innermost are enough: who called it matters more. */
        trace->of_library = i == 0 ? 0 : trace->of_library + modules[i].counts;
        if (modules[i].counts && trace->of_library <= LIBRARY_FRAMES) {
            trace->frames[trace->count].module = &modules[i];
            trace->frames[trace->count++].offset = at - modules[i].base;
        }
        return trace->count == FRAMES ? _URC_END_OF_STACK : _URC_NO_REASON;
    }
    return _URC_END_OF_STACK;
}

/* --- Points ----------------------------------------------------------------------------------- */

static uint64_t add_bytes(uint64_t number, const void *bytes, size_t length)
{
    const unsigned char *next = bytes;

    for (size_t i = 0; i < length; i++)
        number = (number ^ next[i]) * 1099511628211ULL; /* FNV-1a */
    return number;
}

static void record(const char *call, const char *class, const struct trace *trace, uint64_t number)
{
    while (atomic_flag_test_and_set(&recording))
        ;
    uint32_t count = atomic_load(&board->n_points);
    uint32_t i = 0;
    while (i < count && board->points[i].number != number)
        i++;
    if (i == count && count < POINTS_MAX) {
        char *text = board->points[count].text;
        size_t size = sizeof board->points[count].text, length;
        length = (size_t)snprintf(text, size, "%s %s", call, class);
        for (unsigned frame = 0; frame < trace->count && length < size; frame++)
            length += (size_t)snprintf(text + length, size - length, "|%s+%lx",
                                       trace->frames[frame].module->name,
                                       (unsigned long)trace->frames[frame].offset);
        board->points[count].number = number;
        atomic_store(&board->n_points, count + 1);
    }
    atomic_flag_clear(&recording);
}

/* 0: go on. Else the errno to fail with. */
static int point(const char *call, const char *class)
{
    uint32_t mode = board ? atomic_load(&board->mode) : MODE_OFF;
    struct trace trace = {.count = 0};
    uint64_t number = 14695981039346656037ULL;
    uint64_t target;

    if (mode == MODE_OFF || inside)
        return 0;
    inside = true;
    (void)_Unwind_Backtrace(add_frame, &trace);
    number = add_bytes(number, call, strlen(call));
    number = add_bytes(number, class, strlen(class));
    for (unsigned i = 0; i < trace.count; i++) {
        number =
            add_bytes(number, trace.frames[i].module->name, strlen(trace.frames[i].module->name));
        number = add_bytes(number, &trace.frames[i].offset, sizeof trace.frames[i].offset);
    }
    int result = 0;
    if (mode == MODE_RECORD) {
        record(call, class, &trace, number);
    } else if (number == (target = atomic_load(&board->target)) &&
               atomic_compare_exchange_strong(&board->target, &target, 0)) {
        result = (int)atomic_load(&board->action);
        atomic_store(&board->fired, 1);
        if (result == ACTION_CRASH) {
            (void)syscall(SYS_kill, getpid(), SIGKILL);
            for (;;)
                (void)syscall(SYS_pause);
        }
    }
    inside = false;
    return result;
}

/* What a descriptor is decides what can go wrong with it. */
static const char *class_of(int fd)
{
    struct stat status;
    char path[32], name[32];
    int saved = errno;
    const char *ret = "other";

    if (!board || atomic_load(&board->mode) == MODE_OFF || inside)
        return ret;
    if (syscall(SYS_fstat, fd, &status) == 0) {
        ret = S_ISREG(status.st_mode)    ? "file"
              : S_ISDIR(status.st_mode)  ? "directory"
              : S_ISFIFO(status.st_mode) ? "pipe"
              : S_ISSOCK(status.st_mode) ? "socket"
                                         : "other";
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, name, sizeof name - 1);
        name[length > 0 ? length : 0] = '\0';
        if (strncmp(name, "anon_inode:", 11) == 0)
            ret = "event";
        else if (strncmp(name, "/memfd:", 7) == 0)
            ret = "memory";
        else if (strncmp(name, "/proc/", 6) == 0 || strncmp(name, "/sys/", 5) == 0)
            ret = "kernel";
    }
    errno = saved;
    return ret;
}

/* --- The calls -------------------------------------------------------------------------------- */

/* The C library's own names for parameters are reserved ones. */
/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */

#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (!real)                                                                                     \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Fails with the point's errno, when it has one. */
#define POINT(call, class)                                                                         \
    do {                                                                                           \
        int failure = point(call, class);                                                          \
        if (failure) {                                                                             \
            errno = failure;                                                                       \
            return -1;                                                                             \
        }                                                                                          \
    } while (0)

#define CALL(result, name, class, parameters, arguments)                                           \
    result name parameters;                                                                        \
    result name parameters                                                                         \
    {                                                                                              \
        REAL(name);                                                                                \
        POINT(#name, class);                                                                       \
        return real arguments;                                                                     \
    }

#define OPEN(name, parameters, flags_argument, arguments)                                          \
    int name parameters                                                                            \
    {                                                                                              \
        REAL(name);                                                                                \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;                  \
        va_end(rest);                                                                              \
        POINT("open", flags &(O_CREAT | __O_TMPFILE) ? "create" : "existing");                     \
        return real arguments;                                                                     \
    }

OPEN(open, (const char *path, int flags, ...), flags, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), flags, (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), flags, (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), flags, (at, path, flags, mode))

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int at, const char *path, int flags);
int __openat64_2(int at, const char *path, int flags);
CALL(int, __open_2, "existing", (const char *path, int flags), (path, flags))
CALL(int, __open64_2, "existing", (const char *path, int flags), (path, flags))
CALL(int, __openat_2, "existing", (int at, const char *path, int flags), (at, path, flags))
CALL(int, __openat64_2, "existing", (int at, const char *path, int flags), (at, path, flags))

CALL(ssize_t, write, class_of(fd), (int fd, const void *bytes, size_t length), (fd, bytes, length))
CALL(ssize_t, pwrite, class_of(fd), (int fd, const void *bytes, size_t length, off_t at),
     (fd, bytes, length, at))
CALL(ssize_t, pwrite64, class_of(fd), (int fd, const void *bytes, size_t length, off64_t at),
     (fd, bytes, length, at))
CALL(ssize_t, writev, class_of(fd), (int fd, const struct iovec *parts, int count),
     (fd, parts, count))
CALL(int, ftruncate, class_of(fd), (int fd, off_t length), (fd, length))
CALL(int, ftruncate64, class_of(fd), (int fd, off64_t length), (fd, length))
CALL(int, fallocate, class_of(fd), (int fd, int mode, off_t at, off_t length),
     (fd, mode, at, length))
CALL(int, fallocate64, class_of(fd), (int fd, int mode, off64_t at, off64_t length),
     (fd, mode, at, length))
CALL(int, fsync, "file", (int fd), (fd))
CALL(int, fdatasync, "file", (int fd), (fd))
CALL(int, rename, "name", (const char *from, const char *to), (from, to))
CALL(int, renameat, "name", (int from_at, const char *from, int to_at, const char *to),
     (from_at, from, to_at, to))
CALL(int, unlink, "remove", (const char *path), (path))
CALL(int, unlinkat, "remove", (int at, const char *path, int flags), (at, path, flags))
CALL(int, rmdir, "remove", (const char *path), (path))
CALL(int, mkdir, "name", (const char *path, mode_t mode), (path, mode))
CALL(int, mkdirat, "name", (int at, const char *path, mode_t mode), (at, path, mode))
CALL(int, link, "name", (const char *from, const char *to), (from, to))
CALL(int, linkat, "name", (int from_at, const char *from, int to_at, const char *to, int flags),
     (from_at, from, to_at, to, flags))
CALL(int, symlink, "name", (const char *to, const char *path), (to, path))
CALL(int, fchmod, "inode", (int fd, mode_t mode), (fd, mode))
CALL(int, chmod, "inode", (const char *path, mode_t mode), (path, mode))
CALL(int, fchown, "inode", (int fd, uid_t uid, gid_t gid), (fd, uid, gid))
CALL(int, lchown, "inode", (const char *path, uid_t uid, gid_t gid), (path, uid, gid))
CALL(int, chown, "inode", (const char *path, uid_t uid, gid_t gid), (path, uid, gid))

CALL(int, socket, "descriptor", (int domain, int type, int protocol), (domain, type, protocol))
CALL(int, socketpair, "descriptor", (int domain, int type, int protocol, int fds[2]),
     (domain, type, protocol, fds))
CALL(int, accept4, "accept",
     (int fd, struct sockaddr *restrict address, socklen_t *restrict length, int flags),
     (fd, address, length, flags))
CALL(int, pipe2, "descriptor", (int fds[2], int flags), (fds, flags))
CALL(int, memfd_create, "descriptor", (const char *name, unsigned flags), (name, flags))
CALL(int, eventfd, "descriptor", (unsigned value, int flags), (value, flags))
CALL(int, epoll_create1, "descriptor", (int flags), (flags))
CALL(int, timerfd_create, "descriptor", (clockid_t clock, int flags), (clock, flags))
CALL(int, epoll_ctl, operation == EPOLL_CTL_ADD ? "watch" : "other",
     (int fd, int operation, int other, struct epoll_event *event), (fd, operation, other, event))
CALL(int, bind, "bind", (int fd, const struct sockaddr *address, socklen_t length),
     (fd, address, length))
CALL(int, listen, "bind", (int fd, int backlog), (fd, backlog))
CALL(int, connect, "connect", (int fd, const struct sockaddr *address, socklen_t length),
     (fd, address, length))
CALL(ssize_t, send, "socket", (int fd, const void *bytes, size_t length, int flags),
     (fd, bytes, length, flags))
CALL(ssize_t, sendto, "socket",
     (int fd, const void *bytes, size_t length, int flags, const struct sockaddr *to,
      socklen_t to_length),
     (fd, bytes, length, flags, to, to_length))
CALL(ssize_t, sendmsg, "socket", (int fd, const struct msghdr *message, int flags),
     (fd, message, flags))
CALL(ssize_t, sendfile, "socket", (int out, int in, off_t *offset, size_t count),
     (out, in, offset, count))

/* A child is given the board, whatever environment it is to have. */
static char **with_board(char *const environment[], char *ret[ENV_MAX])
{
    size_t count = 0;

    for (; environment[count] && count < ENV_MAX - 4; count++)
        ret[count] = environment[count];
    ret[count++] = preload_env;
    ret[count++] = board_env;
    ret[count++] = program_env;
    ret[count] = NULL;
    return ret;
}

int posix_spawn(pid_t *restrict pid, const char *restrict path,
                const posix_spawn_file_actions_t *restrict actions,
                const posix_spawnattr_t *restrict attributes, char *const argv[restrict],
                char *const environment[restrict])
{
    REAL(posix_spawn);
    char *more[ENV_MAX];
    int failure = point("posix_spawn", "spawn");

    if (failure)
        return failure;
    return real(pid, path, actions, attributes, argv,
                own_path ? with_board(environment, more) : environment);
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */

/* --- Beginning -------------------------------------------------------------------------------- */

static struct board *map_board(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *map = MAP_FAILED;

    if (fd >= 0) {
        map = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        (void)close(fd);
    }
    return map == MAP_FAILED ? NULL : map;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAILPOINT_BOARD"), *program = getenv("FAILPOINT_PROGRAM");
    const char *preload = getenv("LD_PRELOAD");
    struct trace trace = {.count = 0};

    if (!path || !program || !preload)
        return;
    (void)snprintf(preload_env, sizeof preload_env, "LD_PRELOAD=%s", preload);
    (void)snprintf(board_env, sizeof board_env, "FAILPOINT_BOARD=%s", path);
    (void)snprintf(program_env, sizeof program_env, "FAILPOINT_PROGRAM=%s", program);
    (void)dl_iterate_phdr(note_module, NULL);
    (void)_Unwind_Backtrace(add_frame, &trace); /* what it loads, it loads now */
    bool daemon = strcmp(program_invocation_short_name, "bottled") == 0;
    if (daemon && strcmp(program, "bottled") != 0)
        own_path = preload_env;
    if (strcmp(program_invocation_short_name, program) == 0)
        board = map_board(path);
}
