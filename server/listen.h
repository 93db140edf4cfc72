/* Listening sockets. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"
#include "server/address.h"

/* A listening Unix socket at `path`, for its owner only (0600), or also for a group (0660; NULL:
 * none). A socket that nobody answers on is replaced; one that is answered on, or anything that is
 * no socket, is an error. Descriptor or -1; *ret_inode tells ours from a later one. */
int listen_unix(const char *path, const gid_t *group, ino_t *ret_inode, struct error *err);
/* Removes the socket at `path` if it is still that one. */
void listen_unlink(const char *path, ino_t inode);
/* A listening TCP socket at "127.0.0.1:PORT" or "[::1]:PORT"; port 0 takes a free one. ret_address
 * gets what it is. */
int listen_tcp(const char *text, char ret_address[ADDRESS_SIZE], struct error *err);

/* A socket that the service manager opened for us (sd_listen_fds(3)). */
struct inherited {
    int fd;
    bool tcp;
    char address[128]; /* path or "127.0.0.1:8080" */
};
/* How many there are; -1 when that can't be told. They are for this process alone from then on. */
int listen_inherited(struct error *err);
/* The i-th of them: -1 when it is none that listens for streams on a Unix socket or TCP, or is TCP
 * beyond loopback without `beyond`. */
int listen_inherit(int i, bool beyond, struct inherited *ret, struct error *err);
