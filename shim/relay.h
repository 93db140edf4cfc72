/* The relay: cell's listener ── splice ── host:host_port, on the loopback. The only way out of a
 * cell.
 *
 * The listeners were opened inside the cell and handed over; accepting on them here, in the host's
 * network, and connecting to the one address and port that the plan gave is all the routing there
 * is.
 *
 * The proxy's relay is guarded: it reads the head of each request, refuses by itself what no egress
 * rule allows, holds a TLS hello for another host than the tunnel's, and notes what it saw
 * (shim/relay_gate.c). After that it moves bytes like any other.
 *
 * Whoever closes a connection first keeps its port for a minute. On the guest's side of gvproxy
 * that is the guest's kernel, which then takes other ports, or gvproxy's stack, which drops a new
 * connection from a port that it keeps: its guest waits for up to a minute. So the end of what a
 * sidecar sends is held for a quarter of a second: most clients know that they have all, and close.
 */
#pragma once

#include <stdint.h>

#include "base/loop.h"
#include "renderers/config.h"
#include "renderers/render.h"
#include "shim/egress_log.h"

struct relay;

/* Who is told what a guarded relay saw. */
struct relay_owner {
    void (*note)(void *context, const struct egress_note *note);
    void *context;
};

/* Takes the listener over. At most `connections_max` at once: further ones wait in the backlog. */
struct relay *relay_new(struct loop *loop, int listener, const struct port_forward *forward,
                        unsigned connections_max, struct error *err);
/* From now on its requests are checked; until relay_set_rules none is allowed. */
void relay_guard(struct relay *relay, const struct relay_owner *owner);
/* What may pass a guarded relay from now on. The rules are copied; tunnels and requests under way
 * that none of them allows are cut. -1 when memory is short: then nothing has changed. */
int relay_set_rules(struct relay *relay, const struct egress_rule *rules, size_t n_rules);
void relay_free(struct relay *relay);
