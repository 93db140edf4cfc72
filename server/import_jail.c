/* The importer's jails: bubblewrap around each program, limits before it, and a watch over what it
 * writes while it runs. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "backends/tools.h"
#include "base/clock.h"
#include "base/process.h"
#include "base/text.h"
#include "base/util.h"
#include "server/import_internal.h"
#include "shim/filter.h"
#include "shim/limits.h"

enum {
    LOOK_MS = 100,      /* between two looks at what is written, and longer where a look is long */
    DEPTH_MAX = 128,    /* of an image's folders */
    OUTPUT_MAX = 65536, /* of what a program says on stderr */
    FILTER_FD = 10,
    MEMORY_MIB = 4096,
};

static const char *const walls[] = {"--unshare-ipc",
                                    "--unshare-pid",
                                    "--unshare-uts",
                                    "--unshare-cgroup-try",
                                    "--die-with-parent",
                                    "--new-session",
                                    "--clearenv",
                                    "--cap-drop",
                                    "ALL",
                                    "--ro-bind",
                                    "/usr",
                                    "/usr",
                                    "--symlink",
                                    "usr/lib",
                                    "/lib",
                                    "--symlink",
                                    "usr/lib64",
                                    "/lib64",
                                    "--symlink",
                                    "usr/bin",
                                    "/bin",
                                    "--symlink",
                                    "usr/sbin",
                                    "/sbin",
                                    "--dev",
                                    "/dev",
                                    "--proc",
                                    "/proc",
                                    "--setenv",
                                    "PATH",
                                    "/usr/bin:/usr/sbin",
                                    "--setenv",
                                    "HOME",
                                    JAIL_WORK,
                                    "--setenv",
                                    "TMPDIR",
                                    JAIL_TMP,
                                    "--symlink",
                                    JAIL_TMP,
                                    "/var/tmp",
                                    NULL};

/* What a program with the host's network needs to find and to trust a registry. */
static const char *const network_files[] = {
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/etc/ca-certificates",
    "/etc/containers",  NULL};

/* --- The argument vector ---------------------------------------------------------------------- */

static int add_program(struct argv *argv, const struct host *host, const char *name,
                       struct error *err)
{
    char path[512];

    if (tool_find(host->tools_path, name, path, sizeof path) < 0)
        return error_set(err, "preflight-failed", "%s was not found", name);
    argv_addf(argv, "%s", path);
    return 0;
}

static int add_user(struct argv *argv, const struct work *work, struct error *err)
{
    if (add_program(argv, work->import->host, "setpriv", err) < 0)
        return -1;
    argv_addf(argv, "--reuid=%u", work->uid);
    argv_addf(argv, "--regid=%u", work->uid);
    argv_add_list(argv, (const char *const[]){"--clear-groups", "--", NULL});
    return 0;
}

static void add_limits(struct argv *argv, const struct work *work)
{
    argv_addf(argv, "%s/bottle-shim", work->import->host->libexec_dir);
    argv_add_list(argv,
                  (const char *const[]){LIMITS_FLAG, "core=1", "nofile=4096", "umask=18", NULL});
    argv_addf(argv, "data=%lld", (long long)MEMORY_MIB << 20);
    argv_addf(argv, "fsize=%lld", (long long)work->import->config->image_max_bytes);
    argv_add(argv, "--");
}

static int build(struct argv *argv, const struct work *work, const struct jailed *jailed,
                 struct error *err)
{
    if (work->uid && add_user(argv, work, err) < 0)
        return -1;
    add_limits(argv, work);
    if (add_program(argv, work->import->host, "bwrap", err) < 0)
        return -1;
    argv_add_list(argv, walls);
    argv_addf(argv, "--seccomp");
    argv_addf(argv, "%d", FILTER_FD);
    /* In a user namespace other users' files would be nobody's, and closed. */
    if (!jailed->as_ourselves || geteuid() != 0)
        argv_add(argv, "--unshare-user");
    if (!jailed->network)
        argv_add(argv, "--unshare-net");
    for (const char *const *file = network_files; jailed->network && *file; file++)
        argv_add_list(argv, (const char *const[]){"--ro-bind-try", *file, *file, NULL});
    if (jailed->reads_all)
        argv_add_list(argv, (const char *const[]){"--cap-add", "CAP_DAC_READ_SEARCH", NULL});
    for (const char *const *pair = jailed->env; pair && pair[0]; pair += 2)
        argv_add_list(argv, (const char *const[]){"--setenv", pair[0], pair[1], NULL});
    argv_add_list(argv, (const char *const[]){"--bind", work->path, JAIL_WORK, NULL});
    if (jailed->input)
        argv_add_list(argv, (const char *const[]){"--ro-bind", jailed->input, JAIL_INPUT, NULL});
    argv_addf(argv, "--ro-bind");
    argv_addf(argv, "%s/bottle-owner.so", work->import->host->libexec_dir);
    argv_add_list(argv, (const char *const[]){"/owner.so", "--remount-ro", "/", "--chdir",
                                              JAIL_WORK, "--", NULL});
    argv_add_list(argv, jailed->argv);
    return argv->failed ? error_set(err, NULL, "out of memory") : 0;
}

/* --- Counting --------------------------------------------------------------------------------- */

struct count {
    int64_t bytes, files;
    bool too_deep;
};

/* Takes fd. A folder that can't be read (it may just have gone) counts as empty. */
static void count_below(struct count *count, int fd, unsigned depth)
{
    DIR *directory = fdopendir(fd);
    struct stat status;

    if (!directory) {
        (void)close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            fstatat(dirfd(directory), name, &status, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        count->files++;
        /* Each name of a file has its part of it; one that is just being removed has none. */
        if (S_ISREG(status.st_mode) && status.st_nlink > 0)
            count->bytes += (int64_t)(status.st_size / (off_t)status.st_nlink);
        if (!S_ISDIR(status.st_mode))
            continue;
        if (depth == DEPTH_MAX) {
            count->too_deep = true;
            break;
        }
        int child = openat(dirfd(directory), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child >= 0)
            count_below(count, child, depth + 1);
    }
    (void)closedir(directory);
}

int import_count(const struct work *work, const char *path, int64_t *ret_bytes, int64_t *ret_files)
{
    struct count count = {0};
    int fd = openat(work->fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd >= 0)
        count_below(&count, fd, 0);
    *ret_bytes = count.bytes;
    *ret_files = count.files;
    return count.too_deep ? -1 : 0;
}

/* --- Running ---------------------------------------------------------------------------------- */

struct running {
    const struct work *work;
    const struct jailed *jailed;
    pid_t pid;
    int pidfd, out, error;
    struct text said[2]; /* stdout, stderr */
    int64_t look_ms;
};

static int check_limits(const struct running *running, struct error *err)
{
    const struct import *import = running->work->import;
    const struct config *config = import->config;
    int64_t bytes = 0, files = 0;

    if (!running->jailed->counted) {
        import->progress(import->context, running->jailed->step, 0, 0);
        return 0;
    }
    if (import_count(running->work, running->jailed->counted, &bytes, &files) < 0)
        return error_set(err, "image-refused", "its folders are nested more than %d deep",
                         DEPTH_MAX);
    import->progress(import->context, running->jailed->step, bytes, files);
    if (bytes > running->jailed->times * config->image_max_bytes)
        return error_set(err, "image-refused",
                         "it is larger than an image may be here (image_max_bytes is %lld)",
                         (long long)config->image_max_bytes);
    if (files > running->jailed->times * config->image_max_files)
        return error_set(err, "image-refused",
                         "it has more files than an image may have here (image_max_files is %lld)",
                         (long long)config->image_max_files);
    return 0;
}

static int check(struct running *running, struct error *err)
{
    const struct work *work = running->work;
    int64_t began = clock_monotonic_ms();

    if (atomic_load(work->import->cancelled))
        return error_set(err, "shutting-down", "bottled is ending: import the image again later");
    if (began >= work->until_ms)
        return error_set(err, "image-refused", "%s did not end within image_timeout, %lld s in all",
                         running->jailed->argv[0],
                         (long long)work->import->config->image_timeout_ms / 1000);
    int result = check_limits(running, err);
    int64_t now = clock_monotonic_ms();
    running->look_ms = now + (now - began > LOOK_MS / 2 ? 2 * (now - began) : LOOK_MS);
    return result;
}

/* False at the end of the pipe. */
static bool take(int fd, struct text *said, size_t limit)
{
    char bytes[8192];
    ssize_t got = read(fd, bytes, sizeof bytes);

    if (got < 0)
        return errno == EINTR || errno == EAGAIN;
    size_t room = said->length < limit ? limit - said->length : 0;
    text_add_bytes(said, bytes, (size_t)got < room ? (size_t)got : room);
    return got > 0;
}

static int watch(struct running *running, struct error *err)
{
    bool open[2] = {true, true};
    int status;

    for (;;) {
        int64_t left = running->look_ms - clock_monotonic_ms();
        struct pollfd fds[] = {
            {.fd = open[0] ? running->out : -1, .events = POLLIN},
            {.fd = open[1] ? running->error : -1, .events = POLLIN},
            {.fd = open[0] || open[1] ? -1 : running->pidfd, .events = POLLIN},
        };
        if (poll(fds, COUNT_OF(fds), left > 0 ? (int)left : 0) < 0 && errno != EINTR)
            return error_errno(err, NULL, "waiting for %s", running->jailed->argv[0]);
        if (fds[0].revents)
            open[0] = take(running->out, &running->said[0], IMPORT_JSON_MAX);
        if (fds[1].revents)
            open[1] = take(running->error, &running->said[1], OUTPUT_MAX);
        if (fds[2].revents && pidfd_reap(running->pidfd, &status) == 1) {
            running->pid = 0;
            return status;
        }
        if (clock_monotonic_ms() >= running->look_ms && check(running, err) < 0)
            return -1;
    }
}

/* The last line that says something, without what a terminal could take for a command. */
static void last_line(const struct text *said, char *ret, size_t size)
{
    const char *text = said->data ? said->data : "";
    size_t end = strlen(text);

    while (end && strchr("\n\r ", text[end - 1]))
        end--;
    size_t begin = end;
    while (begin && text[begin - 1] != '\n')
        begin--;
    if (end - begin > size - 1)
        begin = end - (size - 1);
    (void)snprintf(ret, size, "%.*s", (int)(end - begin), text + begin);
    for (char *at = ret; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = ' ';
}

static int judge(const struct running *running, int status, struct error *err)
{
    char words[96], line[400];

    if (status == 0)
        return check_limits(running, err);
    wait_status_words(status, words, sizeof words);
    last_line(&running->said[1], line, sizeof line);
    /* Its file may not grow beyond the limit: then it is ended by SIGXFSZ, or told so. */
    if (WIFSIGNALED(status) || strstr(line, "file too large") || strstr(line, "File too large"))
        return error_set(err, "image-refused",
                         "%s could not go on (%s): a file of the image is larger than an image may "
                         "be here (image_max_bytes), or it needed too much memory",
                         running->jailed->argv[0], words);
    return error_set(err, "image-refused", "%s: %s", running->jailed->argv[0],
                     line[0] ? line : words);
}

static int spawn(struct running *running, const struct argv *argv, struct error *err)
{
    int out[2], error[2];

    CLEANUP_CLOSE int filter = filter_open(FILTER_SIDECAR, err);
    if (filter < 0)
        return -1;
    if (pipe2(out, O_CLOEXEC) < 0)
        return error_errno(err, NULL, "pipe");
    if (pipe2(error, O_CLOEXEC) < 0) {
        (void)close(out[0]);
        (void)close(out[1]);
        return error_errno(err, NULL, "pipe");
    }
    const struct spawn_fd fds[] = {{filter, FILTER_FD}};
    const struct spawn options = {.argv = argv->items,
                                  .in = -1,
                                  .out = out[1],
                                  .error = error[1],
                                  .fds = fds,
                                  .n_fds = COUNT_OF(fds)};
    int result = process_spawn(&options, &running->pid, &running->pidfd, err);
    (void)close(out[1]);
    (void)close(error[1]);
    running->out = out[0];
    running->error = error[0];
    return result;
}

int import_jailed(const struct work *work, const struct jailed *jailed, char **ret_output,
                  struct error *err)
{
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    struct running running = {.work = work, .jailed = jailed, .pidfd = -1, .out = -1, .error = -1};
    int result = -1;

    work->import->progress(work->import->context, jailed->step, 0, 0);
    if (build(&argv, work, jailed, err) == 0 && spawn(&running, &argv, err) == 0) {
        int status = watch(&running, err);
        result = status < 0 ? -1 : judge(&running, status, err);
    }
    if (running.pid > 0) {
        (void)kill(-running.pid, SIGKILL);
        (void)waitpid(running.pid, NULL, 0);
    }
    if (result == 0 && ret_output && !(*ret_output = text_take(&running.said[0])))
        result = error_set(err, NULL, "out of memory");
    for (size_t i = 0; i < COUNT_OF(running.said); i++)
        text_free(&running.said[i]);
    const int fds[] = {running.pidfd, running.out, running.error};
    for (size_t i = 0; i < COUNT_OF(fds); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    return result;
}
