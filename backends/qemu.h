/* The qemu backend's row, and what the KVM probe needs of it. */
#pragma once

#include "backends/backend.h"

enum { PROBE_MIB = 128 }; /* memory of the machine that proves KVM */

void qemu_preflight(const struct host *host, const struct spec *spec, struct preflight *ret);
int qemu_prepare(const struct host *host, struct plan *plan, struct error *err);
int qemu_launch(const struct host *host, const struct plan *plan, json_t **ret_vm,
                struct error *err);
/* The "vm" member of a probe's launch spec: KVM, no image, no network card. */
int qemu_probe_vm(const struct host *host, json_t **ret_vm, struct error *err);
/* What a probe's verdict depends on: QEMU, kernel and initramfs by size and time of change. -1: one
 * is missing. */
int qemu_identity(const struct host *host, char *ret, size_t size);
