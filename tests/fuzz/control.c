/* The supervisor's control socket: packets of somebody who may connect, with and without the token,
 * some with a descriptor. The first byte: bit 0 says hello first. Then packets, each a byte (bit 0:
 * a descriptor comes with it) and what is up to a NUL. Nobody is heard without the token; each
 * descriptor is taken over or closed; the socket goes on taking others. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/json.h"
#include "shim/control.h"
#include "tests/fuzz/take.h"

#define TOKEN "0123456789abcdef0123456789abcdef"

static struct loop *loop;
static char folder[] = "/tmp/fuzz-control-XXXXXX";
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static bool trusted; /* somebody said hello */

static void take_fd(int fd)
{
    MUST(trusted && fcntl(fd, F_GETFD) >= 0);
    (void)close(fd);
}

static json_t *on_status(void *context)
{
    (void)context;
    return json_pack("{s:s}", "state", "running");
}

static void on_stop(void *context, int64_t grace_ms)
{
    (void)context, (void)grace_ms;
    MUST(trusted);
}

static void on_pause(void *context, int64_t id, bool pause)
{
    (void)context, (void)id, (void)pause;
    MUST(trusted);
}

static void on_report(void *context, int64_t id)
{
    (void)context, (void)id;
    MUST(trusted);
}

static void on_egress(void *context, uint64_t client, int64_t id, int fd)
{
    (void)context, (void)id;
    MUST(client > 0);
    take_fd(fd);
}

static void on_secrets(void *context, int64_t id, uint32_t signal, int fd)
{
    (void)context, (void)id;
    MUST(signal <= EXEC_SIGNAL_MAX);
    take_fd(fd);
}

static void on_exec(void *context, const char *id, int fd)
{
    (void)context;
    MUST(id);
    take_fd(fd);
}

static json_t *on_exec_result(void *context, const char *id)
{
    (void)context;
    return json_pack("{s:s}", "exec", id);
}

static void on_exec_tell(void *context, const char *id, const struct exec_note *note)
{
    (void)context;
    MUST(id && note->signal <= EXEC_SIGNAL_MAX);
}

static void on_over(struct loop_timer *timer)
{
    loop_quit(timer->data);
}

static void step(void)
{
    struct loop_timer over = {.callback = on_over, .data = loop};

    loop_timer_set(loop, &over, 0);
    MUST(loop_run(loop, NULL) == 0);
    loop_timer_cancel(loop, &over);
}

static void remove_folder(void)
{
    (void)unlink(address.sun_path);
    (void)rmdir(folder);
}

/* The supervisor's place is its working directory; the fuzzer's own is where its files are. */
static struct control *listen_there(void)
{
    static const struct control_owner owner = {on_status,    on_stop,    on_pause, on_report,
                                               on_egress,    on_secrets, on_exec,  on_exec_result,
                                               on_exec_tell, NULL};
    static struct launch launch = {.token = TOKEN};
    int home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    launch.daemon_uid = getuid();
    MUST(mkdtemp(folder) && chdir(folder) == 0 && (loop = loop_new(NULL)));
    struct control *control = control_new(loop, &launch, &owner, NULL);
    MUST(control && fchdir(home) == 0 && atexit(remove_folder) == 0);
    (void)close(home);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/" SHIM_SOCKET, folder);
    return control;
}

static int dial(void)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    MUST(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    step();
    return fd;
}

static void say(int fd, const char *packet, size_t length, int with)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control = {{0}};
    struct iovec data = {.iov_base = (void *)(uintptr_t)packet, .iov_len = length};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

    if (with >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        control.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &with, sizeof with);
    }
    (void)sendmsg(fd, &message, MSG_NOSIGNAL); /* it may have been closed on us */
    step();
}

/* Whether it still answers. */
static bool answered(int fd)
{
    char bytes[CONTROL_PACKET_MAX];
    bool any = false;

    while (recv(fd, bytes, sizeof bytes, 0) > 0)
        any = true;
    return any;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const char hello[] = "{\"op\":\"hello\",\"token\":\"" TOKEN "\"}";
    static struct control *control;
    struct input input = {bytes, bytes + length};

    if (!control)
        control = listen_there();
    bool greets = take_bool(&input);
    int fd = dial(), before = open("/dev/null", O_RDONLY | O_CLOEXEC);
    trusted = greets || (length > sizeof TOKEN && memmem(bytes, length, TOKEN, strlen(TOKEN)));
    if (greets)
        say(fd, hello, strlen(hello), -1);
    MUST(answered(fd) == greets);
    while (input.at < input.end) {
        bool with = take_bool(&input);
        size_t size;
        char *packet = take_line(&input, '\0', &size);
        say(fd, packet, size, with ? before : -1);
        free(packet);
        MUST(!answered(fd) || trusted);
        control_broadcast(control);
    }
    (void)close(fd);
    (void)close(before);
    step();
    int after = open("/dev/null", O_RDONLY | O_CLOEXEC);
    MUST(after <= before); /* no descriptor is kept */
    (void)close(after);
    MUST(!control_heard(control));
    return 0;
}
