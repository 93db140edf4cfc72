#include "shim/pause.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "shim/qmp.h"
#include "shim/supervisor_internal.h"

enum {
    ANSWER_MS = 5000,
    KRUN_LEVELS = 3, /* below bubblewrap: its init, bottle-krun, and the machine (shim/krun.c) */
};

static const char no_room[] =
    "its machine stopped by itself: the file of its disk could not be written; make room on the "
    "host, then resume it";

static void answer(struct supervisor *sup, const char *error)
{
    struct pause *pause = &sup->pause;
    int64_t id = pause->id;

    loop_timer_cancel(sup->loop, &pause->deadline);
    pause->id = 0;
    if (id)
        control_send(sup->control, json_pack("{s:I, s:o?}", "paused", (json_int_t)id, "error",
                                             error ? json_string_lossy(error) : NULL));
}

/* The host's time, for a guest that had none. */
static void tell_time(struct supervisor *sup)
{
    uint8_t frame[FRAME_HEADER_SIZE + 8];

    frame_header(frame, FRAME_TIME, 8);
    put_u64(frame + FRAME_HEADER_SIZE, (uint64_t)clock_wall_ms());
    (void)agent_send(&sup->agent, frame, sizeof frame);
}

/* It stands still, or goes on again. */
static void note(struct supervisor *sup, bool paused)
{
    struct pause *pause = &sup->pause;

    if (sup->phase != PHASE_RUNNING || pause->paused == paused)
        return;
    pause->paused = paused;
    if (!sup->ended)
        (void)snprintf(sup->reason, sizeof sup->reason, "%s", paused && !pause->id ? no_room : "");
    if (sup->health)
        health_hold(sup->health, paused);
    if (!paused)
        tell_time(sup);
    control_broadcast(sup->control);
}

/* --- The two ways ----------------------------------------------------------------------------- */

static bool has_monitor(const struct supervisor *sup)
{
    return sup->pause.monitor.fd > 0;
}

static int signal_machine(const struct supervisor *sup, int number)
{
    CLEANUP_CLOSE int machine = child_below(&sup->vm, KRUN_LEVELS);

    return machine < 0 ? -1 : pidfd_kill(machine, number);
}

static int halt_machine(struct supervisor *sup, bool halt, struct error *err)
{
    sup->pause.goes_on = sup->pause.goes_on || !halt;
    return qmp_halt(sup->pause.monitor.fd, halt, err);
}

static void drop_monitor(struct supervisor *sup)
{
    struct pause *pause = &sup->pause;

    if (!has_monitor(sup))
        return;
    loop_remove(sup->loop, &pause->monitor);
    (void)close(pause->monitor.fd);
    pause->monitor.fd = -1;
    text_free(&pause->said);
}

/* A machine stops by itself when its disk's file can't be written. None goes on by itself: one that
 * says so would have bottled write, and tell everybody, as often as it likes. */
static void take_event(struct supervisor *sup, const char *event)
{
    bool stop = strcmp(event, "STOP") == 0;

    if (!stop && (strcmp(event, "RESUME") != 0 || !sup->pause.goes_on))
        return;
    sup->pause.goes_on = sup->pause.goes_on && stop;
    note(sup, stop);
    if (sup->pause.id && sup->pause.wanted == stop)
        answer(sup, NULL);
}

static void on_monitor(struct loop_source *source, uint32_t events)
{
    struct supervisor *sup = source->data;
    struct pause *pause = &sup->pause;
    struct error err = ERROR_INIT;
    char bytes[4096], event[QMP_EVENT_SIZE];
    int result = 0;

    (void)events;
    ssize_t got = recv(source->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0)
        text_add_bytes(&pause->said, bytes, (size_t)got);
    while (got > 0 && (result = qmp_take_event(&pause->said, event, &err)) >= 0) {
        if (result > 0)
            answer(sup, err.text);
        else
            take_event(sup, event);
    }
    if (got > 0 && pause->said.length <= QMP_SAID_MAX && !pause->said.failed)
        return;
    drop_monitor(sup); /* the VM's end follows, or it can't be paused any more */
    answer(sup, "its machine's monitor is closed");
}

int pause_open(struct supervisor *sup, int *ret_vm_end, struct error *err)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return error_errno(err, "launch-failed", "socketpair");
    *ret_vm_end = ends[1];
    pause_take(sup, ends[0]);
    return has_monitor(sup) ? qmp_begin(sup->pause.monitor.fd, err)
                            : error_set(err, NULL, "the machine's monitor can't be watched");
}

void pause_take(struct supervisor *sup, int fd)
{
    struct pause *pause = &sup->pause;

    pause->monitor =
        (struct loop_source){.fd = fd, .events = EPOLLIN, .callback = on_monitor, .data = sup};
    if (loop_add(sup->loop, &pause->monitor, NULL) < 0)
        drop_monitor(sup);
}

void pause_close(struct supervisor *sup, const char *why)
{
    drop_monitor(sup);
    sup->pause.paused = false;
    answer(sup, why);
}

/* --- Requests --------------------------------------------------------------------------------- */

static void on_late(struct loop_timer *timer)
{
    answer(timer->data, "its machine did not say so in time");
}

static void begin(struct supervisor *sup)
{
    struct pause *pause = &sup->pause;
    struct error err = ERROR_INIT;

    if (pause->wanted) {
        report_abort(sup, "the bottle was paused");
        secrets_end(sup, "the bottle was paused");
    }
    if (!has_monitor(sup) && sup->launch->qmp_fd) {
        answer(sup, "its machine's monitor is closed");
    } else if (has_monitor(sup)) {
        pause->deadline = (struct loop_timer){.callback = on_late, .data = sup};
        loop_timer_set(sup->loop, &pause->deadline, clock_monotonic_ms() + ANSWER_MS);
        if (halt_machine(sup, pause->wanted, &err) < 0)
            answer(sup, err.text);
    } else if (signal_machine(sup, pause->wanted ? SIGSTOP : SIGCONT) < 0) {
        answer(sup, "its machine's process was not found");
    } else {
        note(sup, pause->wanted);
        answer(sup, NULL);
    }
}

void pause_request(struct supervisor *sup, int64_t id, bool wanted)
{
    struct pause *pause = &sup->pause;
    const char *wrong = id <= 0 || pause->id                        ? "another is under way"
                        : sup->phase != PHASE_RUNNING || sup->ended ? "the command does not run"
                                                                    : NULL;

    if (wrong) {
        control_send(sup->control,
                     json_pack("{s:I, s:s}", "paused", (json_int_t)id, "error", wrong));
        return;
    }
    pause->id = id;
    pause->wanted = wanted;
    if (pause->paused == wanted)
        answer(sup, NULL);
    else
        begin(sup);
}

void pause_lift(struct supervisor *sup, const char *why)
{
    struct pause *pause = &sup->pause;
    bool lifts = pause->paused || (pause->id && pause->wanted);

    answer(sup, why);
    if (!lifts)
        return;
    if (has_monitor(sup))
        (void)halt_machine(sup, false, NULL);
    else
        (void)signal_machine(sup, SIGCONT);
    note(sup, false);
}
