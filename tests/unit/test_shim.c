/* The parts of the shim that need no VM: sinks, relay, agent channel, control socket. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "guest/protocol.h"
#include "shim/agent.h"
#include "shim/children.h"
#include "shim/control.h"
#include "shim/protocol.h"
#include "shim/relay.h"
#include "shim/sink.h"

static char directory[64];

static void enter_directory(void)
{
    (void)snprintf(directory, sizeof directory, "/tmp/bottled-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    cr_assert_eq(chdir(directory), 0);
}

static void leave_directory(void)
{
    (void)directory_remove(directory, NULL, NULL);
}

/* Runs the loop until `*done` or five seconds. */
struct until {
    struct loop *loop;
    struct loop_timer timer;
    const atomic_bool *done;
    int64_t deadline;
};

static void look(struct loop_timer *timer)
{
    struct until *until = timer->data;

    if (*until->done || clock_monotonic_ms() > until->deadline)
        loop_quit(until->loop);
    else
        loop_timer_set(until->loop, timer, clock_monotonic_ms() + 2);
}

static void run_until(struct loop *loop, const atomic_bool *done)
{
    struct until until = {.loop = loop, .done = done, .deadline = clock_monotonic_ms() + 5000};

    until.timer = (struct loop_timer){.callback = look, .data = &until};
    loop_timer_set(loop, &until.timer, clock_monotonic_ms());
    cr_assert_eq(loop_run(loop, NULL), 0);
    cr_assert(*done, "what was waited for did not come");
}

/* ── sinks ── */

Test(sink, rotates_once_and_stays_bounded, .init = enter_directory, .fini = leave_directory)
{
    struct loop *loop = loop_new(NULL);
    struct sink sink;
    struct stat status;
    char line[100];
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    cr_assert_eq(sink_open(&sink, loop, here, "unit", 1000, NULL), 0);
    for (int i = 0; i < 95; i++)
        sink_write(&sink, line, sizeof line);
    sink_close(&sink);
    cr_assert_eq(stat("unit.log", &status), 0);
    cr_expect_eq(status.st_size, 500);
    cr_assert_eq(stat("unit.log.1", &status), 0);
    cr_expect_eq(status.st_size, 1000);
    (void)close(here);
    loop_free(loop);
}

Test(sink, does_not_follow_a_planted_link, .init = enter_directory, .fini = leave_directory)
{
    struct loop *loop = loop_new(NULL);
    struct sink sink;
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    cr_assert_eq(symlink("/tmp/bottled-unit-victim", "unit.log"), 0);
    cr_expect_eq(sink_open(&sink, loop, here, "unit", 1000, NULL), -1);
    (void)close(here);
    loop_free(loop);
}

/* ── relay ── */

static int listen_loopback(uint16_t *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    cr_assert_eq(listen(fd, 64), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static int dial_loopback(uint16_t port)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

enum { PAYLOAD = 4 * 1024 * 1024, CLIENTS = 8 };

/* Sends everything back, and ends when its peer has ended. */
static void *echo_one(void *argument)
{
    int fd = (int)(intptr_t)argument;
    char bytes[65536];
    ssize_t got;

    while ((got = read(fd, bytes, sizeof bytes)) > 0)
        if (write_all(fd, bytes, (size_t)got) < 0)
            break;
    (void)close(fd);
    return NULL;
}

static void *echo_server(void *argument)
{
    pthread_t threads[CLIENTS];
    int listener = (int)(intptr_t)argument;

    for (int i = 0; i < CLIENTS; i++) {
        int fd = accept(listener, NULL, NULL);
        (void)pthread_create(&threads[i], NULL, echo_one, (void *)(intptr_t)fd);
    }
    for (int i = 0; i < CLIENTS; i++)
        (void)pthread_join(threads[i], NULL);
    return NULL;
}

struct client {
    uint16_t port;
    size_t received;
    bool intact;
};

static void *send_half(void *argument)
{
    int fd = *(int *)argument;
    CLEANUP_FREE unsigned char *bytes = malloc(PAYLOAD);

    for (size_t i = 0; i < PAYLOAD; i++)
        bytes[i] = (unsigned char)(i * 31 >> 3);
    (void)write_all(fd, bytes, PAYLOAD);
    (void)shutdown(fd, SHUT_WR); /* the other way must stay open */
    return NULL;
}

static void *client_run(void *argument)
{
    struct client *client = argument;
    unsigned char bytes[65536];
    pthread_t sender;
    ssize_t got;
    int fd = dial_loopback(client->port);

    client->intact = true;
    (void)pthread_create(&sender, NULL, send_half, &fd);
    while ((got = read(fd, bytes, sizeof bytes)) > 0)
        for (ssize_t i = 0; i < got; i++, client->received++)
            if (bytes[i] != (unsigned char)(client->received * 31 >> 3))
                client->intact = false;
    (void)pthread_join(sender, NULL);
    (void)close(fd);
    return NULL;
}

struct load {
    struct client clients[CLIENTS];
    atomic_bool done;
};

static void *load_run(void *argument)
{
    struct load *load = argument;
    pthread_t threads[CLIENTS];

    for (int i = 0; i < CLIENTS; i++)
        (void)pthread_create(&threads[i], NULL, client_run, &load->clients[i]);
    for (int i = 0; i < CLIENTS; i++)
        (void)pthread_join(threads[i], NULL);
    load->done = true;
    return NULL;
}

Test(relay, carries_both_ways_intact_and_half_closes)
{
    struct loop *loop = loop_new(NULL);
    uint16_t guest_port, sidecar_port;
    int guest_side = listen_loopback(&guest_port), sidecar = listen_loopback(&sidecar_port);
    const struct port_forward forward = {.host = LOOPBACK, .host_port = sidecar_port};
    struct load load = {0};
    pthread_t server, clients;

    /* Two at once, so that the limit is met and passed again. */
    struct relay *relay = relay_new(loop, guest_side, &forward, 2, NULL);
    cr_assert_not_null(relay);
    for (int i = 0; i < CLIENTS; i++)
        load.clients[i].port = guest_port;
    (void)pthread_create(&server, NULL, echo_server, (void *)(intptr_t)sidecar);
    (void)pthread_create(&clients, NULL, load_run, &load);
    run_until(loop, &load.done);
    (void)pthread_join(clients, NULL);
    (void)pthread_join(server, NULL);
    for (int i = 0; i < CLIENTS; i++) {
        cr_expect_eq(load.clients[i].received, PAYLOAD);
        cr_expect(load.clients[i].intact);
    }
    relay_free(relay);
    (void)close(sidecar);
    loop_free(loop);
}

static void *expect_end(void *argument)
{
    struct load *load = argument;
    char byte;
    int fd = dial_loopback(load->clients[0].port);

    load->clients[0].received = read(fd, &byte, 1) > 0;
    (void)close(fd);
    load->done = true;
    return NULL;
}

Test(relay, a_sidecar_that_is_gone_ends_the_connection)
{
    struct loop *loop = loop_new(NULL);
    uint16_t guest_port, sidecar_port;
    int guest_side = listen_loopback(&guest_port), sidecar = listen_loopback(&sidecar_port);
    const struct port_forward forward = {.host = LOOPBACK, .host_port = sidecar_port};
    struct load load = {.clients = {{.port = guest_port}}};
    pthread_t client;

    (void)close(sidecar);
    struct relay *relay = relay_new(loop, guest_side, &forward, 2, NULL);
    (void)pthread_create(&client, NULL, expect_end, &load);
    run_until(loop, &load.done);
    (void)pthread_join(client, NULL);
    cr_expect_eq(load.clients[0].received, 0);
    relay_free(relay);
    loop_free(loop);
}

Test(children, a_listener_is_recognised_as_ours)
{
    uint16_t port;
    int fd = listen_loopback(&port);

    cr_expect(port_is_ours(LOOPBACK, port));
    (void)close(fd);
    cr_expect_not(port_is_ours(LOOPBACK, port));
}

Test(children, a_connection_is_no_listener)
{
    uint16_t port;
    int fd = listen_loopback(&port), client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    cr_assert_eq(connect(client, (struct sockaddr *)&address, sizeof address), 0);
    int accepted = accept(fd, NULL, NULL);
    cr_expect(port_is_ours(LOOPBACK, port), "beside a connection of the same port");
    (void)close(fd);
    cr_expect_not(port_is_ours(LOOPBACK, port), "the connection has it still");
    (void)close(accepted);
    (void)close(client);
}

/* ── agent ── */

struct heard {
    unsigned frames;
    size_t bytes;
    atomic_bool ended;
    char why[128];
};

static void hear_frame(void *context, const struct frame *frame)
{
    struct heard *heard = context;

    heard->frames++;
    heard->bytes += frame->length;
}

static void hear_end(void *context, const char *why)
{
    struct heard *heard = context;

    heard->ended = true;
    (void)snprintf(heard->why, sizeof heard->why, "%s", why);
}

static void talk(const void *bytes, size_t length, struct heard *heard)
{
    struct loop *loop = loop_new(NULL);
    struct agent *agent = calloc(1, sizeof *agent);
    int guest;

    memset(heard, 0, sizeof *heard);
    agent->on_frame = hear_frame;
    agent->on_end = hear_end;
    agent->context = heard;
    cr_assert_eq(agent_open(agent, loop, &guest, NULL), 0);
    (void)fcntl(guest, F_SETFL, 0);
    cr_assert_eq(write_all(guest, bytes, length), 0);
    (void)close(guest);
    run_until(loop, &heard->ended);
    agent_close(agent);
    free(agent);
    loop_free(loop);
}

Test(agent, frames_arrive_whole)
{
    enum { PAYLOAD_SIZE = 5, FRAME_SIZE = FRAME_HEADER_SIZE + PAYLOAD_SIZE };
    uint8_t bytes[3 * FRAME_SIZE];
    struct heard heard;

    for (size_t at = 0; at < sizeof bytes; at += FRAME_SIZE) {
        frame_header(bytes + at, FRAME_OUTPUT, PAYLOAD_SIZE);
        memset(bytes + at + FRAME_HEADER_SIZE, 'x', PAYLOAD_SIZE);
    }
    talk(bytes, sizeof bytes, &heard);
    cr_expect_eq(heard.frames, 3);
    cr_expect_eq(heard.bytes, 15);
}

Test(agent, a_lying_length_ends_the_channel)
{
    uint8_t bytes[FRAME_HEADER_SIZE];
    struct heard heard;

    frame_header(bytes, FRAME_OUTPUT, GUEST_PAYLOAD_MAX + 1);
    talk(bytes, sizeof bytes, &heard);
    cr_expect_eq(heard.frames, 0);
    cr_expect_not_null(strstr(heard.why, "protocol"));
}

static void note_room(void *context)
{
    ++*(unsigned *)context;
}

Test(agent, room_is_told_whoever_makes_it)
{
    enum { MORE_THAN_A_SOCKET = 1 << 20 };
    static uint8_t bytes[MORE_THAN_A_SOCKET];
    struct loop *loop = loop_new(NULL);
    struct agent *agent = calloc(1, sizeof *agent);
    unsigned told = 0;
    int guest;

    agent->on_room = note_room;
    agent->context = &told;
    cr_assert_eq(agent_open(agent, loop, &guest, NULL), 0);
    cr_assert_eq(agent_send(agent, bytes, sizeof bytes), 0);
    cr_assert_gt(agent->out_length, 0);
    /* The guest reads; before the loop sees that, other frames are sent. */
    while (agent->out_length > 0) {
        cr_expect_eq(told, 0);
        while (read(guest, bytes, sizeof bytes) > 0)
            continue;
        cr_assert_eq(agent_send_empty(agent, FRAME_POWEROFF), 0);
    }
    cr_expect_eq(told, 1);
    agent_close(agent);
    (void)close(guest);
    free(agent);
    loop_free(loop);
}

/* ── control ── */

static json_t *fixed_status(void *context)
{
    (void)context;
    return json_pack("{s:s}", "state", "running");
}

static void note_stop(void *context, int64_t grace_ms)
{
    *(atomic_bool *)context = grace_ms == 1234;
}

static int control_dial(void)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SHIM_SOCKET};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

Test(control, only_the_token_opens_it, .init = enter_directory, .fini = leave_directory)
{
    struct loop *loop = loop_new(NULL);
    struct launch launch = {.token = "secret", .daemon_uid = geteuid()};
    atomic_bool stopped = false;
    const struct control_owner owner = {
        .status = fixed_status, .stop = note_stop, .context = &stopped};
    struct control *control = control_new(loop, &launch, &owner, NULL);
    static const char wrong[] = "{\"op\":\"hello\",\"token\":\"secreu\"}";
    static const char early[] = "{\"op\":\"stop\",\"grace_ms\":1234}";
    static const char hello[] = "{\"op\":\"hello\",\"token\":\"secret\"}";
    char answer[256];

    cr_assert_not_null(control);
    int stranger = control_dial(), rude = control_dial(), friend_fd = control_dial();
    cr_assert_gt(send(stranger, wrong, strlen(wrong), 0), 0);
    cr_assert_gt(send(rude, early, strlen(early), 0), 0);
    cr_assert_gt(send(friend_fd, hello, strlen(hello), 0), 0);
    cr_assert_gt(send(friend_fd, early, strlen(early), 0), 0);
    run_until(loop, &stopped);
    cr_expect_eq(recv(stranger, answer, sizeof answer, 0), 0, "a wrong token is shown the door");
    cr_expect_eq(recv(rude, answer, sizeof answer, 0), 0, "so is one who does not say hello");
    ssize_t got = recv(friend_fd, answer, sizeof answer - 1, 0);
    cr_assert_gt(got, 0);
    answer[got] = '\0';
    cr_expect_not_null(strstr(answer, "running"));
    (void)close(stranger);
    (void)close(rude);
    (void)close(friend_fd);
    control_free(control);
    loop_free(loop);
}

Test(control, who_does_not_read_is_told_no_more, .init = enter_directory, .fini = leave_directory)
{
    struct loop *loop = loop_new(NULL);
    struct launch launch = {.token = "secret", .daemon_uid = geteuid()};
    atomic_bool heard = false;
    const struct control_owner owner = {
        .status = fixed_status, .stop = note_stop, .context = &heard};
    struct control *control = control_new(loop, &launch, &owner, NULL);
    static const char hello[] = "{\"op\":\"hello\",\"token\":\"secret\"}";
    static const char stop[] = "{\"op\":\"stop\",\"grace_ms\":1234}";
    char answer[256];

    cr_expect_not(control_has_room(control));
    int client = control_dial();
    cr_assert_gt(send(client, hello, strlen(hello), 0), 0);
    cr_assert_gt(send(client, stop, strlen(stop), 0), 0);
    run_until(loop, &heard);
    unsigned sent = 1;
    for (; control_has_room(control); sent++)
        control_send(control, json_pack("{s:s}", "egress", "x"));
    cr_expect_gt(sent, 1);
    while (recv(client, answer, sizeof answer, MSG_DONTWAIT) > 0)
        sent--;
    cr_expect_eq(sent, 0, "nothing was lost, and it was not hung up on");
    cr_expect(control_has_room(control));
    (void)close(client);
    control_free(control);
    loop_free(loop);
}
