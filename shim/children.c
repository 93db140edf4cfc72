#include "shim/children.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/number.h"
#include "base/util.h"
#include "shim/protocol.h"

void child_mark(const struct launch *launch, char ret[CHILD_MARK_SIZE])
{
    (void)snprintf(ret, CHILD_MARK_SIZE, SHIM_RUN_DIR "=%s", launch->run_dir);
}

int child_start(struct child *child, const struct launch *launch, const char *const *argv,
                const struct spawn_fd *fds, size_t n_fds, struct error *err)
{
    char mark[CHILD_MARK_SIZE];
    const char *const env[] = {mark, NULL};
    CLEANUP_CLOSE int out = -1;
    CLEANUP_CLOSE int error = -1;

    if (sink_pipe(&child->out, &out, err) < 0 ||
        (child->split && sink_pipe(&child->error, &error, err) < 0))
        return -1;
    child_mark(launch, mark);
    const struct spawn spawn = {.argv = argv,
                                .env = env,
                                .in = -1,
                                .out = out,
                                .error = child->split ? error : out,
                                .fds = fds,
                                .n_fds = n_fds};
    if (process_spawn(&spawn, &child->pid, NULL, err) < 0)
        return -1;
    child->start_time = process_start_time(child->pid);
    return 0;
}

void child_kill(const struct child *child)
{
    if (child->pid > 0) /* not reaped yet, so the pid is still this child's */
        (void)kill(child->pid, SIGKILL);
}

/* The first child of a process of one thread, 0 when there is none. Source: proc_pid_task(5). */
static pid_t first_child(pid_t parent)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
    CLEANUP_FREE char *list = file_read(path, 65536, NULL, NULL);
    char *next = NULL, *word = list ? strtok_r(list, " \n", &next) : NULL;
    int64_t pid;

    return word && number_parse(word, 2, INT32_MAX, &pid) == 0 ? (pid_t)pid : 0;
}

/* The process so many levels below, 0 when there is none. */
static pid_t descend(pid_t pid, unsigned levels)
{
    while (pid > 0 && levels-- > 0)
        pid = first_child(pid);
    return pid;
}

int child_below(const struct child *child, unsigned levels)
{
    pid_t inner = descend(child->pid, levels);
    uint64_t start_time = inner > 0 ? process_start_time(inner) : 0;
    CLEANUP_CLOSE int pidfd = start_time ? process_open(inner, start_time) : -1;

    /* Numbers may have been given anew while we read; what is in its place now, seen from above, is
     * what the descriptor holds. */
    if (pidfd < 0 || descend(child->pid, levels) != inner) {
        errno = ESRCH;
        return -1;
    }
    return steal_fd(&pidfd);
}

int child_inner(const struct child *child)
{
    return child_below(child, 2);
}

/* The `count` first words of a line of the table; false when it has fewer. */
static bool split(char *line, char **words, size_t count)
{
    char *next = NULL;

    for (size_t i = 0; i < count; i++)
        if (!(words[i] = strtok_r(i == 0 ? line : NULL, " ", &next)))
            return false;
    return true;
}

bool port_is_ours(const char *host, uint16_t port)
{
    enum { LOCAL = 1, STATE = 3, UID = 7, WORDS = 8, LINE_MAX_BYTES = 256 };
    char local[32], line[LINE_MAX_BYTES], *words[WORDS];
    bool found = false, listens = true;
    struct in_addr address;
    int64_t uid;

    if (inet_pton(AF_INET, host, &address) != 1)
        return false;
    FILE *table = fopen("/proc/net/tcp", "re");
    (void)snprintf(local, sizeof local, "%08X:%04X", address.s_addr, port);
    (void)(table && fgets(line, sizeof line, table)); /* the heading */
    /* The kernel tells those that listen first; the connections behind them may be very many. */
    while (table && !found && listens && fgets(line, sizeof line, table)) {
        listens = split(line, words, WORDS) && strcmp(words[STATE], "0A") == 0;
        found = listens && strcmp(words[LOCAL], local) == 0 &&
                number_parse(words[UID], 0, UINT32_MAX, &uid) == 0 && uid == (int64_t)geteuid();
    }
    if (table)
        (void)fclose(table);
    return found;
}

void children_kill_all(void)
{
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    CLEANUP_FREE char *list = file_read(path, 65536, NULL, NULL);
    char *next = NULL;
    int64_t pid;

    for (char *word = list ? strtok_r(list, " \n", &next) : NULL; word;
         word = strtok_r(NULL, " \n", &next))
        if (number_parse(word, 2, INT32_MAX, &pid) == 0)
            (void)kill((pid_t)pid, SIGKILL);
}
