/* The sidecars' engines: which program serves a sidecar, from what config, in what jail. One row
 * each. */
#pragma once

#include "backends/backend.h"

struct engine_row {
    const char
        *name; /* "squid": also the program that is looked for, unless the operator names one */
    enum sidecar sidecar;
    const char *file; /* its rendered config, or NULL */
    int (*render)(const struct proxy_config *config, struct text *out, struct error *err);
    const char *limits; /* what it can't check, for the resolved plan; or NULL */
    const char *hint;   /* how to get it */
    /* Its arguments after the program, as it runs in the jail. "%CONFIG" and "%LISTEN" are
     * replaced. */
    const char *arguments[8];
};

extern const struct engine_row engines[];
extern const size_t n_engines;

/* The row that serves `sidecar` here: the first whose program is found; for the proxy, else the
 * last one of the table. For the others the operator's program, or NULL when none is configured.
 * ret_path (may be NULL) gets the program's path, "" when it is missing. */
const struct engine_row *engine_choose(const struct host *host, enum sidecar sidecar,
                                       char *ret_path, size_t size);
void preflight_engines(struct preflight *preflight, const struct host *host,
                       const struct spec *spec);
/* Renders the config of each active sidecar into the plan, and notes the proxy's engine and its
 * limits there. */
int engines_prepare(const struct host *host, struct plan *plan, struct error *err);
/* The "sidecars" member of the launch spec; NULL on failure. */
json_t *engines_launch(const struct host *host, const struct plan *plan, struct error *err);
