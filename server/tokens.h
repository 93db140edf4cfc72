/* Bearer tokens: who may call over TCP.
 *
 * They lie in `tokens.json` in the state directory, for its owner only: name, role, times, and the
 * SHA-256 of the value. The value is 32 random bytes, shown once and kept nowhere; such a one can't
 * be guessed from its digest, so a slow hash would add nothing. `bottled token` changes the file
 * beside a running daemon: under a lock of its own, and always by a new file in the old one's
 * place. The daemon looks at the file's identity before it believes what it read (watch_refresh),
 * so that what was revoked is refused from the next request on. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/hash.h"
#include "server/access.h"

#define TOKEN_FILE_NAME "token-file" /* the name of the configuration's token_file; reserved */

enum { TOKENS_MAX = 256, TOKEN_VALUE_SIZE = 68 };

struct token {
    char name[IDENTITY_NAME_SIZE];
    enum role role;
    char digest[SHA256_HEX_SIZE];
    int64_t created_ms, expires_ms; /* wall clock; expires 0: never */
};

struct tokens {
    struct token rows[TOKENS_MAX];
    size_t count;
};

/* Lower-case letters, digits, ".", "_" and "-", 64 at most, none of the last three first. */
bool token_name_valid(const char *name);
/* Reads the file of that state directory; none is no tokens. */
int tokens_read(const char *state_dir, struct tokens *ret, struct error *err);
/* Adds one and gives its value. -1: the name is taken, there are too many, or it can't be written.
 */
int token_create(const char *state_dir, const char *name, enum role role, int64_t expires_ms,
                 char ret_value[TOKEN_VALUE_SIZE], struct error *err);
/* Removes it; -1 with kind "not-found" when there is none of that name. */
int token_revoke(const char *state_dir, const char *name, struct error *err);

/* The row with that digest, or NULL. Takes as long for every digest that is none. */
const struct token *token_find(const struct token *rows, size_t count,
                               const char digest[SHA256_HEX_SIZE]);
const struct token *token_named(const struct tokens *tokens, const char *name);
bool token_expired(const struct token *token, int64_t wall_ms);

/* The file as a daemon sees it. Not safe for threads by itself. */
struct token_watch {
    char *path;
    int fd; /* of what was read, kept open so that its inode is no other file's; -1: none */
    struct stat seen;
    bool faulty; /* it could not be read: said once, and no token of it holds */
    struct tokens tokens;
};
int watch_open(struct token_watch *watch, const char *state_dir, struct error *err);
/* Reads the file again if it is another than the one that was read. */
void watch_refresh(struct token_watch *watch);
void watch_close(struct token_watch *watch);
