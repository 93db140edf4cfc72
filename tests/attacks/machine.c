/* The attacker's verbs that go below the kernel's manners, and at the machine itself. */
#include "tests/attacks/attacker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- Frames below the kernel's manners ---------------------------------------------------------
 */

enum { XDP_FRAMES = 64, XDP_SIZE = 4096 };

struct ring {
    uint32_t *producer;
    struct xdp_desc *descriptors;
};

static int xdp_map(int fd, struct ring *ret)
{
    struct xdp_mmap_offsets at;
    socklen_t size = sizeof at;

    if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &size) < 0)
        return -1;
    uint8_t *map = mmap(NULL, at.tx.desc + XDP_FRAMES * sizeof(struct xdp_desc),
                        PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, XDP_PGOFF_TX_RING);
    if (map == MAP_FAILED)
        return -1;
    ret->producer = (uint32_t *)(void *)(map + at.tx.producer);
    ret->descriptors = (struct xdp_desc *)(void *)(map + at.tx.desc);
    return 0;
}

static int xdp_open(const uint8_t *memory, struct ring *ret)
{
    const int entries = XDP_FRAMES;
    struct xdp_umem_reg umem = {.addr = (uint64_t)(uintptr_t)memory,
                                .len = (uint64_t)XDP_FRAMES * XDP_SIZE,
                                .chunk_size = XDP_SIZE};
    struct sockaddr_xdp address = {
        .sxdp_family = AF_XDP, .sxdp_flags = XDP_COPY, .sxdp_ifindex = if_nametoindex(NIC)};
    const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};

    (void)setrlimit(RLIMIT_MEMLOCK, &all);
    int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof umem) < 0 ||
        setsockopt(fd, SOL_XDP, XDP_UMEM_FILL_RING, &entries, sizeof entries) < 0 ||
        setsockopt(fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &entries, sizeof entries) < 0 ||
        setsockopt(fd, SOL_XDP, XDP_TX_RING, &entries, sizeof entries) < 0 ||
        xdp_map(fd, ret) < 0 || bind(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    return fd;
}

/* HEX LENGTH… : the first LENGTH bytes of a frame, also when those are fewer than a header. */
void verb_runts(char **args)
{
    uint8_t *memory = mmap(NULL, (size_t)XDP_FRAMES * XDP_SIZE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct ring ring = {0};
    int fd = memory == MAP_FAILED ? -1 : xdp_open(memory, &ring);

    if (fd < 0) {
        say("xdp: %s", strerror(errno));
        return;
    }
    for (uint32_t i = 0; args[1 + i]; i++) {
        uint32_t length = (uint32_t)number(args[1 + i]);
        (void)unhex(args[0], memory + (size_t)i * XDP_SIZE, XDP_SIZE);
        ring.descriptors[i] = (struct xdp_desc){.addr = (uint64_t)i * XDP_SIZE, .len = length};
        __atomic_store_n(ring.producer, i + 1, __ATOMIC_RELEASE);
        say(sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? "[%u: %s]" : "[%u sent]", length,
            strerror(errno));
    }
}

/* --- The machine's own surface -----------------------------------------------------------------
 */

/* Port I/O as the guest's kernel lets it be: by the instructions, or by a device of its own. */
static int ports_open(void)
{
    return iopl(3) == 0 ? 0 : open("/dev/port", O_RDWR | O_CLOEXEC);
}

static void say_port(int fd, uint16_t port)
{
    uint8_t value = 0;

    if (fd == 0)
        value = inb(port);
    else if (pread(fd, &value, 1, port) != 1)
        say("[%s]", strerror(errno));
    say("%x=%02x ", port, value);
}

/* PORT… : what each I/O port reads as, a byte each. */
void verb_ports(char **args)
{
    int fd = ports_open();

    if (fd < 0)
        say("port I/O: %s", strerror(errno));
    for (; fd >= 0 && *args; args++)
        say_port(fd, (uint16_t)number(*args));
}

/* PORT VALUE… : writes words to I/O ports, and says what each reads as then; whoever can say so is
 * still alive. The device takes bytes: a word is its two, one after the other. */
void verb_poke(char **args)
{
    int fd = ports_open();

    if (fd < 0)
        say("port I/O: %s", strerror(errno));
    for (; fd >= 0 && args[0] && args[1]; args += 2) {
        uint16_t port = (uint16_t)number(args[0]), value = (uint16_t)number(args[1]);
        const uint8_t bytes[] = {(uint8_t)value, (uint8_t)(value >> 8)};
        if (fd == 0)
            outw(value, port);
        else if (pwrite(fd, bytes, sizeof bytes, port) != (ssize_t)sizeof bytes)
            say("[%s]", strerror(errno));
        say_port(fd, port);
    }
    say(fd < 0 ? "" : "alive");
}

/* PATH MIB : fills a device. */
void verb_spew(char **args)
{
    static char block[65536];
    int fd =
        strcmp(args[0], "-") == 0 ? STDOUT_FILENO : open(args[0], O_WRONLY | O_NOCTTY | O_CLOEXEC);
    long left = number(args[1]) << 20, written = 0;

    memset(block, 'x', sizeof block);
    for (size_t i = 99; i < sizeof block; i += 100)
        block[i] = '\n';
    while (fd >= 0 && written < left) {
        ssize_t got = write(fd, block, sizeof block);
        if (got < 0)
            break;
        written += got;
    }
    say("wrote %ld bytes, %s", written, written < left ? strerror(errno) : "all");
}

/* PID 1's own descriptor of the agent's port. */
static int steal_agent(void)
{
    int pid1 = (int)syscall(SYS_pidfd_open, 1, 0);
    DIR *folder = opendir("/proc/1/fd");

    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char target[64] = "";
        if (readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1) > 0 &&
            strstr(target, "/vport"))
            return (int)syscall(SYS_pidfd_getfd, pid1, (int)number(entry->d_name), 0);
    }
    errno = ENOENT;
    return -1;
}

/* COUNT HEX : writes to the host past bottle-init. */
void verb_agent(char **args)
{
    static uint8_t bytes[FRAME_MAX];
    int fd = steal_agent();
    long count = number(args[0]), done = 0;
    size_t length = unhex(args[1], bytes, sizeof bytes);

    for (; fd >= 0 && done < count; done++) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        (void)poll(&ready, 1, 5000);
        if (write(fd, bytes, length) < 0 && errno != EAGAIN)
            break;
    }
    say("wrote %ld, %s", done, done < count ? strerror(errno) : "all");
}
