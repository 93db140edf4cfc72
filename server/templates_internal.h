/* What the templates' files share: the table and its entries. One lock guards the table; it is held
 * for looks and small changes only. */
#pragma once

#include <pthread.h>

#include "base/hash.h"
#include "server/templates.h"

#define TEMPLATES_FOLDER "templates"
#define TEMPLATE_UNFINISHED ".making"
#define TEMPLATE_RAM_FILE "ram"
#define TEMPLATE_STATE_FILE "state"
#define TEMPLATE_FACTS_FILE "made-from"

enum { TEMPLATE_TRIES = 3, TEMPLATE_WORDS = 256, TEMPLATE_FACTS_MAX = 64 * 1024 };

enum template_state { TEMPLATE_NONE, TEMPLATE_WANTED, TEMPLATE_MAKING, TEMPLATE_READY };

struct template_entry {
    struct template_entry *next;
    char key[SHA256_HEX_SIZE];
    enum template_state state;
    int64_t bytes, used_ms;      /* of one that is ready */
    unsigned failures;           /* makings and restores, since the daemon's start */
    char reason[TEMPLATE_WORDS]; /* of the last of them */
    struct plan_ref *plan;       /* of one that is wanted */
    int64_t due_ms;              /* when it is to be made; monotonic */
};

struct templates {
    struct app *app;
    char *folder;
    int cancel;           /* readable once the thread is to end */
    pthread_mutex_t lock; /* all below */
    pthread_cond_t wake;
    pthread_t thread;
    bool runs, ending;
    struct template_entry *first;
};

/* Under the lock. */
struct template_entry *template_find(struct templates *templates, const char *key);
/* Its folder is removed; under the lock. */
void template_drop(struct templates *templates, struct template_entry *entry, const char *why);
/* Drops what the facts no longer fit, and then what is over the bound, but for `keep`. */
void templates_sweep(struct templates *templates, const char *keep);
/* Bytes that a template's folder takes on the disk. */
int64_t template_bytes(const char *directory);
/* templates_make.c: makes one in the folder, as `key`. */
int template_make(struct templates *templates, const struct plan *plan, const char *key,
                  const char *facts, struct error *err);
