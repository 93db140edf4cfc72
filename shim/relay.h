/* The relay: cell's listener ── splice ── 127.0.0.1:host_port. The only way out of a cell.
 *
 * The listeners were opened inside the cell and handed over; accepting on them here, in the host's
 * network, and connecting to the one host port that the plan gave is all the routing there is. */
#pragma once

#include <stdint.h>

#include "base/loop.h"
#include "renderers/config.h"
#include "renderers/render.h"

struct relay;

/* Takes the listener over. At most `connections_max` at once: further ones wait in the backlog. */
struct relay *relay_new(struct loop *loop, int listener, const struct port_forward *forward,
                        unsigned connections_max, struct error *err);
/* What may pass from now on. The rules are copied. */
int relay_set_rules(struct relay *relay, const struct egress_rule *rules, size_t n_rules);
void relay_free(struct relay *relay);
