/* Listening sockets. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

/* A listening Unix socket at `path`, for its owner only (0600). A socket that nobody answers on is
 * replaced; one that is answered on, or anything that is no socket, is an error. Descriptor or -1;
 * *ret_inode tells ours from a later one. */
int listen_unix(const char *path, ino_t *ret_inode, struct error *err);
/* Removes the socket at `path` if it is still that one. */
void listen_unlink(const char *path, ino_t inode);
/* A listening TCP socket at "127.0.0.1:PORT" or "[::1]:PORT"; port 0 takes a free one. ret_address
 * gets what it is. */
int listen_tcp(const char *address, char *ret_address, size_t size, struct error *err);
