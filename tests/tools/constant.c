/* A bare libmicrohttpd that answers everything with one text: the limit that bottled's own calls
 * are compared with.
 *
 *   constant SOCKET FILE [NAME VALUE]...
 *
 * The text is FILE's, with these headers. Ends at SIGTERM. */
#include <errno.h>
#include <microhttpd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/file.h"

enum { TEXT_MAX = 1 << 20, THREADS = 2, BACKLOG = 128 };

static struct MHD_Response *answer;

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state)
{
    (void)context, (void)url, (void)method, (void)version, (void)upload;
    if (!*state) { /* the headers; a body may follow */
        *state = answer;
        return MHD_YES;
    }
    *upload_size = 0;
    return MHD_queue_response(connection, MHD_HTTP_OK, answer);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(fd, BACKLOG) < 0)
        return -1;
    return fd;
}

int main(int argc, char **argv)
{
    struct error err = ERROR_INIT;
    size_t length;
    sigset_t ends;
    int signal_number;

    if (argc < 3 || argc % 2 == 0) {
        fprintf(stderr, "usage: constant SOCKET FILE [NAME VALUE]...\n");
        return 2;
    }
    (void)sigemptyset(&ends);
    (void)sigaddset(&ends, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &ends, NULL);
    char *text = file_read(argv[2], TEXT_MAX, &length, &err);
    int fd = listen_at(argv[1]);
    if (!text || fd < 0) {
        fprintf(stderr, "constant: %s\n", text ? strerror(errno) : err.text);
        return 1;
    }
    answer = MHD_create_response_from_buffer(length, text, MHD_RESPMEM_PERSISTENT);
    for (int i = 3; i < argc; i += 2)
        if (MHD_add_response_header(answer, argv[i], argv[i + 1]) != MHD_YES) {
            fprintf(stderr, "constant: %s is no header\n", argv[i]);
            return 2;
        }
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, on_request, NULL, MHD_OPTION_LISTEN_SOCKET,
        fd, MHD_OPTION_THREAD_POOL_SIZE, THREADS, MHD_OPTION_END);
    if (!daemon) {
        fprintf(stderr, "constant: libmicrohttpd does not start\n");
        return 1;
    }
    printf("ready\n");
    (void)fflush(stdout);
    (void)sigwait(&ends, &signal_number);
    MHD_stop_daemon(daemon);
    return 0;
}
