#include "server/auth.h"

#include <fcntl.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/number.h"
#include "base/util.h"

enum { TOKEN_MIN = 16, TOKEN_MAX = 512 };

/* The first line of an open file, without its end; what is wrong otherwise. */
static int read_token(int fd, const char *path, char ret[TOKEN_MAX + 2], struct error *err)
{
    ssize_t got = read(fd, ret, TOKEN_MAX + 1);

    if (got < 0)
        return error_errno(err, NULL, "token_file %s", path);
    ret[got] = '\0';
    ret[strcspn(ret, "\r\n")] = '\0';
    size_t length = strlen(ret);
    for (size_t i = 0; i < length; i++)
        if (ret[i] <= 0x20 || ret[i] >= 0x7f)
            return error_set(
                err, NULL, "token_file %s: the token may hold visible ASCII characters only", path);
    if (length < TOKEN_MIN || length > TOKEN_MAX)
        return error_set(err, NULL,
                         "token_file %s: the first line has to be a token of %d to %d characters",
                         path, TOKEN_MIN, TOKEN_MAX);
    return 0;
}

int auth_load(const char *token_file, struct auth *ret, struct error *err)
{
    char token[TOKEN_MAX + 2];
    struct stat status;

    if (!token_file || !*token_file) {
        *ret = (struct auth){0};
        return 0;
    }
    CLEANUP_CLOSE int fd = open(token_file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &status) < 0)
        return error_errno(err, NULL, "token_file %s", token_file);
    if (!S_ISREG(status.st_mode))
        return error_set(err, NULL, "token_file %s is not a regular file", token_file);
    if (status.st_mode & 0077 || (status.st_uid != 0 && status.st_uid != geteuid()))
        return error_set(err, NULL, "token_file %s has to be yours and for nobody else (chmod 600)",
                         token_file);
    if (read_token(fd, token_file, token, err) < 0)
        return -1;
    ret->has_token = true;
    sha256_hex(token, strlen(token), ret->token_digest);
    explicit_bzero(token, sizeof token);
    return 0;
}

const char *auth_bearer(const char *authorization)
{
    static const char scheme[] = "Bearer ";

    if (!authorization || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0)
        return NULL;
    const char *token = authorization + sizeof scheme - 1;
    return token + strspn(token, " ");
}

/* --- Unix peers ----------------------------------------------------------------------------- */

int unix_group_find(const char *name, struct unix_group *ret, struct error *err)
{
    int64_t number;

    *ret = (struct unix_group){0};
    if (!name || !*name)
        return 0;
    const struct group *group = getgrnam(name);
    if (!group && number_parse(name, 0, UINT32_MAX - 1, &number) < 0)
        return error_set(err, NULL, "socket_group: there is no group \"%s\" on this machine", name);
    ret->used = true;
    ret->gid = group ? group->gr_gid : (gid_t)number;
    return 0;
}

/* Had the peer that group among its own when it connected? */
static bool is_member(int fd, const struct unix_peer *peer, gid_t gid)
{
    gid_t groups[1024];
    socklen_t size = sizeof groups;

    if (peer->gid == gid)
        return true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
        return false;
    for (size_t i = 0; i < size / sizeof *groups; i++)
        if (groups[i] == gid)
            return true;
    return false;
}

bool auth_peer(int fd, struct unix_peer *ret)
{
    struct ucred peer;
    socklen_t size = sizeof peer;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || size != sizeof peer)
        return false;
    *ret = (struct unix_peer){.uid = peer.uid, .gid = peer.gid};
    (void)snprintf(ret->name, sizeof ret->name, "%u", peer.uid);
    return true;
}

enum role auth_peer_role(int fd, const struct unix_peer *peer, const struct unix_group *group)
{
    if (peer->uid == 0 || peer->uid == geteuid())
        return ROLE_ADMIN;
    return group->used && is_member(fd, peer, group->gid) ? group->role : ROLE_NONE;
}
