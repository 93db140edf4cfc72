/* What version a tool is: a table of how to ask each, and what was answered for each file.
 *
 * A program is run with an empty environment and under a deadline, and only when somebody asks for
 * versions: what a preflight decides never hangs on it. A kernel's release stands in its image. */
#include "backends/versions.h"

#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/process.h"
#include "base/util.h"

enum { DEADLINE_MS = 2000, OUTPUT_MAX = 4096, KEPT_MAX = 16 };

/* The version is the word after `before`, in what the program prints or in the file itself. */
static const struct version_row {
    const char *tool;
    const char *argument; /* NULL: the file is looked through, not run */
    const char *before;
} rows[] = {
    {"smolvm", "--version", "smolvm "},
    {"gvproxy", "-version", "gvproxy version v"},
    {"qemu-system-x86_64", "--version", "QEMU emulator version "},
    {"bwrap", "--version", "bubblewrap "},
    {"squid", "-v", "Squid Cache: Version "},
    {"libkrunfw", NULL, "Linux version "},
};

struct kept {
    char path[512];
    off_t size;
    time_t changed;
    char version[sizeof((struct tool *)NULL)->version];
};

static struct kept kept[KEPT_MAX];
static size_t next_kept;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const struct version_row *find_row(const char *tool)
{
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (strcmp(rows[i].tool, tool) == 0)
            return &rows[i];
    return NULL;
}

/* The word after the first `before` that a digit follows; "" when there is none. */
static void read_word(const char *bytes, size_t length, const char *before, char *ret, size_t size)
{
    const char *at = bytes, *end = bytes + length;
    size_t n = 0;

    ret[0] = '\0';
    while ((at = memmem(at, (size_t)(end - at), before, strlen(before)))) {
        at += strlen(before);
        if (at < end && isdigit((unsigned char)*at))
            break;
    }
    for (; at && at < end && isgraph((unsigned char)*at) && n < size - 1; n++)
        ret[n] = *at++;
    ret[n] = '\0';
}

static void ask_program(const char *path, const struct version_row *row, char *ret, size_t size)
{
    const char *const argv[] = {path, row->argument, NULL};
    static const char *const env[] = {NULL};
    char *output;
    int status;

    if (process_run(argv, env, DEADLINE_MS, OUTPUT_MAX, &output, &status, NULL) < 0)
        return;
    read_word(output, strlen(output), row->before, ret, size);
    free(output);
}

static void look_through(const char *path, const struct version_row *row, char *ret, size_t size)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0 || status.st_size == 0)
        return;
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return;
    read_word(map, (size_t)status.st_size, row->before, ret, size);
    (void)munmap(map, (size_t)status.st_size);
}

/* The answer for a file: the kept one, or a fresh one. Under the lock. */
static const char *version_of(const char *path, const struct version_row *row)
{
    struct stat status;
    struct kept *place = NULL;

    if (stat(path, &status) < 0)
        return "";
    for (size_t i = 0; i < KEPT_MAX && !place; i++)
        if (strcmp(kept[i].path, path) == 0)
            place = &kept[i];
    if (place && place->size == status.st_size && place->changed == status.st_mtime)
        return place->version;
    if (!place)
        place = &kept[next_kept++ % KEPT_MAX];
    *place = (struct kept){.size = status.st_size, .changed = status.st_mtime};
    (void)snprintf(place->path, sizeof place->path, "%s", path);
    if (row->argument)
        ask_program(path, row, place->version, sizeof place->version);
    else
        look_through(path, row, place->version, sizeof place->version);
    return place->version;
}

void tool_versions(struct preflight *preflight)
{
    (void)pthread_mutex_lock(&lock);
    for (size_t i = 0; i < preflight->count; i++) {
        struct tool *tool = &preflight->tools[i];
        const struct version_row *row = find_row(tool->name);
        if (row && tool->path[0])
            (void)snprintf(tool->version, sizeof tool->version, "%s", version_of(tool->path, row));
    }
    (void)pthread_mutex_unlock(&lock);
}
