#include "guest/fresh.h"

#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/util.h"

/* The bytes are added to the kernel's pool, and then every generator that was seeded before (each
 * processor's own too, and the numbers drawn ahead) is seeded anew from it. */
static int reseed(const uint8_t *entropy, struct error *err)
{
    union {
        struct rand_pool_info info;
        uint32_t room[(sizeof(struct rand_pool_info) + START_ENTROPY_SIZE) / sizeof(uint32_t)];
    } pool = {.info = {.entropy_count = START_ENTROPY_SIZE * 8, .buf_size = START_ENTROPY_SIZE}};
    CLEANUP_CLOSE int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    int result;

    if (fd < 0)
        return error_errno(err, NULL, "opening /dev/urandom");
    memcpy(pool.info.buf, entropy, START_ENTROPY_SIZE);
    result = ioctl(fd, RNDADDENTROPY, &pool.info) < 0 ? -1 : ioctl(fd, RNDRESEEDCRNG);
    if (result < 0)
        (void)error_errno(err, NULL, "seeding the random generator");
    explicit_bzero(&pool, sizeof pool);
    return result;
}

int fresh_time(uint64_t wall_ms, struct error *err)
{
    const struct timespec now = {.tv_sec = (time_t)(wall_ms / 1000),
                                 .tv_nsec = (long)(wall_ms % 1000) * 1000000};

    return clock_settime(CLOCK_REALTIME, &now) < 0 ? error_errno(err, NULL, "setting the clock")
                                                   : 0;
}

int fresh_apply(const struct start_message *start, struct error *err)
{
    return reseed(start->entropy, err) < 0 ? -1 : fresh_time(start->wall_ms, err);
}
