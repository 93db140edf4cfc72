/* The smolmachines backend's row. */
#pragma once

#include "backends/backend.h"

void smolmachines_preflight(const struct host *host, const struct spec *spec,
                            struct preflight *ret);
int smolmachines_prepare(const struct host *host, struct plan *plan, struct error *err);
int smolmachines_launch(const struct host *host, const struct plan *plan, json_t **ret_vm,
                        struct error *err);
