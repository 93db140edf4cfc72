#include "shim/egress_tell.h"

#include <stdlib.h>

#include "base/clock.h"
#include "shim/protocol.h"

enum {
    SOON_MS = 20, /* what comes together is told together */
    PACE_MS = 500,
    LAST_PACKETS = 16, /* of a flush: more than 64 entries need */
};

struct egress_tell {
    struct egress_log *log;
    struct loop *loop;
    struct control *control;
    struct loop_timer timer;
    int64_t sent_ms;
};

static void plan_next(struct egress_tell *tell, int64_t soon_ms)
{
    int64_t at = clock_monotonic_ms() + soon_ms;

    if (at < tell->sent_ms + PACE_MS)
        at = tell->sent_ms + PACE_MS;
    if (!tell->timer.active)
        loop_timer_set(tell->loop, &tell->timer, at);
}

static void on_timer(struct loop_timer *timer)
{
    struct egress_tell *tell = timer->data;

    tell->sent_ms = clock_monotonic_ms();
    if (control_has_room(tell->control))
        control_send(tell->control, egress_log_take(tell->log, CONTROL_PACKET_MAX));
    if (egress_log_has_news(tell->log))
        plan_next(tell, PACE_MS);
}

struct egress_tell *egress_tell_new(struct loop *loop, struct control *control, struct error *err)
{
    struct egress_tell *tell = calloc(1, sizeof *tell);
    struct egress_log *log = tell ? egress_log_new() : NULL;

    if (!log) {
        free(tell);
        error_set(err, NULL, "out of memory");
        return NULL;
    }
    *tell = (struct egress_tell){.log = log,
                                 .loop = loop,
                                 .control = control,
                                 .timer = {.callback = on_timer, .data = tell},
                                 .sent_ms = clock_monotonic_ms() - PACE_MS};
    return tell;
}

void egress_tell_free(struct egress_tell *tell)
{
    if (!tell)
        return;
    loop_timer_cancel(tell->loop, &tell->timer);
    egress_log_free(tell->log);
    free(tell);
}

void egress_tell_note(void *context, const struct egress_note *note)
{
    struct egress_tell *tell = context;

    egress_log_note(tell->log, note, clock_wall_ms());
    plan_next(tell, SOON_MS);
}

void egress_tell_flush(struct egress_tell *tell)
{
    if (!tell)
        return;
    for (int i = 0; i < LAST_PACKETS && control_heard(tell->control); i++) {
        if (!egress_log_has_news(tell->log))
            return;
        control_send(tell->control, egress_log_take(tell->log, CONTROL_PACKET_MAX));
    }
}
