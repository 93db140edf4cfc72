/* Bottles as clients see them. */
#include "api/bottle.h"

#include <string.h>

#include "base/clock.h"
#include "base/json.h"

const struct state_row states[N_STATES] = {
    [STATE_PREPARED] = {"prepared", false, true},     [STATE_STARTING] = {"starting", true, false},
    [STATE_RUNNING] = {"running", true, false},       [STATE_PAUSED] = {"paused", true, false},
    [STATE_STOPPING] = {"stopping", true, false},     [STATE_STOPPED] = {"stopped", false, true},
    [STATE_EXITED] = {"exited", false, true},         [STATE_FAILED] = {"failed", false, true},
    [STATE_RESTARTING] = {"restarting", false, true}, [STATE_DELETING] = {"deleting", true, false},
};

int state_parse(const char *name)
{
    for (int i = 0; i < N_STATES; i++)
        if (strcmp(states[i].name, name) == 0)
            return i;
    return -1;
}

static json_t *words(const char *string)
{
    return string ? json_string_lossy(string) : json_null();
}

/* A time, or null for one that has not come. */
static json_t *moment(int64_t wall_ms)
{
    char stamp[TIMESTAMP_SIZE];

    if (wall_ms == 0)
        return json_null();
    timestamp_format(wall_ms, stamp);
    return json_string(stamp);
}

json_t *bottle_encode(const struct bottle *bottle)
{
    json_t *exit_code = bottle->has_exit_code ? json_integer(bottle->exit_code) : json_null();
    json_t *labels = bottle->labels ? json_deep_copy(bottle->labels) : json_object();

    return json_pack(
        "{s:s, s:s, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o, s:o, s:I, s:o, s:I}",
        "slug", bottle->slug, "state", states[bottle->state].name, "reason", words(bottle->reason),
        "backend", bottle->backend, "accelerator", words(bottle->accelerator), "backend_reason",
        words(bottle->backend_reason), "engine", words(bottle->engine), "boot", words(bottle->boot),
        "boot_reason", words(bottle->boot_reason), "created_at", moment(bottle->created_ms),
        "updated_at", moment(bottle->updated_ms), "started_at", moment(bottle->started_ms),
        "finished_at", moment(bottle->finished_ms), "exit_code", exit_code, "guest_ip",
        words(bottle->guest_ip), "labels", labels, "expires_at", moment(bottle->expires_ms),
        "restarts", (json_int_t)bottle->restarts, "restart_at", moment(bottle->restart_ms),
        "generation", (json_int_t)bottle->generation);
}
