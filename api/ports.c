/* Host ports for the sidecars: not taken by a bottle, and free on the host right now.
 *
 * A port is tried as the sidecar will use it: bound with SO_REUSEADDR (old connections in TIME_WAIT
 * are no hindrance; a listener is), then closed again. Another program may still take it before the
 * sidecar binds it; that sidecar then fails by name. The cursor is process-wide, so that a port
 * just given back rests while the range goes around. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/plan.h"
#include "base/util.h"

static _Atomic unsigned cursor; /* the port to begin with; 0: the range's first */

/* 1: free; 0: in use, or not ours to bind; -1: could not be tried (errno). */
static int bindable(unsigned loopback, uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK + (loopback << 8))}};
    CLEANUP_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0)
        return -1;
    return bind(fd, (const struct sockaddr *)&address, sizeof address) == 0;
}

int ports_pick(unsigned loopback, uint16_t first, uint16_t last, size_t count, port_taken *taken,
               void *context, uint16_t *ret, struct error *err)
{
    unsigned range = last >= first && first > 0 ? (unsigned)last - first + 1 : 0;
    unsigned start = atomic_load(&cursor);
    CLEANUP_FREE uint16_t *found = calloc(count + 1, sizeof *found);
    size_t n_found = 0;

    if (!found)
        return error_set(err, NULL, "memory is short");
    if (start < first || start > last)
        start = first;
    for (unsigned i = 0; i < range && n_found < count; i++) {
        uint16_t port = (uint16_t)(first + (start - first + i) % range);
        if (taken(port, context))
            continue;
        int free_now = bindable(loopback, port);
        if (free_now < 0)
            return error_errno(err, NULL, "no socket to try host port %u with", port);
        if (free_now)
            found[n_found++] = port;
    }
    if (n_found < count)
        return error_set(err, "no-free-port",
                         "%zu host ports are needed and %zu are free among %u-%u (host_ports)",
                         count, n_found, first, last);
    if (count > 0) {
        memcpy(ret, found, count * sizeof *ret);
        atomic_store(&cursor, found[count - 1] == last ? 0u : found[count - 1] + 1u);
    }
    return 0;
}
