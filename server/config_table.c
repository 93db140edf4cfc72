/* The keys of the configuration, a row each. */
#include <string.h>

#include "backends/backend.h"
#include "base/util.h"
#include "server/config_keys.h"

#define AT(field) offsetof(struct config, field)
#define PATH(field, initial, doc)                                                                  \
    {                                                                                              \
#field, CONFIG_PATH, AT(field), initial, 0, 0, NULL, "PATH", doc, false                    \
    }
#define INTEGER(field, initial, low, high, doc)                                                    \
    {                                                                                              \
#field, CONFIG_INTEGER, AT(field), initial, low, high, NULL, "N", doc, false               \
    }
#define DURATION(name, field, initial, low, high, doc)                                             \
    {                                                                                              \
        name, CONFIG_DURATION, AT(field), initial, low, high, NULL, "TIME", doc, false             \
    }
#define CHOICE(field, initial, choices, doc)                                                       \
    {                                                                                              \
#field, CONFIG_CHOICE, AT(field), initial, 0, 0, choices, choices, doc, false              \
    }

const struct config_key config_keys[] = {
    PATH(socket, NULL, "Unix socket to answer on (default: bottled.sock in run_dir)"),
    {"listen", CONFIG_LISTEN, AT(listen), NULL, 0, 0, NULL, "ADDR:PORT",
     "address to answer on as well, to clients with a token; may be repeated", false},
    {"insecure_listen", CONFIG_BOOLEAN, AT(insecure_listen), "false", 0, 0, NULL, NULL,
     "answer beyond loopback without TLS, where tokens can be read on the way", false},
    {"tls_cert", CONFIG_PATH, AT(tls_cert), "", 0, 0, NULL, "PATH",
     "certificate (PEM, with its chain) of all TCP listeners: they then speak TLS 1.2 or 1.3 only",
     true},
    {"tls_key", CONFIG_PATH, AT(tls_key), "", 0, 0, NULL, "PATH",
     "its private key (PEM), for nobody else to read", true},
    {"token_file", CONFIG_PATH, AT(token_file), "", 0, 0, NULL, "PATH",
     "file whose first line is a bearer token of the role admin, by the name token-file", true},
    {"server_names", CONFIG_HOSTS, AT(server_names), "", 0, 0, NULL, "NAME[:PORT][,NAME...]",
     "names that TCP clients may reach it by, beside the listener's address and localhost", true},
    {"cors_origins", CONFIG_ORIGINS, AT(cors_origins), "", 0, 0, NULL, "ORIGIN[,ORIGIN...]",
     "origins whose pages may call it, like https://ci.example", true},
    {"session_time", CONFIG_DURATION, AT(session_ms), "12h", 1000, 86400000, NULL, "TIME",
     "how long a browser's session lasts", true},
    {"wrong_tokens", CONFIG_INTEGER, AT(wrong_tokens), "20", 1, 1000000, NULL, "N",
     "wrong tokens that an address may send within a minute before it has to wait", true},
    {"socket_group", CONFIG_WORD, AT(socket_group), "", 0, 0, NULL, "GROUP",
     "group (name or number) whose users may use the Unix socket too", false},
    {"socket_group_role", CONFIG_CHOICE, AT(socket_group_role), "operate", 0, 0,
     "read|operate|admin", "read|operate|admin", "what they may do", false},
    PATH(state_dir, NULL, "database and stage directories"),
    PATH(run_dir, NULL, "sockets of running bottles"),
    {"tools_path", CONFIG_PATHS, AT(tools_path), NULL, 0, 0, NULL, "DIR[:DIR...]",
     "where programs are looked for before PATH", false},
    PATH(libexec_dir, NULL, "bottle-shim and bottle-cell (default: where bottled is)"),
    PATH(guest_dir, NULL,
         "the guest's kernel, boot root and images (default: guest in libexec_dir)"),
    PATH(openapi_file, NULL, "what /openapi.yaml answers (default: openapi.yaml in libexec_dir)"),
    PATH(docs_dir, NULL, "the page of /docs (default: docs in libexec_dir)"),
    {"log_level", CONFIG_CHOICE, AT(log_level), "info", 0, 0, "error|warning|info|debug",
     "error|warning|info|debug", "what is logged to stderr; changes are in any case", true},
    {"log_format", CONFIG_CHOICE, AT(log_format), "logfmt", 0, 0, "logfmt|json", "logfmt|json",
     "how it is logged", true},
    INTEGER(ready_min_mib, "256", 1, 1 << 24,
            "MiB that have to be free in state_dir, or /readyz says that it is not ready"),
    CHOICE(accelerator, "auto", "auto|kvm|tcg",
           "how QEMU runs a guest; auto takes KVM where a boot proved it"),
    CHOICE(smolfile_dialect, "device", "device|smolvm", "dialect of smolfile.toml"),
    PATH(libkrun, "", "smolvm's VM library (default: beside the smolvm that is found)"),
    PATH(git_gate_program, "", "program behind a bottle's git-gate"),
    PATH(supervise_program, "", "program behind a bottle's supervise"),
    {"host_ports", CONFIG_PORTS, AT(host_port_first), "20000-32767", 1024, 65535, NULL,
     "FIRST-LAST", "loopback ports that sidecars may get", false},
    INTEGER(
        host_addresses, "1", 1, LOOPBACKS_MAX,
        "addresses (127.0.0.1, 127.0.1.1, …) that each have all of host_ports: for more bottles"),
    INTEGER(uid_base, NULL, 0, 4000000000,
            "as root: bottle N runs as user and group uid_base + N; some 560,000 numbers are "
            "bottled's"),
    DURATION("boot_timeout", boot_timeout_ms, "30s", 1000, 3600000,
             "how long a guest may take to come up"),
    DURATION("sidecar_timeout", sidecar_timeout_ms, "10s", 100, 600000,
             "how long a sidecar may take to answer"),
    DURATION("kvm_probe", kvm_probe_ms, "10s", 1000, 120000,
             "how long the boot that proves KVM may take"),
    INTEGER(log_bytes, "8388608", 4096, 1 << 30, "size at which a bottle's log is rotated"),
    INTEGER(gvproxy_memory_mib, "320", 64, 65536, "memory that a bottle's gvproxy may use"),
    INTEGER(sidecar_memory_mib, "1024", 64, 1 << 20, "memory that each sidecar may use"),
    INTEGER(shim_memory_mib, "128", 0, 65536,
            "memory that a bottle's supervisor may use; 0: no limit of its own"),
    INTEGER(vm_overhead_mib, "1536", 128, 65536,
            "memory that a VM's process may use beyond its guest's"),
    INTEGER(bottle_pids, "1024", 64, 1 << 20, "processes and threads of a bottle"),
    INTEGER(bottle_cpu_weight, "100", 1, 10000, "cpu.weight of a bottle's control group"),
    {"cgroups", CONFIG_BOOLEAN, AT(cgroups), "true", 0, 0, NULL, NULL,
     "give each bottle a control group of its own where one can be made", false},
    {"image_roots", CONFIG_PATHS, AT(image_roots), "", 0, 0, NULL, "DIR[:DIR...]",
     "directories that images may be imported from as dir:PATH", false},
    {"image_registries", CONFIG_HOSTS, AT(image_registries), "", 0, 0, NULL, "NAME[,NAME...]",
     "registries that images may be imported from as docker://NAME, like docker.io", false},
    INTEGER(image_max_bytes, "17179869184", 1 << 20, 1LL << 44,
            "bytes of an image, unpacked; its import may take four times that for a while"),
    INTEGER(image_max_files, "1000000", 100, 100000000, "files and folders of an image"),
    DURATION("image_timeout", image_timeout_ms, "30m", 1000, 86400000,
             "how long an import may take"),
    INTEGER(template_max_mib, "4096", 0, 1 << 24,
            "MiB on the disk for templates, from which bottles start in a blink; 0: none"),
    DURATION("template_after", template_after_ms, "0s", 0, 86400000,
             "how long after a cold start its template is made: that is one more boot"),
    {"secret_roots", CONFIG_PATHS, AT(secret_roots), "", 0, 0, NULL, "DIR[:DIR...]",
     "directories that the plans' secrets may be read from (from_file)", false},
    {"secret_env", CONFIG_NAMES, AT(secret_env), "", 0, 0, NULL, "NAME[,NAME...]",
     "variables of bottled that plans may take as secrets (from_env); removed from its "
     "environment",
     false},
    {"mount_roots", CONFIG_PATHS, AT(mount_roots), "", 0, 0, NULL, "DIR[:DIR...]",
     "directories that bottles may mount directories of", false},
    INTEGER(files_max_bytes, "68719476736", 1 << 20, 1LL << 44,
            "bytes of a file or archive that is copied into or out of a bottle"),
    DURATION("files_timeout", files_timeout_ms, "2m", 100, 3600000,
             "how long a guest may let such a copy wait"),
    INTEGER(max_bottles, "10000", 1, SUBNETS_MAX, "bottles at one time"),
    INTEGER(max_running, "256", 1, SUBNETS_MAX, "running bottles at one time"),
    INTEGER(max_disk_mib, "1048576", 0, DISK_MAX_MIB,
            "disk_mib that a plan may ask for; 0: no bottle has a disk"),
    INTEGER(max_body_bytes, "1048576", 1024, DISCARD_MAX, "bytes of a request's JSON"),
    INTEGER(max_connections, "1024", 8, 65536, "connections to a listener at one time"),
    INTEGER(idempotency_rows, "100000", 1, 10000000,
            "answers that are kept for Idempotency-Keys; the oldest go"),
    DURATION("idempotency_age", idempotency_age_ms, "24h", 1000, 86400000,
             "how long they are kept"),
    DURATION("idle_timeout", idle_timeout_ms, "30s", 1000, 3600000,
             "how long a connection may wait between requests"),
    DURATION("head_timeout", head_timeout_ms, "10s", 100, 600000,
             "how long a client may take over a request's head; then it is 408"),
    DURATION("body_timeout", body_timeout_ms, "30s", 100, 3600000,
             "how long a client may take over a body, or pause in a file or archive; then 408"),
    INTEGER(max_waiters, "512", 1, 65536,
            "requests that wait for a state at one time, and for images"),
    INTEGER(max_event_readers, "256", 1, 65536, "clients that follow the events at one time"),
    INTEGER(event_rows, "100000", 1000, 10000000, "events that are kept; the oldest go"),
    DURATION("event_heartbeat", event_heartbeat_ms, "15s", 100, 600000,
             "how long a stream of events may be silent before it says that it is still there"),
    {"stop_bottles", CONFIG_BOOLEAN, AT(stop_bottles), "false", 0, 0, NULL, NULL,
     "stop the bottles when bottled ends", false},
};
const size_t n_config_keys = COUNT_OF(config_keys);

const struct config_key *config_key(const char *name)
{
    for (size_t i = 0; i < n_config_keys; i++)
        if (strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    return NULL;
}
