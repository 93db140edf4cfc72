/* A wall clock that a test sets, without a word of it in the product: preloaded into bottled, it
 * adds to the wall clock the milliseconds in the file that TEST_CLOCK names, a number of eight
 * bytes that both map. Every other clock is the host's. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { NSEC = 1000000000 };

static const _Atomic int64_t *offset_ms;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void map_it(void)
{
    const char *path = getenv("TEST_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset_ms, PROT_READ, MAP_SHARED, fd, 0);

    if (fd >= 0)
        (void)close(fd);
    if (at == MAP_FAILED)
        abort();
    offset_ms = at;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);

    if (result < 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return result;
    (void)pthread_once(&once, map_it);
    int64_t ms = atomic_load(offset_ms);
    now->tv_sec += (time_t)(ms / 1000);
    now->tv_nsec += (long)(ms % 1000) * 1000000;
    if (now->tv_nsec < 0) {
        now->tv_sec--;
        now->tv_nsec += NSEC;
    } else if (now->tv_nsec >= NSEC) {
        now->tv_sec++;
        now->tv_nsec -= NSEC;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;

    (void)zone;
    (void)clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (ret)
        *ret = now.tv_sec;
    return now.tv_sec;
}
