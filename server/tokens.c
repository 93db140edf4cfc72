#include "server/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <nettle/memops.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "server/log.h"

#define FILE_NAME "tokens.json"

enum { FILE_MAX = 256 * 1024, PATH_SIZE = 512, RANDOM_BYTES = 32 };

static const char name_characters[] = "abcdefghijklmnopqrstuvwxyz0123456789-._";

bool token_name_valid(const char *name)
{
    size_t length = strspn(name, name_characters);

    return length > 0 && name[length] == '\0' && length < IDENTITY_NAME_SIZE &&
           !strchr("-._", name[0]);
}

/* --- The rows as JSON ---------------------------------------------------------------------- */

static int decode_row(const json_t *object, struct token *ret)
{
    const char *name = json_member_string(object, "name");
    const char *role = json_member_string(object, "role");
    const char *digest = json_member_string(object, "sha256");

    if (!name || !token_name_valid(name) || !role || role_parse(role) == ROLE_NONE || !digest ||
        strlen(digest) != SHA256_HEX_SIZE - 1)
        return -1;
    *ret = (struct token){.role = role_parse(role),
                          .created_ms = json_member_integer(object, "created_ms", 0),
                          .expires_ms = json_member_integer(object, "expires_ms", 0)};
    (void)snprintf(ret->name, sizeof ret->name, "%s", name);
    (void)snprintf(ret->digest, sizeof ret->digest, "%s", digest);
    return 0;
}

static int decode(const char *text, size_t length, struct tokens *ret, struct error *err)
{
    CLEANUP_JSON json_t *root = json_parse(text, length, err);
    const json_t *rows = json_object_get(root, "tokens");
    size_t count = json_array_size(rows);

    if (!root)
        return -1;
    if (!json_is_array(rows) || count > TOKENS_MAX)
        return error_set(err, NULL, "there is no list \"tokens\" of at most %d", TOKENS_MAX);
    ret->count = 0;
    for (size_t i = 0; i < count; i++)
        if (decode_row(json_array_get(rows, i), &ret->rows[ret->count++]) < 0)
            return error_set(err, NULL, "token %zu is not valid", i + 1);
    return 0;
}

static char *encode(const struct tokens *tokens)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < tokens->count; i++) {
        const struct token *token = &tokens->rows[i];
        (void)json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:I, s:I}", "name",
                                                    token->name, "role", role_names[token->role],
                                                    "sha256", token->digest, "created_ms",
                                                    (json_int_t)token->created_ms, "expires_ms",
                                                    (json_int_t)token->expires_ms));
    }
    CLEANUP_JSON json_t *root = json_pack("{s:o}", "tokens", rows);
    return json_text(root);
}

/* --- The file ------------------------------------------------------------------------------- */

/* An open file that nobody but root and the owner of the state directory can have written or read;
 * what it is goes to *ret_status. */
static int open_file(const char *path, uid_t owner, struct stat *ret_status, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0 || fstat(fd, ret_status) < 0)
        return error_errno(err, errno == ENOENT ? "not-found" : NULL, "%s", path);
    if (!S_ISREG(ret_status->st_mode) || ret_status->st_mode & 0077 ||
        (ret_status->st_uid != 0 && ret_status->st_uid != owner))
        return error_set(err, NULL, "%s has to be a file of bottled's user and for nobody else",
                         path);
    return steal_fd(&fd);
}

static int read_open(int fd, const char *path, struct tokens *ret, struct error *err)
{
    size_t length;
    CLEANUP_FREE char *text = file_read_open(fd, path, FILE_MAX, &length, err);

    if (!text)
        return -1;
    return decode(text, length, ret, err) < 0 ? error_wrap(err, "%s", path) : 0;
}

static int path_of(const char *state_dir, const char *name, char ret[PATH_SIZE], struct error *err)
{
    if (snprintf(ret, PATH_SIZE, "%s/%s", state_dir, name) >= PATH_SIZE)
        return error_set(err, NULL, "%s: the path is too long", state_dir);
    return 0;
}

int tokens_read(const char *state_dir, struct tokens *ret, struct error *err)
{
    char path[PATH_SIZE];
    struct stat status, folder;
    struct error why = ERROR_INIT;

    ret->count = 0;
    if (path_of(state_dir, FILE_NAME, path, err) < 0)
        return -1;
    if (stat(state_dir, &folder) < 0)
        return error_errno(err, NULL, "%s", state_dir);
    CLEANUP_CLOSE int fd = open_file(path, folder.st_uid, &status, &why);
    if (fd >= 0)
        return read_open(fd, path, ret, err);
    if (why.kind && strcmp(why.kind, "not-found") == 0)
        return 0;
    if (err)
        *err = why;
    return -1;
}

/* Writes the file for the owner of the state directory (`held`), whoever we are. */
static int write_file(const char *state_dir, int held, const struct tokens *tokens,
                      struct error *err)
{
    CLEANUP_FREE char *text = encode(tokens);
    char path[PATH_SIZE], fresh[PATH_SIZE];
    struct stat folder;

    if (!text)
        return error_set(err, NULL, "out of memory");
    if (path_of(state_dir, FILE_NAME, path, err) < 0 ||
        path_of(state_dir, "." FILE_NAME ".new", fresh, err) < 0)
        return -1;
    if (stat(state_dir, &folder) < 0)
        return error_errno(err, NULL, "%s", state_dir);
    if (file_write(fresh, text, strlen(text), 0600, true, err) < 0)
        return -1;
    if ((folder.st_uid != geteuid() && lchown(fresh, folder.st_uid, folder.st_gid) < 0) ||
        rename(fresh, path) < 0) {
        error_errno(err, NULL, "%s", path);
        (void)unlink(fresh);
        return -1;
    }
    return fsync(held) < 0 ? error_errno(err, NULL, "%s", state_dir) : 0;
}

/* The directory's own lock, held while the file is read, changed and written. */
static int lock(const char *state_dir, struct error *err)
{
    CLEANUP_CLOSE int fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return error_errno(err, NULL, "%s", state_dir);
    return steal_fd(&fd);
}

int token_create(const char *state_dir, const char *name, enum role role, int64_t expires_ms,
                 char ret_value[TOKEN_VALUE_SIZE], struct error *err)
{
    unsigned char random[RANDOM_BYTES];
    struct tokens tokens;

    if (!token_name_valid(name) || strcmp(name, TOKEN_FILE_NAME) == 0)
        return error_set(err, NULL,
                         "a name has 1 to %d of a-z, 0-9, \".\", \"_\" and \"-\", starts with a "
                         "letter or digit, and is not \"" TOKEN_FILE_NAME "\"",
                         IDENTITY_NAME_SIZE - 1);
    CLEANUP_CLOSE int held = lock(state_dir, err);
    if (held < 0 || tokens_read(state_dir, &tokens, err) < 0)
        return -1;
    if (token_named(&tokens, name))
        return error_set(err, NULL, "there is a token \"%s\" already; revoke it first", name);
    if (tokens.count == TOKENS_MAX)
        return error_set(err, NULL, "there are %d tokens already; revoke one first", TOKENS_MAX);
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return error_errno(err, NULL, "no random bytes");
    size_t length = (size_t)snprintf(ret_value, TOKEN_VALUE_SIZE, "bt_");
    for (size_t i = 0; i < sizeof random; i++)
        length +=
            (size_t)snprintf(ret_value + length, TOKEN_VALUE_SIZE - length, "%02x", random[i]);
    explicit_bzero(random, sizeof random);
    struct token *token = &tokens.rows[tokens.count++];
    *token = (struct token){.role = role, .created_ms = clock_wall_ms(), .expires_ms = expires_ms};
    (void)snprintf(token->name, sizeof token->name, "%s", name);
    sha256_hex(ret_value, length, token->digest);
    return write_file(state_dir, held, &tokens, err);
}

int token_revoke(const char *state_dir, const char *name, struct error *err)
{
    struct tokens tokens;
    CLEANUP_CLOSE int held = lock(state_dir, err);

    if (held < 0 || tokens_read(state_dir, &tokens, err) < 0)
        return -1;
    for (size_t i = 0; i < tokens.count; i++) {
        if (strcmp(tokens.rows[i].name, name) != 0)
            continue;
        memmove(&tokens.rows[i], &tokens.rows[i + 1], (--tokens.count - i) * sizeof *tokens.rows);
        return write_file(state_dir, held, &tokens, err);
    }
    return error_set(err, "not-found", "there is no token \"%s\"; bottled token list shows all",
                     name);
}

/* --- Rows ----------------------------------------------------------------------------------- */

const struct token *token_find(const struct token *rows, size_t count,
                               const char digest[SHA256_HEX_SIZE])
{
    const struct token *found = NULL;

    /* All rows are compared, whole: the time says nothing of how close a digest came. */
    for (size_t i = 0; i < count; i++)
        if (memeql_sec(rows[i].digest, digest, SHA256_HEX_SIZE - 1) == 1)
            found = &rows[i];
    return found;
}

const struct token *token_named(const struct tokens *tokens, const char *name)
{
    for (size_t i = 0; i < tokens->count; i++)
        if (strcmp(tokens->rows[i].name, name) == 0)
            return &tokens->rows[i];
    return NULL;
}

bool token_expired(const struct token *token, int64_t wall_ms)
{
    return token->expires_ms != 0 && wall_ms >= token->expires_ms;
}

/* --- The watch ------------------------------------------------------------------------------ */

int watch_open(struct token_watch *watch, const char *state_dir, struct error *err)
{
    *watch = (struct token_watch){.fd = -1};
    if (asprintf(&watch->path, "%s/" FILE_NAME, state_dir) < 0) {
        watch->path = NULL;
        return error_set(err, NULL, "out of memory");
    }
    watch_refresh(watch);
    return 0;
}

void watch_close(struct token_watch *watch)
{
    if (watch->path && watch->fd >= 0)
        (void)close(watch->fd);
    free(watch->path);
    watch->path = NULL;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mode == b->st_mode && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
           a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

void watch_refresh(struct token_watch *watch)
{
    struct stat now = {0};
    struct error err = ERROR_INIT;
    bool there = lstat(watch->path, &now) == 0;

    if (there ? watch->fd >= 0 && is_same(&now, &watch->seen) : watch->fd < 0 && errno == ENOENT)
        return;
    if (watch->fd >= 0)
        (void)close(watch->fd);
    watch->tokens.count = 0;
    watch->fd = open_file(watch->path, geteuid(), &watch->seen, &err);
    if (watch->fd < 0 && err.kind && strcmp(err.kind, "not-found") == 0)
        return;
    bool faulty = watch->fd < 0 || read_open(watch->fd, watch->path, &watch->tokens, &err) < 0;
    if (faulty)
        watch->tokens.count = 0; /* it holds for nobody, rather than for whoever came first in it */
    if (faulty && !watch->faulty)
        log_event(LEVEL_ERROR, "no token holds until their file can be read",
                  LOG_TEXT("error", err.text));
    else if (!faulty)
        log_event(LEVEL_INFO, "tokens read", LOG_NUMBER("tokens", (int64_t)watch->tokens.count));
    watch->faulty = faulty;
}
