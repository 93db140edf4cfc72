/* A live change of the bottle's egress: new rules and a new config for the proxy's engine, put into
 * force without a restart, or not at all (the request and its answer: shim/protocol.h).
 *
 *   wait     until the engine listens: one that only comes up could miss, or die of, a signal
 *   check    the new config lies beside the old one; the engine's own program says whether it is
 *            good, in a jail like the engine's
 *   reload   it takes the old one's place; the engine is told, and says itself that it took it
 *   listen   and is seen to listen again
 *   then the relay gets the new rules, and cuts what they do not allow
 *
 * So both the engine and the relay go from old to new in one step each; in between a connection
 * needs the leave of both, which is less than either's. An engine that does not say that it took
 * the new config gets the old one again, and the relay's rules stay. */
#pragma once

#include "api/spec.h"
#include "base/loop.h"
#include "shim/children.h"

struct supervisor;

enum change_step {
    CHANGE_NONE,
    CHANGE_WAIT,
    CHANGE_CHECK,
    CHANGE_RELOAD,
    CHANGE_LISTEN,
    CHANGE_BACK, /* to the old config */
};

struct change_request {
    uint64_t client;
    int64_t id; /* 0: none */
    struct rule_list rules;
    char *name, *content; /* of the config; owned */
};

struct egress_change {
    enum change_step step;
    struct change_request now, next;
    struct loop_timer tick;
    int64_t until_ms; /* of the step; monotonic */
    struct child check;
    char *before; /* the config that `now` replaces; owned */
    struct rule_list rules;
    bool changed; /* `rules` hold, rather than those of the launch */
};

/* Before anything else; nothing else need be set. */
void egress_change_init(struct supervisor *sup);
/* Puts a sidecar's config where its jail sees it; nothing for one that has none. The newest stays
 * when the sidecar is started again. */
int egress_place_config(const struct sidecar_config *config, struct error *err);
/* Takes the descriptor over, and answers by control_answer. */
void egress_change_request(struct supervisor *sup, uint64_t client, int64_t id, int fd);
/* The check, sup->change.check, has ended. */
void egress_change_checked(struct supervisor *sup, int status);
/* New relays get the newest rules. -1: memory is short, and one has older ones. */
int egress_change_relays(struct supervisor *sup);
/* The bottle ends: nothing more is changed, nor answered. */
void egress_change_end(struct supervisor *sup);
void egress_change_free(struct supervisor *sup);
