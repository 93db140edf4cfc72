#include "server/config_paths.h"

#include <limits.h>
#include <pwd.h>
#include <stdio.h>

#include "base/text.h"
#include "base/util.h"

char *path_absolute(const char *path)
{
    char *ret = NULL;

    if (*path == '/' || *path == '\0')
        return strdup(path);
    CLEANUP_FREE char *here = getcwd(NULL, 0);
    if (!here || asprintf(&ret, "%s/%s", here, path) < 0)
        return NULL;
    return ret;
}

/* Is `folder` one of the first `end` bytes of a colon-separated list? */
static bool listed(const char *list, const char *folder)
{
    size_t length = strlen(folder);

    for (const char *item = list; item && *item; item += strcspn(item, ":"), item += *item == ':')
        if (strcspn(item, ":") == length && strncmp(item, folder, length) == 0)
            return true;
    return false;
}

char *paths_absolute(const char *paths)
{
    CLEANUP_TEXT struct text out = TEXT_INIT;

    for (const char *item = paths; *item; item += strcspn(item, ":"), item += *item == ':') {
        CLEANUP_FREE char *folder = strndup(item, strcspn(item, ":"));
        CLEANUP_FREE char *absolute = folder ? path_absolute(folder) : NULL;
        if (!absolute)
            return NULL;
        if (*absolute && !listed(out.data, absolute))
            text_addf(&out, "%s%s", out.length ? ":" : "", absolute);
    }
    return text_take(&out);
}

/* Fills *field with "base/name" where it has no value yet. */
static int fill(char **field, const char *base, const char *name, struct error *err)
{
    char *made = NULL;

    if (*field && **field)
        return 0;
    if (asprintf(&made, "%s/%s", base, name) < 0)
        return error_set(err, NULL, "out of memory");
    free(*field);
    *field = made;
    return 0;
}

static int fill_as_root(struct config *config, struct error *err)
{
    if (fill(&config->state_dir, "/var/lib", "bottled", err) < 0)
        return -1;
    return fill(&config->run_dir, "/run", "bottled", err);
}

static int fill_as_user(struct config *config, struct error *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *run = getenv("XDG_RUNTIME_DIR"),
               *home = getenv("HOME");
    char name[32];

    if (!home || *home != '/') {
        const struct passwd *user = getpwuid(geteuid());
        home = user ? user->pw_dir : "/";
    }
    int result = state && *state == '/'
                     ? fill(&config->state_dir, state, "bottled", err)
                     : fill(&config->state_dir, home, ".local/state/bottled", err);
    if (result < 0)
        return -1;
    if (run && *run == '/' && access(run, W_OK | X_OK) == 0)
        return fill(&config->run_dir, run, "bottled", err);
    /* Sessions without a runtime directory; main.c insists that it is ours alone. */
    (void)snprintf(name, sizeof name, "bottled-%u", geteuid());
    return fill(&config->run_dir, "/tmp", name, err);
}

/* The folder of the running program; -1 when the kernel does not say. */
static int own_folder(char ret[PATH_MAX])
{
    ssize_t length = readlink("/proc/self/exe", ret, PATH_MAX - 1);

    if (length <= 0)
        return -1;
    ret[length] = '\0';
    char *slash = strrchr(ret, '/');
    if (!slash)
        return -1;
    *slash = '\0';
    return 0;
}

static int fill_tools(struct config *config, const char *exe, struct error *err)
{
    const char *path = getenv("PATH");
    CLEANUP_TEXT struct text folders = TEXT_INIT;
    CLEANUP_FREE char *all = NULL;

    if (config->tools_path && *config->tools_path) {
        text_add(&folders, config->tools_path);
    } else {
        const char *slash = strrchr(exe, '/');
        text_addf(&folders, "%.*s/.tools/bin", slash ? (int)(slash - exe) : 0, exe);
    }
    text_addf(&folders, ":%s",
              path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if (folders.failed || !(all = paths_absolute(folders.data)))
        return error_set(err, NULL, "out of memory");
    free(config->tools_path);
    config->tools_path = strdup(all);
    return config->tools_path ? 0 : error_set(err, NULL, "out of memory");
}

int config_fill_paths(struct config *config, struct error *err)
{
    char exe[PATH_MAX];

    if (own_folder(exe) < 0)
        return error_errno(err, NULL, "/proc/self/exe");
    if ((geteuid() == 0 ? fill_as_root : fill_as_user)(config, err) < 0)
        return -1;
    if (fill(&config->socket, config->run_dir, "bottled.sock", err) < 0 ||
        fill(&config->libexec_dir, exe, "", err) < 0)
        return -1;
    /* The folder itself was wanted, without the slash. */
    size_t length = strlen(config->libexec_dir);
    if (length > 1 && config->libexec_dir[length - 1] == '/')
        config->libexec_dir[length - 1] = '\0';
    if (fill(&config->guest_dir, config->libexec_dir, "guest", err) < 0 ||
        fill(&config->openapi_file, config->libexec_dir, "openapi.yaml", err) < 0 ||
        fill(&config->docs_dir, config->libexec_dir, "docs", err) < 0)
        return -1;
    return fill_tools(config, exe, err);
}
