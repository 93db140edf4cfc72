/* A guarded relay by itself, for tests/e2e/test_relay.py and the benchmark.
 *
 *     relay ENGINE-PORT [plain]    "plain": not guarded
 *
 * Says "port N" and relays what comes there. Each line of its input is a list of egress rules, put
 * into force and answered with "rules N"; each note is a line, of the packet that bottled would
 * get. It ends with its input. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/number.h"
#include "base/util.h"
#include "shim/protocol.h"
#include "shim/relay.h"

struct tool {
    struct loop *loop;
    struct relay *relay;
    struct egress_log *log;
    struct loop_source input;
    struct loop_timer timer;
    char line[65536];
    size_t length;
};

static void tell(struct loop_timer *timer)
{
    struct tool *tool = timer->data;

    while (egress_log_has_news(tool->log)) {
        CLEANUP_JSON json_t *packet = egress_log_take(tool->log, CONTROL_PACKET_MAX);
        CLEANUP_FREE char *text = json_text(packet);
        (void)printf("%s\n", text ? text : "");
    }
    (void)fflush(stdout);
}

static void on_note(void *context, const struct egress_note *note)
{
    struct tool *tool = context;

    egress_log_note(tool->log, note, 1);
    if (!tool->timer.active)
        loop_timer_set(tool->loop, &tool->timer, 0);
}

static void set_rules(struct tool *tool, const char *line, size_t length)
{
    CLEANUP_JSON json_t *list = json_parse(line, length, NULL);
    struct egress_rule *rules;
    size_t count;

    if (rules_decode(list, &rules, &count, NULL) < 0 ||
        relay_set_rules(tool->relay, rules, count) < 0)
        exit(1);
    rules_free(rules, count);
    (void)printf("rules %zu\n", count);
    (void)fflush(stdout);
}

static void on_input(struct loop_source *source, uint32_t events)
{
    struct tool *tool = source->data;
    char *end;

    (void)events;
    ssize_t got = read(source->fd, tool->line + tool->length, sizeof tool->line - tool->length);
    if (got <= 0) {
        loop_quit(tool->loop);
        return;
    }
    tool->length += (size_t)got;
    while ((end = memchr(tool->line, '\n', tool->length))) {
        size_t length = (size_t)(end - tool->line);
        set_rules(tool, tool->line, length);
        tool->length -= length + 1;
        memmove(tool->line, end + 1, tool->length);
    }
}

int main(int argc, char **argv)
{
    static struct tool tool;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int64_t port;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (argc < 2 || number_parse(argv[1], 1, 65535, &port) < 0)
        return 2;
    (void)signal(SIGPIPE, SIG_IGN);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 4096) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        return 1;
    const struct port_forward forward = {.host = LOOPBACK, .host_port = (uint16_t)port};
    const struct relay_owner owner = {on_note, &tool};
    tool.loop = loop_new(NULL);
    tool.log = egress_log_new();
    tool.relay = relay_new(tool.loop, listener, &forward, 512, NULL);
    tool.timer = (struct loop_timer){.callback = tell, .data = &tool};
    tool.input = (struct loop_source){
        .fd = STDIN_FILENO, .events = EPOLLIN, .callback = on_input, .data = &tool};
    if (argc == 2)
        relay_guard(tool.relay, &owner);
    (void)loop_add(tool.loop, &tool.input, NULL);
    (void)printf("port %u\n", ntohs(address.sin_port));
    (void)fflush(stdout);
    int result = loop_run(tool.loop, NULL);
    relay_free(tool.relay);
    tell(&tool.timer);
    egress_log_free(tool.log);
    loop_free(tool.loop);
    return result < 0;
}
