/* The renderers: pure functions from structs to text. No clock, no environment, no file system: the
 * same input gives the same bytes. Each adds to *out and returns 0, or -1 with err set (bad input
 * or no memory). */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/text.h"
#include "renderers/config.h"

/* gvproxy.yaml: the policy in its own keys, and the sections that gvproxy v0.8.8+ reads, from one
 * struct. */
int render_gvproxy(const struct network *network, struct text *out, struct error *err);

enum smolfile_dialect {
    SMOLFILE_DEVICE, /* an explicit virtio-net device table backed by gvproxy's unixgram socket */
    SMOLFILE_SMOLVM, /* what released smolvm parses; net = false, so by hand it has no network at
                        all */
};

/* smolfile.toml. The smolvm dialect leaves out what `smolvm machine create` would refuse or
 * silently change, and says in a comment what kind and how many, never the value. */
int render_smolfile(const struct guest_config *guest, const struct network *network,
                    enum smolfile_dialect dialect, struct text *out, struct error *err);

struct qemu_config {
    const char *binary; /* path as seen in the jail, e.g. /usr/bin/qemu-system-x86_64 */
    const char *kernel, *initrd, *image; /* as seen in the jail */
    unsigned cpus, memory_mib;
    const char *disk; /* the bottle's own disk, writable; NULL: none */
    const char *guest_mac;
    bool kvm;         /* else TCG */
    unsigned tsc_khz; /* host's TSC frequency, for tsc_early_khz under TCG; 0: unknown, left out */
    int agent_fd; /* the descriptor that carries the agent channel (a connected stream socket) */
    bool probe;   /* to see whether it boots: no network, no image */
    /* The guest's memory as a file in the jail, where the machine can come from a template; else
     * NULL. */
    const char *template_ram;
    bool template_make; /* the machine that the template is made of, not a bottle's */
    int qmp_fd;         /* the descriptor of the monitor's socket */
    /* Directories of the host, as virtio-fs devices with the tags fs0, fs1, …; each is served over
     * a connected Unix socket: descriptors mount_fd and those that follow. */
    unsigned n_mounts;
    int mount_fd;
};

/* qemu.json: {"argv": [...]}: exactly what the shim runs in the VM's jail. With template_ram also
 * "restore": what it runs in place of that where there is a template; such a machine waits for the
 * monitor to say where the saved state of its devices is. */
int render_qemu(const struct qemu_config *config, struct text *out, struct error *err);

struct krun_config {
    /* As seen in the jail: bottle-krun, smolvm's two libraries, the directory that the guest boots
     * from, its image. */
    const char *binary, *library, *firmware, *root, *image;
    const char *disk; /* the bottle's own, writable; NULL: none */
    const struct guest_config *guest;
    const struct network *network; /* NULL: no network card, for a probe */
    int agent_fd;                  /* as in struct qemu_config */
    /* Directories of the host, seen in the jail as JAIL_MOUNTS/fs0, …, which are their tags too. */
    const bool *mounts_read_only; /* one each */
    unsigned n_mounts;
};

/* krun.json: {"argv": [...]}: exactly what the shim runs in the VM's jail. */
int render_krun(const struct krun_config *config, struct text *out, struct error *err);

struct egress_rule {
    /* A name in lower case without a trailing dot, for a suffix rule without the "*."; or an
     * address as inet_ntop() writes it (IPv6 without brackets), which then allows that literal and
     * nothing else. */
    const char *host;
    bool suffix;     /* "*.host": any name below it, not host itself */
    uint16_t port;   /* 0: 443 and 80 */
    bool private_ok; /* also where the name resolves to an address that is not public */
};

struct proxy_config {
    unsigned loopback;               /* of loopback_format() */
    uint16_t port;                   /* listens there */
    const struct egress_rule *rules; /* none: everything is denied */
    size_t n_rules;
};

/* squid.conf for `squid -N -f FILE`: keeps nothing on disk, logs to stdout (one JSON object a line
 * for each request when it ends) and stderr. */
int render_squid(const struct proxy_config *config, struct text *out, struct error *err);
/* pipelock.yaml for `pipelock run --config FILE --listen ADDRESS:PORT`. Kind "unsupported-rule"
 * for a rule with a port other than 443 and 80 (pipelock allows a host on any port, and "*.x" also
 * for x itself) and for one that may reach private addresses (pipelock would open them to all). */
int render_pipelock(const struct proxy_config *config, struct text *out, struct error *err);
