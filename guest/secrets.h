/* The bottle's secrets in the guest: variables of every program that starts, and files in
 * SECRETS_DIR, which is memory of its own: never on the bottle's disk.
 *
 * A file has the value byte for byte; a variable lacks one newline at its end, which editors and
 * echo leave there. */
#pragma once

#include "base/error.h"
#include "guest/protocol.h"

#define SECRETS_DIR "/run/secrets"

struct secrets {
    char **items, **env; /* NAME=value as they came, and as variables; owned */
    uint32_t count;
    int folder; /* SECRETS_DIR; -1: it is not there yet */
    unsigned uid, gid;
};

#define SECRETS_INIT                                                                               \
    {                                                                                              \
        .folder = -1                                                                               \
    }

/* Takes those of a frame in place of what is there, and once SECRETS_DIR is there writes them: each
 * file is replaced at once. -1: as before, though some files may be new. */
int secrets_take(struct secrets *secrets, const struct secrets_message *message, struct error *err);
/* Makes SECRETS_DIR for the image's user (as in START) and writes them; nothing when there are
 * none. In the bottle's root. */
int secrets_place(struct secrets *secrets, const char *user, struct error *err);
/* The variables of START, the secrets over them, then `more` (`n_more` of them) over both; the
 * strings are borrowed. One allocation, NULL when memory is short. */
char **secrets_environment(const struct secrets *secrets, const struct start_message *start,
                           char *const *more, uint32_t n_more);
