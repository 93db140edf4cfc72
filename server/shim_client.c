#include "server/shim_client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "base/util.h"
#include "shim/protocol.h"

/* --- Statuses --------------------------------------------------------------------------------- */

bool shim_status_final(const struct shim_status *status)
{
    return status->state == STATE_STOPPED || status->state == STATE_EXITED ||
           status->state == STATE_FAILED;
}

static int64_t natural(const json_t *object, const char *key)
{
    json_int_t value = json_member_integer(object, key, 0);

    return value < 0 ? 0 : value;
}

/* A pid that could be one; 0 otherwise. */
static pid_t pid_member(const json_t *object)
{
    int64_t value = natural(object, "pid");

    return value > 1 && value <= INT_MAX ? (pid_t)value : 0;
}

static void read_processes(const json_t *array, struct shim_status *ret)
{
    size_t i;
    const json_t *item;

    json_array_foreach(array, i, item)
    {
        struct shim_process process = {.pid = pid_member(item),
                                       .start_time = (uint64_t)natural(item, "start_time")};
        const char *name = json_member_string(item, "name");
        if (!process.pid || !process.start_time || ret->n_processes == SHIM_PROCESSES_MAX)
            continue;
        (void)snprintf(process.name, sizeof process.name, "%s", name ? name : "process");
        ret->processes[ret->n_processes++] = process;
    }
}

static void read_boot(const json_t *json, struct shim_status *ret)
{
    const char *boot = json_member_string(json, "boot");
    const char *reason = json_member_string(json, "boot_reason");

    ret->template_failed = json_is_true(json_object_get(json, "template_failed"));
    if (boot && (strcmp(boot, "template") == 0 || strcmp(boot, "cold") == 0))
        (void)snprintf(ret->boot, sizeof ret->boot, "%s", boot);
    reason_copy(ret->boot_reason, reason ? reason : "");
}

int shim_status_parse(const char *bytes, size_t length, struct shim_status *ret, struct error *err)
{
    CLEANUP_JSON json_t *json = json_parse(bytes, length, err);
    const char *name = json_member_string(json, "state");
    const char *reason = json_member_string(json, "reason");
    const json_t *code = json_object_get(json, "exit_code");
    int state = name ? state_parse(name) : -1;

    if (!json)
        return error_wrap(err, "the supervisor's status");
    if (state < STATE_STARTING || state > STATE_FAILED)
        return error_set(err, NULL, "the supervisor's status names no state it may");
    struct shim_status status = {.state = (enum bottle_state)state};
    reason_copy(status.reason, reason ? reason : "");
    if (json_is_integer(code) && json_integer_value(code) >= 0 && json_integer_value(code) <= 255) {
        status.has_exit_code = true;
        status.exit_code = (int)json_integer_value(code);
    }
    read_boot(json, &status);
    status.started_ms = natural(json, "started_ms");
    status.finished_ms = natural(json, "finished_ms");
    status.boots = natural(json, "boots");
    status.ran_ms = natural(json, "ran_ms");
    status.pid = pid_member(json);
    status.start_time = (uint64_t)natural(json, "start_time");
    read_processes(json_object_get(json, "processes"), &status);
    *ret = status;
    return 0;
}

int shim_exit_record(const char *run_dir, struct shim_status *ret, struct error *err)
{
    char path[PATH_MAX], bytes[CONTROL_PACKET_MAX];
    struct shim_status found;
    struct stat status;

    (void)snprintf(path, sizeof path, "%s/" SHIM_EXIT_RECORD, run_dir);
    /* The directory is the bottle's user's: no links, nothing that blocks. */
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0)
        return error_errno(err, NULL, "%s", path);
    if (!S_ISREG(status.st_mode))
        return error_set(err, NULL, "%s is no file", path);
    ssize_t length = read(fd, bytes, sizeof bytes);
    if (length < 0)
        return error_errno(err, NULL, "%s", path);
    if (shim_status_parse(bytes, (size_t)length, &found, err) < 0)
        return error_wrap(err, "%s", path);
    if (!shim_status_final(&found))
        return error_set(err, NULL, "%s holds no final state", path);
    *ret = found;
    return 0;
}

/* --- Spawning --------------------------------------------------------------------------------- */

int shim_token(char ret[TOKEN_SIZE], struct error *err)
{
    unsigned char bytes[(TOKEN_SIZE - 1) / 2];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return error_errno(err, NULL, "random bytes");
    for (size_t i = 0; i < sizeof bytes; i++)
        (void)snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

static int spec_memfd(const json_t *spec, struct error *err)
{
    CLEANUP_FREE char *text = json_text(spec);
    int fd = text ? memfd_create("bottle-spec", MFD_CLOEXEC) : -1;

    if (fd < 0)
        return error_errno(err, NULL, "the launch spec");
    if (write_all(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0) {
        error_errno(err, NULL, "the launch spec");
        (void)close(fd);
        return -1;
    }
    return fd;
}

int shim_spawn(const char *binary, const json_t *spec, int secrets_fd, int log_fd,
               struct shim_spawned *ret, struct error *err)
{
    static const char *const env[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", NULL};
    const char *const argv[] = {binary, "--launch", NULL};
    struct shim_spawned spawned = {.pidfd = -1};
    int pipe_fds[2];

    CLEANUP_CLOSE int spec_fd = spec_memfd(spec, err);
    if (spec_fd < 0)
        return -1;
    if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return error_errno(err, NULL, "pipe");
    CLEANUP_CLOSE int ready = pipe_fds[0];
    CLEANUP_CLOSE int ready_write = pipe_fds[1];
    (void)fcntl(ready_write, F_SETFL, 0);
    const struct spawn_fd fds[] = {
        {spec_fd, SHIM_SPEC_FD}, {ready_write, SHIM_READY_FD}, {secrets_fd, SHIM_SECRETS_FD}};
    int log = log_fd >= 0 ? log_fd : STDERR_FILENO;
    const struct spawn spawn = {.argv = argv,
                                .env = env,
                                .in = -1,
                                .out = log,
                                .error = log,
                                .fds = fds,
                                .n_fds = COUNT_OF(fds) - (secrets_fd < 0),
                                .directory = "/"};
    if (process_spawn(&spawn, &spawned.pid, &spawned.pidfd, err) < 0)
        return -1;
    /* Our child and not reaped: the pid is its own, dead or alive. */
    spawned.start_time = process_start_time(spawned.pid);
    if (!spawned.start_time) {
        /* Who is not known by it could not be found again. */
        int status;
        error_errno(err, NULL, "looking at the supervisor that was started");
        (void)pidfd_kill(spawned.pidfd, SIGKILL);
        (void)waitpid(spawned.pid, &status, 0);
        (void)close(spawned.pidfd);
        return -1;
    }
    spawned.ready_fd = steal_fd(&ready);
    *ret = spawned;
    return 0;
}

bool shim_named(pid_t pid)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    CLEANUP_FREE char *name = file_read(path, 64, NULL, NULL);
    if (name && strcmp(name, "bottle-shim\n") == 0)
        return true;
    if (name || errno == ENOENT)
        errno = ESRCH;
    return false;
}

int shim_open(pid_t pid, uint64_t start_time)
{
    int pidfd = process_open(pid, start_time);

    if (pidfd < 0 || shim_named(pid))
        return pidfd;
    int saved = errno;
    (void)close(pidfd);
    errno = saved;
    return -1;
}

/* --- The control socket ----------------------------------------------------------------------- */

int shim_connect(const char *run_dir, pid_t *ret_pid, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t size = sizeof peer;

    if (snprintf(address.sun_path, sizeof address.sun_path, "%s/" SHIM_SOCKET, run_dir) >=
        (int)sizeof address.sun_path)
        return error_set(err, "socket-path-too-long", "%s/" SHIM_SOCKET, run_dir);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return error_errno(err, NULL, "%s", address.sun_path);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return error_errno(err, NULL, "%s", address.sun_path);
    *ret_pid = peer.pid;
    return steal_fd(&fd);
}

/* One packet, or an error: a peer that does not read its socket is no supervisor of ours. */
static int send_packet(int fd, const char *text, int length, struct error *err)
{
    if (send(fd, text, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT) != length)
        return error_errno(err, NULL, "writing to the supervisor");
    return 0;
}

int shim_hello(int fd, const char *token, struct error *err)
{
    char text[96];
    int length = snprintf(text, sizeof text, "{\"op\":\"hello\",\"token\":\"%s\"}", token);

    return send_packet(fd, text, length, err);
}

int shim_stop(int fd, int64_t grace_ms, struct error *err)
{
    char text[64];
    int length =
        snprintf(text, sizeof text, "{\"op\":\"stop\",\"grace_ms\":%lld}", (long long)grace_ms);

    return send_packet(fd, text, length, err);
}

int shim_pause(int fd, int64_t id, bool pause, struct error *err)
{
    char text[64];
    int length = snprintf(text, sizeof text, "{\"op\":\"pause\",\"id\":%lld,\"pause\":%s}",
                          (long long)id, pause ? "true" : "false");

    return send_packet(fd, text, length, err);
}

int shim_report(int fd, int64_t id, struct error *err)
{
    char text[64];
    int length = snprintf(text, sizeof text, "{\"op\":\"report\",\"id\":%lld}", (long long)id);

    return send_packet(fd, text, length, err);
}

int shim_exec_result(int fd, const char *id, const struct exec_note *note, struct error *err)
{
    char text[128];
    bool tells = note->signal || note->rows;
    int length = snprintf(
        text, sizeof text, "{\"op\":\"%s\",\"id\":\"%s\",\"signal\":%u,\"rows\":%u,\"columns\":%u}",
        tells ? "exec-tell" : "exec-result", id, note->signal, note->rows, note->columns);

    return send_packet(fd, text, length, err);
}
