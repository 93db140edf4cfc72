/* A bottle as clients see it: states, their legal moves, and the JSON. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum bottle_state {
    STATE_PREPARED,
    STATE_STARTING,
    STATE_RUNNING,
    STATE_PAUSED,
    STATE_STOPPING,
    STATE_STOPPED,
    STATE_EXITED,
    STATE_FAILED,
    STATE_RESTARTING, /* it has ended, and is started again by itself */
    STATE_DELETING,
    N_STATES
};

struct state_row {
    const char *name;
    bool live;      /* has processes */
    bool can_start; /* POST …/start is legal */
};
extern const struct state_row states[N_STATES];
/* -1 when there is no such state. */
int state_parse(const char *name);

struct bottle {
    const char *slug, *backend, *guest_ip;
    const char *accelerator, *engine, *reason; /* may be NULL */
    const char *backend_reason;                /* why this backend and accelerator; may be NULL */
    const char *boot, *boot_reason;            /* how it came up last; may be NULL */
    enum bottle_state state;
    int64_t created_ms, updated_ms, started_ms, finished_ms; /* 0: not yet */
    bool has_exit_code;
    int exit_code;
    const json_t *labels; /* object; NULL: none */
    int64_t expires_ms;   /* 0: never */
    int64_t restarts;     /* by itself, since a client started it */
    int64_t restart_ms;   /* when the next one is; 0: none */
    int64_t generation;   /* counts changes; the ETag */
};

/* The bottle object of the contract; the caller owns it. */
json_t *bottle_encode(const struct bottle *bottle);
