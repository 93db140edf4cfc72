/* What bottled needs of libkrun: one table of functions, by name, for the preflight (which reads
 * the library's symbol table and runs none of its code) and for bottle-krun (which opens it).
 *
 * Two generations of the library are known: the second, which smolvm brings, gets its root as a
 * virtio-fs device and has only the devices that it is asked for; the first (distributions' 1.x)
 * has a call for the root, and implicit devices that must be taken away by name. Prototypes:
 * include/libkrun.h of the library's source. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct krun_api {
    int32_t (*create_ctx)(void);
    int32_t (*set_vm_config)(uint32_t ctx, uint8_t cpus, uint32_t memory_mib);
    int32_t (*disable_implicit_init)(uint32_t ctx);
    int32_t (*add_disk)(uint32_t ctx, const char *id, const char *path, bool read_only);
    int32_t (*add_net_unixgram)(uint32_t ctx, const char *path, int fd, uint8_t *mac,
                                uint32_t features, uint32_t flags);
    int32_t (*add_virtio_console_multiport)(uint32_t ctx);
    int32_t (*add_console_port_tty)(uint32_t ctx, uint32_t console, const char *name, int tty);
    int32_t (*add_console_port_inout)(uint32_t ctx, uint32_t console, const char *name, int in,
                                      int out);
    int32_t (*start_enter)(uint32_t ctx);
    /* second generation */
    int32_t (*add_virtiofs3)(uint32_t ctx, const char *tag, const char *path, uint64_t dax_size,
                             bool read_only);
    /* first generation */
    int32_t (*set_root)(uint32_t ctx, const char *path);
    int32_t (*disable_implicit_console)(uint32_t ctx);
    int32_t (*disable_implicit_vsock)(uint32_t ctx);
    /* for its words */
    int32_t (*init_log)(int fd, uint32_t level, uint32_t style, uint32_t options);
    const char *(*get_last_error)(void);
};

struct krun_function {
    const char *name;
    size_t offset; /* in struct krun_api */
    /* In which generation (bit 0: the first, bit 1: the second) it must be there; 0: better with.
     */
    unsigned needed_in;
};

extern const struct krun_function krun_functions[];
extern const size_t n_krun_functions;

/* Whether a library has what is needed of its generation. `has` answers for one name; `version` is
 * for the words. 0, or -1 with words like "libkrun of the second generation (libkrun.so.2) lacks
 * krun_add_disk". */
int krun_check(bool (*has)(void *context, const char *name), void *context, const char *version,
               struct error *err);
/* krun_check() on a file, by its symbol table. *ret_soname, of `size` bytes, is the version that
 * the library gives itself ("libkrun.so.2"). */
int krun_check_file(const char *path, char *ret_soname, size_t size, struct error *err);
