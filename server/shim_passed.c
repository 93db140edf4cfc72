/* Packets to a supervisor that take a descriptor along (shim/protocol.h). */
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "server/shim_client.h"

/* One packet with a descriptor beside it. */
static int send_with(int fd, const char *packet, int length, int passed, struct error *err)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {.iov_base = (void *)(uintptr_t)packet, .iov_len = (size_t)length};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &passed, sizeof passed);
    if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != length)
        return error_errno(err, NULL, "writing to the supervisor");
    return 0;
}

int shim_egress(int fd, int64_t id, const json_t *egress, struct error *err)
{
    CLEANUP_FREE char *text = json_text(egress);
    char packet[64];
    CLEANUP_CLOSE int memory = text ? memfd_create("bottle-egress", MFD_CLOEXEC) : -1;

    if (memory < 0 || write_all(memory, text, strlen(text)) < 0 || lseek(memory, 0, SEEK_SET) < 0)
        return error_errno(err, NULL, "the new egress");
    int length = snprintf(packet, sizeof packet, "{\"op\":\"egress\",\"id\":%lld}", (long long)id);
    return send_with(fd, packet, length, memory, err);
}

int shim_secrets(int fd, int64_t id, int signal, int secrets, struct error *err)
{
    char packet[96];
    int length = snprintf(packet, sizeof packet, "{\"op\":\"secrets\",\"id\":%lld,\"signal\":%d}",
                          (long long)id, signal);

    return send_with(fd, packet, length, secrets, err);
}

int shim_exec(int fd, const char *id, int stream, struct error *err)
{
    char packet[96];
    int length = snprintf(packet, sizeof packet, "{\"op\":\"exec\",\"id\":\"%s\"}", id);

    return send_with(fd, packet, length, stream, err);
}
