/* attacker NAME VERB ARGUMENT… : one attack from inside a guest, by its root.
 *
 * Prints one JSON line, {"row": NAME, "back": what came back, "ms": how long that took}. The frames
 * are made by the tests (tests/attacks/frames.py) and come here as hex; what the guest's kernel
 * would never send goes out over an AF_PACKET socket, or, where that is too polite (a frame shorter
 * than its header), over AF_XDP. Static: the image has no library of its own for it. */
#include "tests/attacks/attacker.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BACK_MAX = 4000, SHOWN_FRAMES = 4, IDLE_MS = 200, PORTS = 65536, SCAN_WINDOW = 10 };

static char back[BACK_MAX + 1];
static size_t back_length;
static double began;

static double now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

void say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int length = vsnprintf(back + back_length, BACK_MAX - back_length, format, args);
    va_end(args);
    if (length > 0)
        back_length +=
            (size_t)length < BACK_MAX - back_length ? (size_t)length : BACK_MAX - back_length - 1;
}

static void say_bytes(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length && back_length < BACK_MAX - 1; i++)
        if (bytes[i] != '\r')
            back[back_length++] = (char)(isprint(bytes[i])  ? bytes[i]
                                         : bytes[i] == '\n' ? ' '
                                                            : '.');
    back[back_length] = '\0';
}

/* Ends the attack: a line with all that was said. */
static int report(const char *name)
{
    printf("{\"row\": \"%s\", \"ms\": %.0f, \"back\": \"", name, now_ms() - began);
    for (const char *at = back; *at; at++)
        if (*at == '"' || *at == '\\')
            printf("\\%c", *at);
        else
            putchar(isprint((unsigned char)*at) ? *at : ' ');
    printf("\"}\n");
    return 0;
}

long number(const char *text)
{
    return text ? strtol(text, NULL, 0) : 0;
}

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Lower-case hex to bytes; how many. */
size_t unhex(const char *text, uint8_t *ret, size_t max)
{
    size_t length = 0;

    for (; length < max && nibble(text[0]) >= 0 && nibble(text[1]) >= 0; text += 2)
        ret[length++] = (uint8_t)(nibble(text[0]) << 4 | nibble(text[1]));
    return length;
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

/* --- Ordinary sockets ------------------------------------------------------------------------ */

static int dial(int kind, const char *host, int port, int wait_ms)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), fault = 0, one = 1;
    socklen_t size = sizeof fault;
    struct pollfd ready = {.fd = fd, .events = POLLOUT};

    if (fd < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0 &&
        errno != EINPROGRESS) {
        say("connect: %s", strerror(errno));
        return -1;
    }
    if (poll(&ready, 1, wait_ms) == 0) {
        say("connect: timed out");
        return -1;
    }
    (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &fault, &size);
    if (fault) {
        say("connect: %s", strerror(fault));
        return -1;
    }
    return fd;
}

/* Reads until the end, `wait_ms` of silence (less once something came) or, with `head`, an empty
 * line. False at the end. */
static bool hear(int fd, int wait_ms, bool head)
{
    uint8_t bytes[4096];
    bool any = false;

    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, any && wait_ms > IDLE_MS ? IDLE_MS : wait_ms) <= 0) {
            say(any ? " [open]" : "silence");
            return true;
        }
        ssize_t got = read(fd, bytes, sizeof bytes);
        if (got <= 0) {
            say(" [closed%s%s]", got < 0 ? ": " : "", got < 0 ? strerror(errno) : "");
            return false;
        }
        any = true;
        say_bytes(bytes, (size_t)got);
        if (head && memmem(bytes, (size_t)got, "\r\n\r\n", 4))
            return true;
    }
}

/* HOST PORT WAIT_MS HEX… : what is sent in turn, each after the answer to the one before. */
static void verb_say(char **args, int kind)
{
    static uint8_t bytes[FRAME_MAX];
    int wait = (int)number(args[2]), fd = dial(kind, args[0], (int)number(args[1]), wait);
    bool open = fd >= 0;

    if (open && !args[3])
        (void)hear(fd, wait, false);
    for (int i = 3; open && args[i]; i++) {
        size_t length = unhex(args[i], bytes, sizeof bytes);
        if (send(fd, bytes, length, MSG_NOSIGNAL) != (ssize_t)length) {
            say(" [send: %s]", strerror(errno));
            break;
        }
        open = hear(fd, wait, args[i + 1] != NULL) && kind == SOCK_STREAM;
        if (args[i + 1])
            say(" | ");
    }
    if (fd >= 0)
        (void)close(fd);
}

static void verb_tcp(char **args)
{
    verb_say(args, SOCK_STREAM);
}

static void verb_udp(char **args)
{
    verb_say(args, SOCK_DGRAM);
}

/* HOST PORT COUNT MS [HEX] : opens connections and holds them all; says how many it got. */
static void verb_hold(char **args)
{
    static uint8_t bytes[FRAME_MAX];
    const struct rlimit files = {65536, 65536};
    long count = number(args[2]), got = 0;
    size_t length = args[4] ? unhex(args[4], bytes, sizeof bytes) : 0;

    (void)setrlimit(RLIMIT_NOFILE, &files);
    for (long i = 0; i < count; i++) {
        int fd = dial(SOCK_STREAM, args[0], (int)number(args[1]), 1000);
        back_length = 0;
        if (fd < 0)
            break;
        got += length == 0 || send(fd, bytes, length, MSG_NOSIGNAL) > 0;
    }
    (void)poll(NULL, 0, (int)number(args[3]));
    say("held %ld", got);
}

/* HOST PORT COUNT HEX : one connection after the other, each with a request, its answer not awaited
 * to the end. */
static void verb_storm(char **args)
{
    static uint8_t bytes[FRAME_MAX];
    size_t length = unhex(args[3], bytes, sizeof bytes);
    long count = number(args[2]), got = 0;

    for (long i = 0; i < count; i++) {
        int fd = dial(SOCK_STREAM, args[0], (int)number(args[1]), 1000);
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        back_length = 0;
        if (fd < 0)
            continue;
        got += send(fd, bytes, length, MSG_NOSIGNAL) > 0 && poll(&ready, 1, 1000) > 0;
        (void)close(fd);
    }
    say("answered %ld", got);
}

/* udp|tcp HOST WAIT_MS HEX : a DNS message; what the answer's head says, and what can be read of
 * it. */
static void verb_dns(char **args)
{
    static uint8_t bytes[FRAME_MAX];
    bool stream = strcmp(args[0], "tcp") == 0;
    int wait = (int)number(args[2]);
    int fd = dial(stream ? SOCK_STREAM : SOCK_DGRAM, args[1], 53, wait);
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    size_t skip = stream ? 2 : 0, length = unhex(args[3], bytes + skip, sizeof bytes - skip);

    if (fd < 0)
        return;
    if (stream)
        put16(bytes, (unsigned)length);
    (void)!send(fd, bytes, length + skip, MSG_NOSIGNAL);
    ssize_t got = poll(&ready, 1, wait) > 0 ? read(fd, bytes, sizeof bytes) : 0;
    if (got < (ssize_t)skip + 12) {
        say(got < 0 ? "%s" : "silence", strerror(errno));
    } else {
        say("rcode %u, answers %u: ", bytes[skip + 3] & 15U, get16(bytes + skip + 6));
        say_bytes(bytes + skip + 12, (size_t)got - skip - 12);
        if (got >= 4 && get16(bytes + skip + 6))
            say(" %u.%u.%u.%u", bytes[got - 4], bytes[got - 3], bytes[got - 2], bytes[got - 1]);
    }
    (void)close(fd);
}

/* --- Frames ---------------------------------------------------------------------------------- */

static int packet_socket(struct sockaddr_ll *ret)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
    int size = 4 << 20;

    *ret = (struct sockaddr_ll){.sll_family = AF_PACKET,
                                .sll_protocol = htons(ETH_P_ALL),
                                .sll_ifindex = (int)if_nametoindex(NIC),
                                .sll_halen = ETH_ALEN};
    if (fd < 0 || bind(fd, (const struct sockaddr *)ret, sizeof *ret) < 0) {
        say("packet socket: %s", strerror(errno));
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    return fd;
}

static void set_mtu(int mtu)
{
    struct ifreq request = {.ifr_name = NIC, .ifr_mtu = mtu};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (ioctl(fd, SIOCSIFMTU, &request) < 0)
        say("mtu: %s ", strerror(errno));
    (void)close(fd);
}

static void describe_ip(const uint8_t *ip, size_t length)
{
    size_t header = (size_t)(ip[0] & 15) * 4;
    const uint8_t *inner = ip + header;
    char from[INET_ADDRSTRLEN];

    (void)inet_ntop(AF_INET, ip + 12, from, sizeof from);
    if (length < header + 8)
        say("[short from %s]", from);
    else if (ip[9] == IPPROTO_TCP)
        say("[tcp %s%s%s%s:%u]", inner[13] & 4 ? "rst " : "", inner[13] & 2 ? "syn-ack " : "",
            "from ", from, get16(inner));
    else if (ip[9] == IPPROTO_UDP) {
        say("[udp from %s:%u ", from, get16(inner));
        say_bytes(inner + 8, length - header - 8 < 60 ? length - header - 8 : 60);
        say("]");
    } else if (ip[9] == IPPROTO_ICMP)
        say("[icmp %u/%u from %s]", inner[0], inner[1], from);
    else
        say("[protocol %u from %s]", ip[9], from);
}

static void describe(const uint8_t *frame, size_t length)
{
    unsigned type = length < 14 ? 0 : get16(frame + 12);

    if (type == ETH_P_IP && length >= 34)
        describe_ip(frame + 14, length - 14);
    else if (type == ETH_P_ARP && length >= 42)
        say("[arp %u: %u.%u.%u.%u is at %02x:%02x:%02x:%02x:%02x:%02x]", get16(frame + 20),
            frame[28], frame[29], frame[30], frame[31], frame[22], frame[23], frame[24], frame[25],
            frame[26], frame[27]);
    else
        say("[type %04x, %zu bytes]", type, length);
}

/* Says what came to this machine within the time. */
static void hear_frames(int fd, int wait_ms)
{
    static uint8_t frame[FRAME_MAX];
    const double end = now_ms() + wait_ms;
    int count = 0;

    while (now_ms() < end) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        struct sockaddr_ll from = {0};
        socklen_t size = sizeof from;
        if (poll(&ready, 1, (int)(end - now_ms()) + 1) <= 0)
            break;
        ssize_t got = recvfrom(fd, frame, sizeof frame, 0, (struct sockaddr *)&from, &size);
        if (got > 0 && from.sll_pkttype != PACKET_OUTGOING && count++ < SHOWN_FRAMES)
            describe(frame, (size_t)got);
    }
    if (!count)
        say("silence");
}

/* WAIT_MS HEX[*LENGTH]… : sends frames, each filled up to its length, and says what came. */
static void verb_frames(char **args)
{
    static uint8_t frame[FRAME_MAX];
    struct sockaddr_ll to;
    int fd = packet_socket(&to), fault = 0;

    for (int i = 1; fd >= 0 && args[i]; i++) {
        const char *star = strchr(args[i], '*');
        size_t length = unhex(args[i], frame, sizeof frame);
        size_t full = star ? (size_t)number(star + 1) : length;
        if (full > 1514)
            set_mtu((int)full - ETH_HLEN);
        if (full > length && full <= sizeof frame)
            memset(frame + length, 'A', full - length);
        if (sendto(fd, frame, full > length ? full : length, 0, (const struct sockaddr *)&to,
                   sizeof to) < 0)
            fault = errno;
    }
    if (fault)
        say("send: %s ", strerror(fault));
    if (fd >= 0)
        hear_frames(fd, (int)number(args[0]));
}

/* Writes the counter where the arguments say: OFFSET its low 16 bits, ^OFFSET its high ones,
 * ~OFFSET the complement of the low ones, so that a checksum over both stays as it is. */
static void count_into(uint8_t *frame, char **places, unsigned counter)
{
    for (; *places; places++) {
        bool high = **places == '^', complement = **places == '~';
        uint8_t *at = frame + number(*places + (high || complement));
        put16(at, high ? counter >> 16 : complement ? ~counter : counter);
    }
}

/* COUNT FIRST HEX OFFSET… : the same frame many times with a counter in it. */
static void verb_flood(char **args)
{
    static uint8_t frame[FRAME_MAX];
    struct sockaddr_ll to;
    int fd = packet_socket(&to);
    size_t length = unhex(args[2], frame, sizeof frame);
    long sent = 0, count = number(args[0]), first = number(args[1]);

    for (long i = 0; fd >= 0 && i < count; i++) {
        count_into(frame, args + 3, (unsigned)(first + i));
        while (sendto(fd, frame, length, 0, (const struct sockaddr *)&to, sizeof to) < 0 &&
               errno == ENOBUFS)
            (void)poll(NULL, 0, 1);
        sent++;
    }
    say("sent %ld", sent);
}

/* Notes the answers that came; how many. */
static int take_answers(int fd, const uint8_t *probe, uint8_t *states, int wait_ms)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    uint8_t frame[2048];
    int count = 0;

    while (poll(&ready, 1, count ? 0 : wait_ms) > 0) {
        ssize_t got = recv(fd, frame, sizeof frame, 0);
        /* From the address that was asked: TCP, with RST or with SYN and ACK. */
        if (got < 54 || get16(frame + 12) != ETH_P_IP || frame[23] != IPPROTO_TCP ||
            memcmp(frame + 26, probe + 30, 4) != 0)
            continue;
        if (frame[47] & 4)
            states[get16(frame + 34)] |= 1;
        else if ((frame[47] & 0x12) == 0x12)
            states[get16(frame + 34)] |= 2;
        count++;
    }
    return count;
}

/* Asks each port that did not answer yet; how many those were. gvproxy opens ten connections at a
 * time and drops what comes beyond. */
static int ask_ports(int fd, uint8_t *frame, size_t length, unsigned low, unsigned high,
                     uint8_t *states)
{
    char *places[] = {"36", "~40", NULL};
    int asked = 0, open = 0;

    for (unsigned port = low; port <= high; port++) {
        if (states[port])
            continue;
        count_into(frame, places, port);
        (void)send(fd, frame, length, 0);
        asked++;
        for (open++; open >= SCAN_WINDOW;) {
            int answered = take_answers(fd, frame, states, 20);
            open = answered ? open - answered : 0;
        }
    }
    (void)take_answers(fd, frame, states, 100);
    return asked;
}

/* HEX LOW HIGH : a SYN frame, sent to these ports: which ones accept? The destination port's
 * complement goes to the low half of the sequence number. */
static void verb_scan(char **args)
{
    static uint8_t states[PORTS];
    uint8_t frame[256];
    struct sockaddr_ll to;
    int fd = packet_socket(&to), refused = 0, silent = 0;
    size_t length = unhex(args[0], frame, sizeof frame);
    unsigned low = (unsigned)number(args[1]), high = (unsigned)number(args[2]);

    for (int i = 0; fd >= 0 && high < PORTS && i < 8; i++)
        if (ask_ports(fd, frame, length, low, high, states) == 0)
            break;
    say("accepting:");
    for (unsigned port = low; port <= high; port++) {
        if (states[port] & 2)
            say(" %u", port);
        refused += states[port] == 1;
        silent += states[port] == 0;
    }
    say("; refused: %d; silent: %d", refused, silent);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int arguments;
        void (*run)(char **args);
    } verbs[] = {
        {"tcp", 3, verb_tcp},     {"udp", 4, verb_udp},     {"dns", 4, verb_dns},
        {"hold", 4, verb_hold},   {"storm", 4, verb_storm}, {"frames", 2, verb_frames},
        {"flood", 3, verb_flood}, {"scan", 3, verb_scan},   {"runts", 2, verb_runts},
        {"ports", 1, verb_ports}, {"poke", 2, verb_poke},   {"spew", 2, verb_spew},
        {"agent", 2, verb_agent},
    };

    began = now_ms();
    for (size_t i = 0; argc > 2 && i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(argv[2], verbs[i].name) == 0 && argc >= 3 + verbs[i].arguments) {
            verbs[i].run(argv + 3);
            return report(argv[1]);
        }
    (void)fprintf(stderr, "usage: attacker NAME VERB ARGUMENT...\n");
    return 2;
}
