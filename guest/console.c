#include "guest/console.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static int console_fd = -1;

void console_open(void)
{
    int fd;

    if (console_fd < 0) {
        fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        /* The lowest three are left to whatever stands for stdin, stdout and stderr. */
        console_fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (fd > 2)
            (void)close(fd);
    }
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < 2);
    if (fd > 2)
        (void)close(fd);
}

void console_say(const char *format, ...)
{
    static const char prefix[] = "bottled: ";
    char line[512] = "bottled: ";
    const size_t at = sizeof prefix - 1;
    va_list args;

    va_start(args, format);
    int length = vsnprintf(line + at, sizeof line - at - 1, format, args);
    va_end(args);
    if (length < 0 || console_fd < 0)
        return;
    size_t end = at + (size_t)length;
    if (end > sizeof line - 2)
        end = sizeof line - 2;
    line[end++] = '\n';
    if (write(console_fd, line, end) < 0)
        return; /* there is nowhere to say it */
}

void console_drain(void)
{
    int left = 0;

    for (int i = 0; i < 50 && console_fd >= 0; i++) {
        if (ioctl(console_fd, TIOCOUTQ, &left) < 0 || left <= 0)
            return;
        (void)poll(NULL, 0, 10);
    }
}
