/* The smolmachines backend's row, and what the KVM probe needs of it. */
#pragma once

#include "backends/backend.h"

void smolmachines_preflight(const struct host *host, const struct spec *spec,
                            struct preflight *ret);
int smolmachines_prepare(const struct host *host, struct plan *plan, struct error *err);
int smolmachines_launch(const struct host *host, const struct plan *plan, json_t **ret_vm,
                        struct error *err);
/* The "vm" member of a probe's launch spec: the built-in image, no network card. */
int smolmachines_probe_vm(const struct host *host, json_t **ret_vm, struct error *err);
/* As qemu_identity(): libkrun, its kernel, bottle-krun and the guest's init. */
int smolmachines_identity(const struct host *host, char *ret, size_t size);
