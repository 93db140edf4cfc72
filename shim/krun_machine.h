/* A machine of libkrun's: opening the library, giving the machine its devices, entering it.
 *
 * The machine has what the argument vector names and nothing else: a read-only root over virtio-fs
 * whose /init.krun is PID 1, one read-only disk, one network card on gvproxy's socket, and one
 * virtio-console device with two ports, the console and the agent's. There is no vsock device:
 * libkrun adds none unasked, or is told not to. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "api/spec.h"
#include "base/error.h"

struct machine_options {
    const char *library, *firmware; /* libkrun, libkrunfw */
    const char *root;               /* the directory that the guest boots from */
    const char *disk;               /* the image, read-only; /dev/vda */
    const char *own_disk;           /* writable; /dev/vdb; NULL: none */
    const char *net, *net_local;    /* gvproxy's socket, and the path to bind before connecting;
                                       NULL: no network card */
    uint8_t mac[6];
    const char *mounts[MOUNTS_MAX]; /* tags of the host's directories, which lie in JAIL_MOUNTS */
    bool mounts_read_only[MOUNTS_MAX];
    unsigned n_mounts;
    unsigned cpus, memory_mib;
    int agent_fd;   /* the agent's channel, a connected stream socket */
    int console_fd; /* a terminal */
};

/* Never returns but for a fault, which is then in *err. On the machine's end libkrun ends the
 * process. */
int machine_enter(const struct machine_options *options, struct error *err);
