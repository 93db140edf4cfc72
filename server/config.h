/* The daemon's configuration: one table of keys; each is a key of the YAML file and a flag of the
 * command line. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum {
    LISTEN_MAX = 8,
    /* A body that is refused is read to this bound all the same, so that the client gets to the
       answer. */
    DISCARD_MAX = 16 * 1024 * 1024,
};

struct config {
    char *config_file;
    char *socket;             /* Unix socket; default <run_dir>/bottled.sock */
    char *listen[LISTEN_MAX]; /* ADDR:PORT */
    unsigned n_listen;
    char *state_dir, *run_dir;
    char *tools_path;   /* DIR[:DIR…]; default <exe>/../.tools/bin, then PATH (PATH is appended by
                           config_load) */
    char *libexec_dir;  /* default: where bottled itself lies */
    char *guest_dir;    /* default: <libexec_dir>/guest */
    char *openapi_file; /* default: <libexec_dir>/openapi.yaml, made there by the build */
    char *docs_dir;     /* default: <libexec_dir>/docs, likewise */
    bool insecure_listen;
    char *tls_cert, *tls_key;
    char *token_file;                  /* must not be readable by others */
    char *server_names, *cors_origins; /* comma-separated */
    int64_t session_ms, wrong_tokens;
    char *socket_group, *socket_group_role;
    char *log_level, *log_format;
    int64_t ready_min_mib;
    char *accelerator;      /* auto, kvm, tcg */
    char *smolfile_dialect; /* device, smolvm */
    char *libkrun;          /* "": beside smolvm */
    char *git_gate_program, *supervise_program;
    int64_t host_port_first, host_port_last; /* 20000, 32767 */
    int64_t host_addresses;                  /* 1 */
    int64_t uid_base;                        /* as root: 1900000000; 0 as a user */
    int64_t boot_timeout_ms, sidecar_timeout_ms,
        kvm_probe_ms;  /* 60000, 10000, 10000; as durations */
    int64_t log_bytes; /* per log file before it is rotated once: 8 MiB */
    int64_t gvproxy_memory_mib, sidecar_memory_mib; /* what each such process may use */
    int64_t shim_memory_mib;                        /* 0: no limit */
    int64_t vm_overhead_mib; /* of a VM's process, beyond its guest's memory */
    int64_t bottle_cpu_weight;
    bool cgroups;
    int64_t bottle_pids;    /* processes and threads of a bottle */
    char *image_roots;      /* DIR[:DIR…] */
    char *mount_roots;      /* DIR[:DIR…] */
    char *image_registries; /* NAME[,NAME…] */
    int64_t image_max_bytes, image_max_files, image_timeout_ms;
    int64_t template_max_mib; /* all of them together; 0: none are made */
    int64_t template_after_ms;
    char *secret_roots; /* DIR[:DIR…] */
    char *secret_env;   /* NAME[,NAME…] */
    int64_t files_max_bytes, files_timeout_ms;
    int64_t max_disk_mib;   /* of a plan */
    int64_t max_body_bytes; /* of JSON, and whatever else is kept whole */
    int64_t max_bottles, max_running, max_connections, max_waiters;
    int64_t event_rows; /* events that are kept */
    int64_t idle_timeout_ms, head_timeout_ms, body_timeout_ms;
    int64_t idempotency_rows, idempotency_age_ms;
    int64_t event_heartbeat_ms;
    int64_t max_event_readers; /* streams of events at one time */
    bool check_only, print_only, stop_bottles;
};

/* 0: go on; 1: all was said (--help, --version, --check-config, --print-config); -1: usage or
 * configuration fault in err. */
int config_load(int argc, char **argv, struct config *ret, struct error *err);
void config_free(struct config *config);
