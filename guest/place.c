/* A new file gets its bytes under a name of its own beside its place. Whoever looks at the place
 * sees the former file or the whole new one. */
#include "guest/files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/util.h"

/* What a SIGTERM has to remove. */
static volatile sig_atomic_t guarded_folder = -1;
static char guarded_name[sizeof((struct files_place *)0)->beside];

static void on_term(int number)
{
    (void)number;
    if (guarded_folder >= 0)
        (void)unlinkat(guarded_folder, guarded_name, 0);
    _exit(FILES_FAILED);
}

void place_guard(void)
{
    const struct sigaction action = {.sa_handler = on_term};

    (void)sigaction(SIGTERM, &action, NULL);
}

int place_begin(struct files_place *place, int folder, const char *name)
{
    uint64_t number;

    if (strlen(name) >= sizeof place->name) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
        return -1;
    *place = (struct files_place){.folder = folder};
    (void)snprintf(place->name, sizeof place->name, "%s", name);
    (void)snprintf(place->beside, sizeof place->beside, ".bottled-%016llx",
                   (unsigned long long)number);
    memcpy(guarded_name, place->beside, sizeof guarded_name);
    guarded_folder = folder;
    place->fd =
        openat(folder, place->beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (place->fd < 0)
        guarded_folder = -1;
    return place->fd < 0 ? -1 : 0;
}

/* The new name is on the disk with its folder. */
static int sync_folder(int folder)
{
    CLEANUP_CLOSE int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -1 : fsync(fd);
}

int place_finish(struct files_place *place, const struct files_owner *owner, mode_t mode,
                 const struct timespec *modified, bool sync)
{
    const struct timespec kept = {.tv_nsec = UTIME_OMIT};
    const struct timespec times[2] = {kept, modified ? *modified : kept};

    /* The mode comes last: a new owner takes setuid away. */
    if (files_own(place->fd, owner) < 0 || fchmod(place->fd, mode) < 0 ||
        (modified && futimens(place->fd, times) < 0) || (sync && fsync(place->fd) < 0) ||
        renameat(place->folder, place->beside, place->folder, place->name) < 0) {
        int error = errno;
        place_abandon(place);
        errno = error;
        return -1;
    }
    guarded_folder = -1;
    (void)close(steal_fd(&place->fd));
    return sync ? sync_folder(place->folder) : 0;
}

void place_abandon(struct files_place *place)
{
    if (place->fd < 0)
        return;
    (void)unlinkat(place->folder, place->beside, 0);
    guarded_folder = -1;
    (void)close(steal_fd(&place->fd));
}
