/* The sidecars' engines: which program serves a sidecar, from what config, in what jail. One row
 * each. */
#pragma once

#include "backends/backend.h"

/* Where an engine finds its config in its jail: the directory, which the shim writes and the engine
 * only reads. */
#define JAIL_CONFIG_DIR "/etc/bottle"

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
    /* How a new config gets into force while it runs. */
    const char *check[8];  /* arguments that only check %CONFIG; status 0: it is good */
    const char *complaint; /* in the line of the check's output that says what is wrong; or NULL */
    bool hangs_up;         /* it reads its config anew on SIGHUP; else it watches the file */
    const char *in_force;  /* in the line that it prints when the new config is */
};

extern const struct engine_row engines[];
extern const size_t n_engines;

/* The row that serves `sidecar` here: the one called `name`; when that is NULL or "auto" the first
 * whose program is found, else the last of the table. ret_path (may be NULL) gets the program's
 * path, "" when it is missing. */
const struct engine_row *engine_choose(const struct host *host, enum sidecar sidecar,
                                       const char *name, char *ret_path, size_t size);
/* The proxy's row of that name, or NULL. */
const struct engine_row *engine_find(const char *name);
void preflight_engines(struct preflight *preflight, const struct host *host,
                       const struct spec *spec);
/* Renders the proxy's config into the plan, and notes its engine and that engine's limits there.
 * The engine is the one that the spec names, else the one that the plan has already (of a bottle
 * that was there before), else the first that is found. */
int engines_prepare(const struct host *host, struct plan *plan, struct error *err);
/* The "sidecars" member of the launch spec; NULL on failure. */
json_t *engines_launch(const struct host *host, const struct plan *plan, struct error *err);
