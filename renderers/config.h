/* The structs that the renderers read: a bottle's network and its guest, nothing else.
 *
 * All strings are borrowed and must outlive the struct. A network is made by network_build() only,
 * so that the shape of the policy (one zone, one record, every forward on loopback) is made in one
 * place. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Sidecars listen on the host's loopback: on 127.0.<n>.1, of which each has a whole range of ports,
 * so that there may be more bottles than a host has ports. All of 127.0.0.0/8 is the host itself.
 * n is below LOOPBACKS_MAX, and 0 for 127.0.0.1. */
enum { LOOPBACKS_MAX = 256 };
void loopback_format(unsigned n, char ret[16]);

struct dns_record {
    const char *name, *ip;
};

struct dns_zone {
    const char *zone;
    const struct dns_record *records;
    size_t n_records;
};

struct port_forward {
    const char *sidecar; /* "pipelock", "git-gate", "supervise" */
    uint16_t gateway_port;
    const char *host; /* of loopback_format() */
    uint16_t host_port;
};

enum { FORWARDS_MAX = 3 };

struct network {
    const char *subnet;      /* "192.168.50.0/24" */
    const char *gateway;     /* "192.168.50.1" */
    const char *guest_ip;    /* "192.168.50.2" */
    const char *gateway_mac; /* lower case, or gvproxy's static leases never match */
    const char *guest_mac;
    struct dns_record record; /* proxy.internal → gateway */
    struct dns_zone zone;     /* "." with that record */
    struct port_forward forwards[FORWARDS_MAX];
    size_t n_forwards;
};

/* Fills *ret, which must not be moved after (zone points into it). A forward without a host goes
 * to 127.0.0.1; at most FORWARDS_MAX are taken. */
void network_build(struct network *ret, const char *subnet, const char *gateway,
                   const char *guest_ip, const char *guest_mac, const struct port_forward *forwards,
                   size_t n_forwards);

struct env_var {
    const char *name, *value;
};

struct guest_config {
    const char *image;
    const char *const *command;
    size_t n_command;
    const char *workdir;
    const struct env_var *env;
    size_t n_env;
    unsigned cpus, memory_mib;
};

/* Paths inside the jails: the same strings on both sides of the wire, since gvproxy answers to the
 * string its peer bound. */
#define JAIL_RUN_DIR "/run/bottle"
#define JAIL_MOUNTS "/run/mounts"
#define JAIL_NET_SOCKET JAIL_RUN_DIR "/net.sock"
#define JAIL_VM_SOCKET JAIL_RUN_DIR "/vm.sock"
#define JAIL_SERVICES_SOCKET JAIL_RUN_DIR "/api.sock"
#define GATEWAY_MAC "5a:94:ef:e4:0c:dd"
#define PROXY_NAME "proxy.internal"
#define LOOPBACK "127.0.0.1"
