/* What a guest says, as the supervisor takes it: from bytes on the agent's channel to what is done
 * about each frame, with an exec open whose other end is bottled's, and a report and a reload under
 * way. The first byte says in which phase the bottle is; then come pieces, each a length and so
 * many bytes. A guest can end its own bottle, and whatever it says reaches bottled as JSON of a
 * bounded size and as frames that are well-formed. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "shim/supervisor_internal.h"
#include "tests/fuzz/take.h"

enum { OUTPUT_WINDOW = 40 };

static struct launch spec = {.boot_timeout_ms = 1000};
static struct supervisor bottle;

/* --- In the place of the control socket, and of the programs around the guest ----------------- */

void control_send(struct control *control, json_t *packet)
{
    char *text = json_text(packet);

    (void)control;
    MUST(packet && text && strlen(text) <= CONTROL_PACKET_MAX);
    free(text);
    json_decref(packet);
}

void control_broadcast(struct control *control)
{
    (void)control;
}

void control_answer(struct control *control, uint64_t client, json_t *packet)
{
    (void)client;
    control_send(control, packet);
}

bool control_heard(const struct control *control)
{
    (void)control;
    return true;
}

bool control_has_room(const struct control *control)
{
    return control_heard(control);
}

struct control *control_new(struct loop *loop, const struct launch *launch,
                            const struct control_owner *owner, struct error *err)
{
    (void)loop, (void)launch, (void)owner, (void)err;
    return NULL;
}

void control_free(struct control *control)
{
    (void)control;
}

void bringup_send_start(struct supervisor *sup)
{
    sup->start_sent = true;
}

void bringup_begin(struct supervisor *sup)
{
    (void)sup;
}

void bringup_again(struct supervisor *sup)
{
    (void)sup;
}

void bringup_close_relays(struct supervisor *sup)
{
    (void)sup;
}

void bringup_discard_vm(struct supervisor *sup)
{
    (void)sup;
}

void bringup_server_ended(struct supervisor *sup, struct child *server, int status)
{
    (void)sup, (void)server, (void)status;
}

/* --- The bottle ------------------------------------------------------------------------------- */

static void on_over(struct loop_timer *timer)
{
    loop_quit(timer->data);
}

/* One round of the loop: what has come is taken. */
static void step(void)
{
    struct loop_timer over = {.callback = on_over, .data = bottle.loop};

    loop_timer_set(bottle.loop, &over, 0);
    MUST(loop_run(bottle.loop, NULL) == 0);
    loop_timer_cancel(bottle.loop, &over);
}

/* Bottled's end of an exec that takes so much output. */
static int open_exec(void)
{
    static const uint8_t exec[] = "\0\0\0\0"         /* id */
                                  "\2\0\0\0\0\0\0\0" /* EXEC_STDIN; no limit of time */
                                  "\0\0\0\0"         /* no terminal */
                                  "\1\0\0\0\0\0\0\0" /* an argument, no variable */
                                  "\0x";             /* the work directory; the argument */
    uint8_t frames[2 * (size_t)FRAME_HEADER_SIZE + sizeof exec + 8] = {0};
    uint8_t *window = frames + FRAME_HEADER_SIZE + sizeof exec;
    int ends[2];

    frame_header(frames, FRAME_EXEC, sizeof exec);
    memcpy(frames + FRAME_HEADER_SIZE, exec, sizeof exec);
    frame_header(window, FRAME_EXEC_WINDOW, 8);
    put_u32(window + FRAME_HEADER_SIZE + 4, OUTPUT_WINDOW);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    exec_request(&bottle, "0123456789abcdef", ends[1]);
    /* Of a bottle that does not run the exec has ended already. */
    MUST(send(ends[0], frames, sizeof frames, MSG_NOSIGNAL) == (ssize_t)sizeof frames ||
         bottle.phase != PHASE_RUNNING);
    return ends[0];
}

static void begin(enum phase phase, int *ret_guest)
{
    struct loop *loop = bottle.loop ? bottle.loop : loop_new(NULL);

    bottle = (struct supervisor){.launch = &spec, .loop = loop};
    bottle.agent.source.fd = -1;
    bottle.agent.on_frame = supervisor_on_frame;
    bottle.agent.on_end = supervisor_on_agent_end;
    bottle.agent.context = &bottle;
    bottle.command = (struct sink){.directory = -1, .file = -1, .source.fd = -1, .bound = 4096};
    egress_change_init(&bottle);
    MUST(agent_open(&bottle.agent, loop, ret_guest, NULL) == 0);
    bottle.phase = phase;
    bottle.hello = bottle.start_sent = phase == PHASE_RUNNING;
}

/* What bottled reads of its exec: whole frames, and no more output than it took. */
static void read_exec(int bottled)
{
    static uint8_t bytes[1024 * 1024];
    struct frame frame;
    size_t length = 0, output = 0, at = 0;
    ssize_t got;
    int64_t size;

    while ((got = read(bottled, bytes + length, sizeof bytes - length)) > 0)
        length += (size_t)got;
    while ((size = frame_parse(bytes + at, length - at, GUEST_PAYLOAD_MAX + 5, &frame)) > 0) {
        MUST(frame.type == FRAME_EXEC_OUTPUT || frame.type == FRAME_EXEC_WINDOW ||
             frame.type == FRAME_EXEC_EXIT);
        MUST(frame.length >= 5 && get_u32(frame.payload) == 0);
        output += frame.type == FRAME_EXEC_OUTPUT ? frame.length - 5 : 0;
        at += (size_t)size;
    }
    MUST(size == 0 && output <= OUTPUT_WINDOW);
}

static void end(int guest, int bottled)
{
    agent_close(&bottle.agent);
    execs_free(&bottle);
    loop_timer_cancel(bottle.loop, &bottle.deadline);
    loop_timer_cancel(bottle.loop, &bottle.report_deadline);
    loop_timer_cancel(bottle.loop, &bottle.secrets.deadline);
    egress_change_free(&bottle);
    (void)close(guest);
    (void)close(bottled);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {bytes, bytes + length};
    enum phase phase = take_bool(&input) ? PHASE_RUNNING : PHASE_STARTING;
    int guest;

    begin(phase, &guest);
    int bottled = open_exec();
    step();
    if (phase == PHASE_RUNNING) {
        report_request(&bottle, 7);
        bottle.secrets.id = bottle.secrets.asked = 1;
    }
    while (input.at < input.end && bottle.agent.source.fd >= 0) {
        size_t piece = take_u16(&input), left = (size_t)(input.end - input.at);
        piece = piece < left ? piece : left;
        MUST(piece == 0 || send(guest, input.at, piece, MSG_NOSIGNAL) == (ssize_t)piece);
        input.at += piece;
        step();
        step();
        read_exec(bottled);
    }
    MUST(bottle.agent.source.fd >= 0 || bottle.phase == PHASE_ENDING);
    end(guest, bottled);
    return 0;
}
