/* What lies in bottled's own places and belongs to no bottle that there is: after a database was
 * put back from a backup, a removal that failed, a crash in the middle of something.
 *
 * Only what is provably bottled's own is one. Its places are the state directory (locked by this
 * daemon, writable for its user alone), the run directory and the control group on record there; in
 * them a name of bottled's own making, a true directory (no link) of the daemon's or of a bottle's
 * user, and for a stage directory: nothing in it but what bottled puts there. A process is one when
 * it is called bottle-shim and has its place in this daemon's run directory (its working directory,
 * or it listens on the socket there), or is in a control group of that name. Everything else is
 * left alone, and not told of. */
#pragma once

#include "server/engine.h"

/* Removes what creations left that died before anybody was told of their bottle: stage directories
 * that nothing was ever written to but the rendered files. At start, once the bottles are known and
 * before there are requests. Says in the log how much else there is. */
void orphans_settle(struct app *app);
