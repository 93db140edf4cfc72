/* Descriptors that come by a socket. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"

/* More descriptors than there is room for are closed: not kept, and not written past the end. */
Test(descriptors, that_are_too_many)
{
    union {
        char bytes[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr header;
    } control = {.bytes = {0}};
    struct iovec data = {.iov_base = "x", .iov_len = 1};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    int pair[2], pipes[2], got[4] = {-1, -1, -1, -1};
    char byte;
    size_t count;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_eq(pipe2(pipes, O_NONBLOCK), 0);
    const int sent[4] = {pipes[1], pipes[1], pipes[1], pipes[1]};
    control.header = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof sent), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), sent, sizeof sent);
    cr_assert_eq(sendmsg(pair[0], &message, 0), 1);
    cr_assert_eq(receive_descriptors(pair[1], &byte, 1, got, 3, &count), 1);
    cr_expect_eq(count, 3);
    cr_expect_eq(got[3], -1);
    for (size_t i = 0; i < count; i++)
        (void)close(got[i]);
    (void)close(pipes[1]);
    cr_expect_eq(read(pipes[0], &byte, 1), 0, "nobody has the other end any more");
    (void)close(pipes[0]);
    (void)close(pair[0]);
    (void)close(pair[1]);
}
