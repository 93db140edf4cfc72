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

int clock_gettime(clockid_t clock_id, struct timespec *tp)
{
    int result = (int)syscall(SYS_clock_gettime, clock_id, tp);

    if (result < 0 || (clock_id != CLOCK_REALTIME && clock_id != CLOCK_REALTIME_COARSE))
        return result;
    (void)pthread_once(&once, map_it);
    int64_t ms = atomic_load(offset_ms);
    tp->tv_sec += (time_t)(ms / 1000);
    tp->tv_nsec += (long)(ms % 1000) * 1000000;
    if (tp->tv_nsec < 0) {
        tp->tv_sec--;
        tp->tv_nsec += NSEC;
    } else if (tp->tv_nsec >= NSEC) {
        tp->tv_sec++;
        tp->tv_nsec -= NSEC;
    }
    return result;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    struct timespec precise;

    (void)tz;
    (void)clock_gettime(CLOCK_REALTIME, &precise);
    tv->tv_sec = precise.tv_sec;
    tv->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *timer)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (timer)
        *timer = now.tv_sec;
    return now.tv_sec;
}
