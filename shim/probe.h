/* Finding out whether a VM boots here: the real kernel and init, as a bottle's user, in the VM's
 * own jail. */
#pragma once

#include "shim/spec.h"

/* Boots the VM of a probe spec until its guest says HELLO on the agent's channel, ends, or
 * boot_timeout_ms is over. 0: it boots. -1: err says what happened. The VM is dead either way. */
int probe_run(struct launch *launch, struct error *err);
