#include "guest/secrets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/util.h"
#include "guest/user.h"

enum { NAME_MAX_BYTES = 256 };

static void free_strings(char **strings)
{
    for (char **at = strings; at && *at; at++)
        free(*at);
    free(strings);
}

/* Copies, without one newline at the end of each when `cut`. NULL: no memory. */
static char **copy_strings(char *const *strings, uint32_t count, bool cut)
{
    char **ret = calloc((size_t)count + 1, sizeof *ret);

    for (uint32_t i = 0; ret && i < count; i++) {
        size_t length = strlen(strings[i]);
        if (cut && strings[i][length - 1] == '\n')
            length--;
        if (!(ret[i] = strndup(strings[i], length))) {
            free_strings(ret);
            return NULL;
        }
    }
    return ret;
}

/* One file, all of it or the old one. The folder is root's alone: nobody plants a link there. */
static int write_one(const struct secrets *secrets, const char *item, struct error *err)
{
    const char *value = strchr(item, '=') + 1;
    char name[NAME_MAX_BYTES + 1], fresh[NAME_MAX_BYTES + 8];
    size_t length = strlen(value);

    if ((size_t)snprintf(name, sizeof name, "%.*s", (int)(value - 1 - item), item) >= sizeof name ||
        strchr(name, '/') || name[0] == '.')
        return error_set(err, NULL, "a secret's name is none");
    /* A name has no dot. */
    (void)snprintf(fresh, sizeof fresh, ".new.%.250s", name);
    (void)unlinkat(secrets->folder, fresh, 0);
    CLEANUP_CLOSE int fd =
        openat(secrets->folder, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);
    if (fd < 0 || write_all(fd, value, length) < 0 || fchown(fd, secrets->uid, secrets->gid) < 0 ||
        renameat(secrets->folder, fresh, secrets->folder, name) < 0)
        return error_errno(err, NULL, "writing " SECRETS_DIR "/%.64s", name);
    return 0;
}

static int write_all_of(const struct secrets *secrets, char *const *items, struct error *err)
{
    for (char *const *at = items; *at; at++)
        if (write_one(secrets, *at, err) < 0)
            return -1;
    return 0;
}

int secrets_take(struct secrets *secrets, const struct secrets_message *message, struct error *err)
{
    char **items = copy_strings(message->items, message->count, false);
    char **env = copy_strings(message->items, message->count, true);

    if (!items || !env) {
        free_strings(items);
        free_strings(env);
        return error_set(err, NULL, "the guest's memory is short");
    }
    if (secrets->folder >= 0 && write_all_of(secrets, items, err) < 0) {
        free_strings(items);
        free_strings(env);
        return -1;
    }
    free_strings(secrets->items);
    free_strings(secrets->env);
    secrets->items = items;
    secrets->env = env;
    secrets->count = message->count;
    return 0;
}

int secrets_place(struct secrets *secrets, const char *user, struct error *err)
{
    struct user owner = {0};

    if (secrets->count == 0)
        return 0;
    /* One that does not exist is the command's fault, and told as that. */
    if (user_resolve("/etc", user, &owner, NULL) == 0) {
        secrets->uid = owner.uid;
        secrets->gid = owner.gid;
    }
    if (mkdir(SECRETS_DIR, 0755) < 0 && errno != EEXIST)
        return error_errno(err, NULL, "making " SECRETS_DIR);
    if (mount("tmpfs", SECRETS_DIR, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "mode=0755,size=2m") < 0)
        return error_errno(err, NULL, "mounting memory at " SECRETS_DIR);
    secrets->folder = open(SECRETS_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (secrets->folder < 0)
        return error_errno(err, NULL, "opening " SECRETS_DIR);
    return write_all_of(secrets, secrets->items, err);
}

/* ── environments ── */

static bool same_name(const char *a, const char *b)
{
    size_t length = strcspn(a, "=");

    return strncmp(a, b, length) == 0 && b[length] == '=';
}

/* Takes out what has this one's name. */
static void drop_name(char **env, size_t *count, const char *variable)
{
    size_t kept = 0;

    for (size_t i = 0; i < *count; i++)
        if (!same_name(variable, env[i]))
            env[kept++] = env[i];
    *count = kept;
}

char **secrets_environment(const struct secrets *secrets, const struct start_message *start,
                           char *const *more, uint32_t n_more)
{
    size_t count = start->n_env;
    char **env = calloc(count + secrets->count + n_more + 1, sizeof *env);

    if (!env)
        return NULL;
    for (size_t i = 0; i < count; i++)
        env[i] = start->env[i];
    for (uint32_t i = 0; i < secrets->count; i++)
        drop_name(env, &count, secrets->env[i]);
    for (uint32_t i = 0; i < secrets->count; i++)
        env[count++] = secrets->env[i];
    for (uint32_t i = 0; i < n_more; i++)
        drop_name(env, &count, more[i]);
    for (uint32_t i = 0; i < n_more; i++)
        env[count++] = more[i];
    env[count] = NULL;
    return env;
}
