/* The backends: one table row per way of running a bottle's VM, and what they need to know of this
 * machine. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/plan.h"
#include "base/error.h"
#include "base/text.h"

struct images; /* server/images.h */

/* What the operator configured and what was found out about this machine. Strings are borrowed. */
struct host {
    const char *tools_path;  /* DIR[:DIR…], searched first to last; PATH is part of it already */
    const char *libexec_dir; /* bottle-shim, bottle-cell, bottle-krun */
    const char *guest_dir;   /* vmlinuz, initramfs.img, root/, images/ */
    const char *mount_roots; /* DIR[:DIR…]; directories below may be mounted */
    const char *libkrun;     /* path; NULL or "": beside smolvm */
    const char *state_dir, *run_dir;
    const char *git_gate_program, *supervise_program; /* "" when none */
    enum smolfile_dialect dialect;
    const char *accelerator; /* "auto", "kvm", "tcg": as configured */
    bool kvm_works;          /* the verdict of host_probe() */
    char kvm_detail[512];    /* that verdict in words */
    unsigned tsc_khz;
    int64_t boot_timeout_ms, sidecar_timeout_ms, kvm_probe_ms, log_bytes;
    int64_t gvproxy_memory_mib, sidecar_memory_mib, vm_overhead_mib, bottle_pids;
    int64_t shim_memory_mib; /* 0: no limit */
    int64_t max_disk_mib;    /* that a plan may ask for */
    int64_t bottle_cpu_weight;
    bool cgroups;                /* as configured */
    char cgroup_parent[1024];    /* of the bottles' groups; "" where there can be none */
    char cgroup_controllers[32]; /* "memory pids cpu", or those of them that are there */
    char cgroup_detail[640];     /* in words */
    struct images *images;       /* NULL: none but the built-in one */
    unsigned uid_base;           /* 0: bottles run as our own user */
    struct choices *choices;     /* what "auto" came to lately; NULL: that is not kept */
};

/* Reads the TSC frequency and settles kvm_works: a boot of the real guest kernel under a deadline,
 * run as a bottle's user in the VM's own jail; the verdict is kept in <state_dir>/kvm-probe.json
 * per boot of the host, kernel, QEMU and deadline. */
int host_probe(struct host *host, struct error *err);

/* Runs bottle-shim by a launch spec that is only to be tried, and takes its one line: 1: it was
 * "ok"; 0: it was other words, or none came in time or before `cancel` (-1: nobody) could be read;
 * -1. The shim and all that it started are dead by then, or about to be. */
int shim_try(const struct host *host, const json_t *spec, int cancel, char *ret_answer, size_t size,
             struct error *err);

enum { TOOLS_MAX = 16 };

struct tool {
    const char *name; /* "gvproxy" */
    bool found;
    char path[512];   /* where, when found */
    char detail[256]; /* what is wrong, or "" */
    char version[48]; /* "" until tool_versions() (backends/versions.h), or where it says none */
    const char *hint; /* how to get it */
};

struct preflight {
    bool ok;
    size_t count;
    struct tool tools[TOOLS_MAX];
};

/* A line of a file that must stay as it is: path, size, time of change, number. -1 with errno. */
int template_file_line(const char *path, struct text *ret);

/* How a backend starts machines from templates: a machine that booted up to its agent's HELLO,
 * saved as two files, `ram` (all bottles of it map that privately) and `state` (of its devices). */
struct templating {
    /* What a template of the plan's machine depends on, a fact a line: "file PATH …" as
     * template_file_line() gives it, "boot ID", and others. Two plans with the same lines have one
     * template. */
    int (*lines)(const struct host *host, const struct plan *plan, struct text *ret,
                 struct error *err);
    /* The member "template" of the launch spec's "vm", for a template in `directory`. */
    int (*use)(const struct host *host, const struct plan *plan, const char *directory,
               json_t **ret, struct error *err);
    /* The member "vm" of a launch spec that makes a template in `directory`, and its "save". */
    int (*make)(const struct host *host, const struct plan *plan, const char *directory,
                json_t **ret_vm, json_t **ret_save, struct error *err);
};

struct backend {
    const char *name;
    const char *summary;
    bool can_launch; /* else "auto" never takes it, and launch says why */
    /* Looks for every tool that the backend needs, and for what `spec` (may be NULL) asks beyond.
     * Never blocks for long. */
    void (*preflight)(const struct host *host, const struct spec *spec, struct preflight *ret);
    /* Sets accelerator and engine, and adds the rendered files to the plan. */
    int (*prepare)(const struct host *host, struct plan *plan, struct error *err);
    /* The "vm" member of the launch spec (shim/spec.h); fails with kind "launch-unavailable" where
     * it can't. */
    int (*launch)(const struct host *host, const struct plan *plan, json_t **ret_vm,
                  struct error *err);
    const struct templating *templating; /* NULL: it has none */
};

extern const struct backend backends[];
extern const size_t n_backends;
const struct backend *backend_find(const char *name);
/* Resolves "auto" (smolmachines where its preflight passes and it can launch, else qemu); NULL for
 * unknown names. */
const struct backend *backend_choose(const struct host *host, const char *name);
/* Why a plan got its backend and accelerator, in words: asked for, or what "auto" found out. */
void backend_explain(const struct host *host, const struct plan *plan, char *ret, size_t size);
json_t *preflight_encode(const struct preflight *preflight);
/* Finds an executable regular file along a path list, with links resolved; 0 and *ret, or -1. */
int tool_find(const char *tools_path, const char *name, char *ret, size_t size);

/* The members of a launch spec that every VM has, a probe too. Steals `vm`. Caller owns the result.
 */
json_t *launch_frame(const struct host *host, json_t *vm, int64_t memory_mib, const char *slug,
                     const char *run_dir, const char *log_dir, unsigned uid, const char *token,
                     struct error *err);
/* The bottle's own disk, in its stage directory. */
#define DISK_FILE "disk.ext4"
/* Adds it to a "vm" member, seen in the jail as `jail`; nothing where the plan wants none. */
void bind_disk(json_t *vm, const struct plan *plan, const char *jail);
/* The whole launch spec for bottle-shim, read by shim/spec.c. `uid` 0: stay as we are. Caller owns.
 */
json_t *launch_spec(const struct host *host, const struct plan *plan, unsigned uid,
                    const char *token, struct error *err);
