#include "guest/report.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/number.h"
#include "base/util.h"

enum {
    TOTAL_MS = 8000,   /* after this what has not answered is killed */
    REFUSAL_MS = 4000, /* for a refusal, which takes milliseconds */
    SILENCE_MS = 2500,
    ANSWER_MS = 6000,
    DNS_PORT = 53,
    PROXY_PORT = 8888,
    TYPE_A = 1,
    TYPE_TXT = 16,
};

/* What a check's process has. */
struct trial {
    const char *gateway;
    bool passed;
    char got[CHECK_WORDS_MAX + 1];
};

static void got(struct trial *trial, bool passed, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void got(struct trial *trial, bool passed, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(trial->got, sizeof trial->got, format, args);
    va_end(args);
    trial->passed = passed;
}

/* --- Sockets ---------------------------------------------------------------------------------- */

static void set_timeout(int fd, int64_t ms)
{
    const struct timeval time = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

static socklen_t make_address(const char *host, uint16_t port, struct sockaddr_storage *ret)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

    memset(ret, 0, sizeof *ret);
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(ret, &v4, sizeof v4);
        return sizeof v4;
    }
    (void)inet_pton(AF_INET6, host, &v6.sin6_addr);
    memcpy(ret, &v6, sizeof v6);
    return sizeof v6;
}

/* A connected socket, or -1 with errno. */
static int dial(const char *host, uint16_t port, int type, int64_t timeout_ms)
{
    struct sockaddr_storage address;
    socklen_t size = make_address(host, port, &address);
    CLEANUP_CLOSE int fd = socket(address.ss_family, type | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    set_timeout(fd, timeout_ms);
    if (connect(fd, (const struct sockaddr *)&address, size) < 0)
        return -1;
    return steal_fd(&fd);
}

/* --- TCP -------------------------------------------------------------------------------------- */

/* What is behind the cell's edge refuses at once; silence is somebody else's, and no proof. */
static void expect_refusal(struct trial *trial, const char *host, uint16_t port)
{
    CLEANUP_CLOSE int fd = dial(host, port, SOCK_STREAM, REFUSAL_MS);

    if (fd >= 0)
        got(trial, false, "connected");
    else if (errno == EINPROGRESS || errno == ETIMEDOUT || errno == EAGAIN)
        got(trial, false, "no answer within %d s", REFUSAL_MS / 1000);
    else
        got(trial, true, "%s", strerror(errno));
}

static void expect_connection(struct trial *trial, uint16_t port)
{
    CLEANUP_CLOSE int fd = dial(trial->gateway, port, SOCK_STREAM, REFUSAL_MS);

    got(trial, fd >= 0, "%s", fd >= 0 ? "connected" : strerror(errno));
}

/* Sends a request and reads an answer's beginning, as text. -1: none came. */
static int ask(struct trial *trial, uint16_t port, const char *request, char *ret, size_t size)
{
    CLEANUP_CLOSE int fd = dial(trial->gateway, port, SOCK_STREAM, ANSWER_MS);
    size_t length = 0;
    ssize_t piece;

    if (fd < 0 || send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
        return -1;
    while (length < size - 1 && (piece = recv(fd, ret + length, size - 1 - length, 0)) > 0)
        length += (size_t)piece;
    ret[length] = '\0';
    return length > 0 ? 0 : -1;
}

/* The status of "HTTP/1.1 403 Forbidden"; 0 when it is none. */
static int status_of(const char *answer)
{
    char digits[4] = {0};
    int64_t status;

    if (strncmp(answer, "HTTP/1.", 7) != 0 || strlen(answer) < 12)
        return 0;
    memcpy(digits, answer + 9, 3);
    return number_parse(digits, 100, 599, &status) == 0 ? (int)status : 0;
}

static void expect_forbidden(struct trial *trial, const char *target)
{
    char request[200], answer[512];

    (void)snprintf(request, sizeof request,
                   "CONNECT %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, target);
    if (ask(trial, PROXY_PORT, request, answer, sizeof answer) < 0)
        got(trial, false, "no answer of the proxy: %s", strerror(errno));
    else
        got(trial, status_of(answer) == 403, "status %d", status_of(answer));
}

static void expect_nothing_exposed(struct trial *trial)
{
    static const char request[] =
        "GET /services/forwarder/all HTTP/1.0\r\nHost: gateway\r\nConnection: close\r\n\r\n";
    char answer[2048];

    if (ask(trial, 80, request, answer, sizeof answer) < 0) {
        got(trial, true, "%s", errno ? strerror(errno) : "closed");
        return;
    }
    const char *body = strstr(answer, "\r\n\r\n");
    bool nothing = body && strcspn(body + 4, "{") == strlen(body + 4);
    got(trial, nothing, "status %d, %s", status_of(answer), nothing ? "nothing exposed" : "a list");
}

/* --- DNS (RFC 1035) --------------------------------------------------------------------------- */

static size_t make_question(uint8_t out[512], const char *name, uint16_t type)
{
    static const uint8_t head[12] = {0x42, 0x17, 1, 0, 0, 1};
    size_t length = sizeof head;

    memcpy(out, head, sizeof head);
    for (const char *label = name; *label;) {
        size_t size = strcspn(label, ".");
        out[length++] = (uint8_t)size;
        memcpy(out + length, label, size);
        length += size;
        label += size + (label[size] == '.');
    }
    const uint8_t tail[] = {0, 0, (uint8_t)type, 0, 1};
    memcpy(out + length, tail, sizeof tail);
    return length + sizeof tail;
}

/* The answer's bytes, or -1 with errno. */
static ssize_t resolve(const char *server, const char *name, uint16_t type, int64_t timeout_ms,
                       uint8_t ret[512])
{
    uint8_t question[512];
    size_t length = make_question(question, name, type);
    CLEANUP_CLOSE int fd = dial(server, DNS_PORT, SOCK_DGRAM, timeout_ms);

    if (fd < 0 || send(fd, question, length, 0) < 0)
        return -1;
    return recv(fd, ret, 512, 0);
}

static void expect_no_records(struct trial *trial, const char *name, uint16_t type)
{
    uint8_t answer[512];
    ssize_t length = resolve(trial->gateway, name, type, SILENCE_MS, answer);

    if (length < 12)
        got(trial, true, "no answer");
    else
        got(trial, answer[6] == 0 && answer[7] == 0, "code %d, %d records", answer[3] & 15,
            answer[6] << 8 | answer[7]);
}

static void expect_gateway(struct trial *trial)
{
    uint8_t answer[512];
    char words[INET_ADDRSTRLEN] = "";
    ssize_t length = resolve(trial->gateway, "proxy.internal", TYPE_A, ANSWER_MS, answer);

    /* One record, at the end of the answer: its four bytes are the address. */
    if (length < 16 || answer[6] != 0 || answer[7] != 1) {
        got(trial, false, "%s", length < 12 ? "no answer" : "no address");
        return;
    }
    (void)inet_ntop(AF_INET, answer + length - 4, words, sizeof words);
    got(trial, strcmp(words, trial->gateway) == 0, "%s", words);
}

static void expect_silence(struct trial *trial)
{
    uint8_t answer[512];
    ssize_t length = resolve("8.8.8.8", "example.com", TYPE_A, SILENCE_MS, answer);

    got(trial, length < 0, "%s", length < 0 ? "no answer" : "an answer");
}

/* --- One check -------------------------------------------------------------------------------- */

static void try_fixed(struct trial *trial, enum check check)
{
    static const struct {
        const char *host;
        uint16_t port;
    } refused[N_FIXED_CHECKS] = {
        [CHECK_PUBLIC] = {"1.1.1.1", 443},
        [CHECK_PRIVATE_10] = {"10.0.0.1", 80},
        [CHECK_PRIVATE_172] = {"172.16.0.1", 80},
        [CHECK_NEIGHBOUR] = {"192.168.17.1", 80},
        [CHECK_SHARED] = {"100.64.0.1", 80},
        [CHECK_METADATA] = {"169.254.169.254", 80},
        [CHECK_IPV6] = {"2606:4700:4700::1111", 443},
    };

    switch (check) {
    case CHECK_NAME:
        expect_gateway(trial);
        return;
    case CHECK_OTHER_NAME:
        expect_no_records(trial, "example.com", TYPE_A);
        return;
    case CHECK_TEXT:
        expect_no_records(trial, "proxy.internal", TYPE_TXT);
        return;
    case CHECK_DNS_ELSEWHERE:
        expect_silence(trial);
        return;
    case CHECK_GATEWAY_SSH:
        expect_refusal(trial, trial->gateway, 22);
        return;
    case CHECK_GATEWAY_API:
        expect_nothing_exposed(trial);
        return;
    case CHECK_PROXY_ADDRESS:
        expect_forbidden(trial, "192.0.2.1:443");
        return;
    case CHECK_PROXY_NAME:
        expect_forbidden(trial, "egress-report.invalid:443");
        return;
    default:
        expect_refusal(trial, refused[check].host, refused[check].port);
    }
}

/* In a process of its own: tells, and ends. */
static void run_check(int out, const char *gateway, uint32_t id, unsigned number, uint16_t port)
    __attribute__((noreturn));

static void run_check(int out, const char *gateway, uint32_t id, unsigned number, uint16_t port)
{
    struct trial trial = {.gateway = gateway};
    uint8_t payload[6 + CHECK_WORDS_MAX];

    errno = 0;
    if (port)
        expect_connection(&trial, port);
    else
        try_fixed(&trial, (enum check)number);
    size_t length = strlen(trial.got);
    put_u32(payload, id);
    payload[4] = (uint8_t)number;
    payload[5] = trial.passed;
    memcpy(payload + 6, trial.got, length);
    (void)send(out, payload, 6 + length, MSG_NOSIGNAL);
    _exit(0);
}

/* --- All of them ------------------------------------------------------------------------------ */

static void start_one(struct report *report, const int ends[2], const char *gateway,
                      unsigned number, uint16_t port)
{
    pid_t pid = fork();

    if (pid == 0) {
        (void)setpgid(0, 0);
        run_check(ends[1], gateway, report->id, number, port);
    }
    report->pids[number] = pid > 0 ? pid : 0;
}

int report_begin(struct report *report, const struct frame *frame, const char *gateway)
{
    unsigned count = frame->length >= 5 ? frame->payload[4] : 0;
    int ends[2];

    if (frame->length < 5 || count > CHECK_FORWARDS_MAX || frame->length != 5 + 2 * count)
        return -1;
    report_end(report);
    report->id = get_u32(frame->payload);
    report->until_ms = clock_monotonic_ms() + TOTAL_MS;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return 0; /* the host hears nothing, and says so */
    for (unsigned i = 0; i < N_FIXED_CHECKS; i++)
        start_one(report, ends, gateway, i, 0);
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *port = frame->payload + 5 + 2 * (size_t)i;
        start_one(report, ends, gateway, N_FIXED_CHECKS + i, (uint16_t)(port[0] | port[1] << 8));
    }
    (void)close(ends[1]);
    report->fd = ends[0];
    return 0;
}

static void kill_all(struct report *report)
{
    for (size_t i = 0; i < COUNT_OF(report->pids); i++)
        if (report->pids[i])
            (void)kill(report->pids[i], SIGKILL);
}

void report_pump(struct report *report, struct agent *agent)
{
    uint8_t payload[6 + CHECK_WORDS_MAX];

    while (report->fd >= 0 && agent_idle(agent)) {
        if (clock_monotonic_ms() >= report->until_ms)
            kill_all(report);
        ssize_t length = recv(report->fd, payload, sizeof payload, MSG_DONTWAIT);
        if (length < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (length > 0) {
            (void)agent_put(agent, FRAME_CHECK, payload, (size_t)length);
        } else {
            put_u32(payload, report->id);
            (void)agent_put(agent, FRAME_REPORT_END, payload, 4);
            (void)close(report->fd);
            report->fd = -1;
        }
        agent_write(agent);
    }
}

void report_reaped(struct report *report, pid_t pid)
{
    for (size_t i = 0; i < COUNT_OF(report->pids); i++)
        if (report->pids[i] == pid)
            report->pids[i] = 0;
}

void report_end(struct report *report)
{
    kill_all(report);
    if (report->fd >= 0)
        (void)close(report->fd);
    report->fd = -1;
}
