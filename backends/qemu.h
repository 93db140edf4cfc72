/* The qemu backend's row, and what the KVM probe needs of it. */
#pragma once

#include "backends/backend.h"

#define QEMU_KERNEL_FILE "vmlinuz"
#define QEMU_INITRD_FILE "initramfs.img"
#define QEMU_JAIL_IMAGE "/vm/image"
#define QEMU_JAIL_DISK "/vm/disk"
#define QEMU_JAIL_ELSEWHERE "/vm/qemu-system-x86_64"
#define QEMU_TEMPLATE_RAM "/vm/ram" /* bottle-private.so knows it */

enum { QEMU_AGENT_FD = 5, QEMU_QMP_FD = 6, QEMU_STATE_FD = 7 };

enum { PROBE_MIB = 128 }; /* memory of the machine that proves KVM */

void qemu_preflight(const struct host *host, const struct spec *spec, struct preflight *ret);
int qemu_prepare(const struct host *host, struct plan *plan, struct error *err);
/* Where it is, its links followed. */
int qemu_find(const struct host *host, char *ret, size_t size, struct error *err);
/* The machine of a plan; `qemu` is the program's path. What it points to is the plan's, or static.
 */
struct qemu_config qemu_configure(const struct host *host, const struct plan *plan,
                                  const char *qemu);
bool qemu_is_kvm(const struct plan *plan);
/* "vm" of a launch spec: that argument vector, with the files that it names; `image` may be NULL.
 */
json_t *qemu_vm_encode(const struct host *host, const char *qemu, const char *image, json_t *argv,
                       bool kvm);
extern const struct templating qemu_templating;
int qemu_launch(const struct host *host, const struct plan *plan, json_t **ret_vm,
                struct error *err);
/* The "vm" member of a probe's launch spec: KVM, no image, no network card. */
int qemu_probe_vm(const struct host *host, json_t **ret_vm, struct error *err);
/* What a probe's verdict depends on: QEMU, kernel and initramfs by size and time of change. -1: one
 * is missing. */
int qemu_identity(const struct host *host, char *ret, size_t size);
