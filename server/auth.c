#include "server/auth.h"

#include <fcntl.h>
#include <nettle/memops.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

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

bool auth_token_fits(const struct auth *auth, const char *authorization)
{
    static const char scheme[] = "Bearer ";
    char digest[SHA256_HEX_SIZE];

    if (!auth->has_token || !authorization ||
        strncasecmp(authorization, scheme, sizeof scheme - 1) != 0)
        return false;
    const char *token = authorization + sizeof scheme - 1;
    token += strspn(token, " ");
    /* Digests are compared, so that neither the length nor the first wrong byte shows in the time
     * taken. */
    sha256_hex(token, strlen(token), digest);
    return memeql_sec(digest, auth->token_digest, sizeof digest - 1) == 1;
}

bool auth_peer_fits(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || size != sizeof peer)
        return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

bool auth_host_fits(const char *address, const char *host)
{
    const char *port = strrchr(address, ':');
    char local[32];

    if (!host || !port)
        return false;
    (void)snprintf(local, sizeof local, "localhost%s", port);
    if (strcasecmp(host, address) == 0 || strcasecmp(host, local) == 0)
        return true;
    if (strcmp(port, ":80") != 0)
        return false;
    /* The port of the scheme may be left out. */
    size_t length = (size_t)(port - address);
    return strcasecmp(host, "localhost") == 0 ||
           (strlen(host) == length && strncasecmp(host, address, length) == 0);
}
