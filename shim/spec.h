/* The launch spec: all that a shim is told, decoded from the JSON that backends/launch.c makes.
 *
 * {"slug","run_dir","log_dir","log_bytes","uid","gid","daemon_uid","kvm_gid"|null,"token",
 *  "boot_timeout_ms","sidecar_timeout_ms","bwrap",
 *  "gvproxy": {"binary","config","cell","dynamic"},
 *  "forwards": [{"sidecar","gateway_port","host","host_port"}],
 *  "rules": ["host[:port]" | {"host","private":bool}, …]  the plan's egress.allow,
 *  "sidecars": [{"name","argv":[…],"env":{…},"binds":[["host","jail"],…],"host","host_port",
 *                "config": null |
 * {"path","name","check":[…],"complaint"|null,"hangs_up","in_force"}}], "vm":
 * {"name","argv":[…],"binds":[["host","jail"(,true:
 * writable)],…],"dev_kvm":bool,"agent_fd":N(,"qmp_fd":N)(,"disk_mib":N)(,"template":
 * {"argv","binds","env","qmp_fd","state","state_fd"})(,"cold_reason")}, "cgroup": "path" of the
 * group to enter (none: absent), "resources":
 * {"vm_mib","vm_overhead_mib","gvproxy_mib","sidecar_mib","shim_mib","pids"}, "secrets": N of those
 * that come beside it (none: absent), "probe": true only to find out whether a VM boots: then
 * gvproxy, forwards, sidecars and guest are absent, "save": {"state", "qmp_fd"} with a probe: a
 * template is made of it, "guest":
 * {"hostname","address","gateway","mac","workdir","user","command":[…],"env":[["NAME","value"],…]},
 * "mounts": absent, or {"uid","gid": whose all of it is in the guest,
 * "list":[{"tag","root","below","target","read_only"},…]}; "vm" then has "fs": {"binary","of_qemu":
 * bool,"fd": of the VM's, for the first} where its machine does not serve them by itself}
 *
 * argv[0] of sidecars and vm is a path in their jail. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/spec.h"
#include "base/error.h"
#include "base/secret.h"
#include "renderers/config.h"
#include "renderers/render.h"

enum {
    SIDECARS_MAX = FORWARDS_MAX,
    BINDS_MAX = 12,
    STAGED_MAX = 8 + SIDECARS_MAX + MOUNTS_MAX + BINDS_MAX * (SIDECARS_MAX + 2),
};

struct bind {
    const char *host, *jail;
    bool writable;
};

struct program {
    const char *name;
    const char **argv; /* NULL-terminated, owned */
    json_t *env;       /* object or NULL, borrowed */
    struct bind binds[BINDS_MAX];
    size_t n_binds;
};

/* A sidecar's own config, which can change while it runs (shim/egress_change.h). */
struct sidecar_config {
    const char *path;      /* as staged; NULL: it has none */
    const char *name;      /* in JAIL_CONFIG_DIR of its jail */
    const char **check;    /* argv that checks NAME.new there; NULL-terminated, owned */
    const char *complaint; /* in the line that says what is wrong, or NULL */
    const char *in_force;  /* in the line that it prints once a new one is in force */
    bool hangs_up;         /* wants SIGHUP */
};

struct sidecar_spec {
    struct program program;
    struct sidecar_config config;
    const char *host; /* where it listens: of loopback_format() */
    uint16_t host_port;
};

/* What the bottle's programs may use (shim/limits.h). */
struct resources {
    int64_t vm_mib;          /* the guest's memory */
    int64_t vm_overhead_mib; /* what the VM's process may use beyond it */
    int64_t gvproxy_mib, sidecar_mib;
    int64_t shim_mib; /* 0: no limit */
    int64_t disk_mib; /* the largest file that the VM may write: its disk */
    int64_t pids;     /* processes and threads of the whole bottle */
};

/* The same machine, restored from a template: its memory is among the binds. */
struct vm_template {
    struct program program; /* argv NULL: there is none */
    const char *state;      /* path of the devices' state; opened by staging, which is root */
    int state_file;         /* that; -1 */
    int qmp_fd, state_fd;   /* as the VM gets them */
};

/* A directory of the host (shim/mounts.h). */
struct shared_mount {
    const char *tag, *root, *below, *target;
    const char *path; /* where the jails bind it from; set by staging */
    bool read_only;
};

/* Strings are borrowed from `json`, which the struct owns. */
struct launch {
    json_t *json;
    const char *slug, *run_dir, *log_dir, *token, *bwrap;
    const char *cgroup; /* NULL: none */
    const char *gvproxy, *gvproxy_config, *cell;
    const char *net_dir, *proxy_dir, *config_dir; /* set by staging (shim/staging.c) */
    bool gvproxy_dynamic;
    unsigned uid, gid, daemon_uid; /* uid 0: stay */
    int64_t kvm_gid;               /* -1: none */
    int64_t log_bytes, boot_timeout_ms, sidecar_timeout_ms;
    struct resources resources;
    struct port_forward forwards[FORWARDS_MAX];
    size_t n_forwards;
    struct egress_rule *rules; /* owned; those that the bottle starts with */
    size_t n_rules;
    struct sidecar_spec sidecars[SIDECARS_MAX];
    size_t n_sidecars;
    bool probe;
    struct program vm;
    struct shared_mount mounts[MOUNTS_MAX];
    size_t n_mounts;
    unsigned mount_uid, mount_gid; /* in the guest */
    const char *fs_binary;         /* NULL: the machine serves them by itself */
    bool fs_of_qemu;               /* QEMU's virtiofsd, else the one in Rust */
    int fs_fd;
    bool dev_kvm;
    int agent_fd;
    int qmp_fd; /* of a VM that has a monitor; 0: it has none */
    struct vm_template template;
    const char *cold_reason;       /* why there is no template; NULL where there is one */
    struct vm_template save;       /* of a probe: where a template is made; state NULL: nowhere */
    uint8_t *start;                /* START frame for the guest, header and payload; owned */
    size_t start_length, fresh_at; /* where its START_FRESH_SIZE bytes are */
    uint8_t mac[6];
    int64_t n_secrets;
    struct secret secrets;    /* from secrets_load() (shim/secrets.h) until they are sent */
    char *staged[STAGED_MAX]; /* paths that staging made; owned */
    size_t n_staged;
};

/* Reads and checks a spec. *ret is released with launch_free. */
int launch_decode(const char *bytes, size_t length, struct launch *ret, struct error *err);
void launch_free(struct launch *launch);
/* Puts the present time and new entropy into the START frame, just before it is sent; -1: there is
 * none. launch_forget_start wipes and frees it. */
int launch_refresh_start(struct launch *launch, struct error *err);
void launch_forget_start(struct launch *launch);
