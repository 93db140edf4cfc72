#include "server/secrets.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/file.h"
#include "base/util.h"

#define SECRETS_DIR "/run/secrets" /* in the guest: guest/secrets.h */

struct variable {
    char *name;
    struct secret value; /* no bytes: bottled was started without it */
};

struct secrets {
    const struct config *config;
    struct variable *variables;
    size_t n_variables;
};

/* ── bottled's own environment ── */

/* The kernel shows the bytes of the environment for as long as the process lives: they are wiped
 * where they lie. */
static int take_variable(struct variable *variable, struct error *err)
{
    size_t name_length = strlen(variable->name);

    for (char **entry = environ; entry && *entry; entry++) {
        if (strncmp(*entry, variable->name, name_length) != 0 || (*entry)[name_length] != '=')
            continue;
        char *value = *entry + name_length + 1;
        size_t length = strlen(value);
        if (!variable->value.bytes) { /* the first one counts, as for getenv() */
            if (secret_make(&variable->value, length + 1, err) < 0)
                return -1;
            (void)secret_add(&variable->value, value, length);
        }
        explicit_bzero(value, length);
    }
    (void)unsetenv(variable->name);
    return 0;
}

struct secrets *secrets_new(const struct config *config, struct error *err)
{
    struct secrets *secrets = calloc(1, sizeof *secrets);
    size_t most = strlen(config->secret_env) / 2 + 1;

    if (!secrets || !(secrets->variables = calloc(most, sizeof *secrets->variables)))
        goto no_memory;
    secrets->config = config;
    for (const char *at = config->secret_env; *at; at += strcspn(at, ","), at += *at == ',') {
        size_t length = strcspn(at, ",");
        if (length == 0)
            continue;
        struct variable *variable = &secrets->variables[secrets->n_variables++];
        if (!(variable->name = strndup(at, length)))
            goto no_memory;
        if (take_variable(variable, err) < 0)
            goto failed;
    }
    return secrets;
no_memory:
    error_set(err, NULL, "out of memory");
failed:
    secrets_free(secrets);
    return NULL;
}

void secrets_free(struct secrets *secrets)
{
    if (!secrets)
        return;
    for (size_t i = 0; i < secrets->n_variables; i++) {
        free(secrets->variables[i].name);
        secret_free(&secrets->variables[i].value);
    }
    free(secrets->variables);
    free(secrets);
}

static const struct variable *find_variable(const struct secrets *secrets, const char *name)
{
    for (size_t i = 0; i < secrets->n_variables; i++)
        if (strcmp(secrets->variables[i].name, name) == 0)
            return &secrets->variables[i];
    return NULL;
}

/* ── what the operator allows ── */

/* The root that `path` lies below, in ret_root, and the rest of the path in *ret; -1: none. */
static int find_root(const char *roots, const char *path, char ret_root[PATH_MAX], const char **ret)
{
    for (const char *at = roots; *at; at += strcspn(at, ":"), at += *at == ':') {
        size_t length = strcspn(at, ":");
        while (length > 0 && at[length - 1] == '/')
            length--;
        if (length >= PATH_MAX || strncmp(at, path, length) != 0 || path[length] != '/')
            continue;
        (void)snprintf(ret_root, PATH_MAX, "%.*s/", (int)length, at);
        *ret = path + length + 1;
        return 0;
    }
    return -1;
}

__attribute__((format(printf, 5, 6))) static void fault(struct problem *problem, const char *name,
                                                        const char *member, const char *code,
                                                        const char *format, ...)
{
    CLEANUP_FREE char *parent = field_pointer("/secrets", name);
    CLEANUP_FREE char *pointer = parent ? field_pointer(parent, member) : NULL;
    char words[480];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(words, sizeof words, format, args);
    va_end(args);
    problem_add_fault(problem, pointer ? pointer : "/secrets", code, "%s", words);
}

static bool allowed(const struct secrets *secrets, const char *name, const struct secret_ref *ref,
                    struct problem *problem)
{
    char root[PATH_MAX];
    const char *rest;

    if (ref->from_file && find_root(secrets->config->secret_roots, ref->from_file, root, &rest) < 0)
        fault(problem, name, "from_file", "not-allowed",
              "%.200s lies in no directory that the operator allowed (secret_roots)",
              ref->from_file);
    else if (ref->from_env && !find_variable(secrets, ref->from_env))
        fault(problem, name, "from_env", "not-allowed",
              "%.200s is no variable that the operator allowed (secret_env)", ref->from_env);
    else
        return true;
    return false;
}

void secrets_check(const struct secrets *secrets, const struct spec *spec, struct problem *problem)
{
    const struct secret_ref *items = spec->secrets.items;

    for (size_t i = 0; i < spec->secrets.count; i++)
        (void)allowed(secrets, spec->secrets.names[i], &items[i], problem);
    for (size_t i = 0; spec->secrets.count > 0 && i < spec->mounts.count; i++) {
        char pointer[64];
        if (!path_below(spec_mount(spec, i)->target, SECRETS_DIR))
            continue;
        (void)snprintf(pointer, sizeof pointer, "/mounts/%zu/target", i);
        problem_add_fault(problem, pointer, "reserved",
                          SECRETS_DIR " is where the plan's secrets are; mount elsewhere");
    }
}

/* ── reading ── */

/* A file below a root; links are followed as long as they stay below it. The descriptor, or -1 with
 * errno. A pipe that is there does not make us wait. */
static int open_below(const char *root, const char *rest)
{
    const struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                                 .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    CLEANUP_CLOSE int folder = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);

    return folder < 0 ? -1 : (int)syscall(SYS_openat2, folder, rest, &how, sizeof how);
}

static void add_file(const struct secrets *secrets, const char *name, const char *path,
                     struct secret *ret, struct problem *problem)
{
    char root[PATH_MAX];
    const char *rest = NULL;
    struct stat status;
    CLEANUP_CLOSE int fd = -1;

    if (find_root(secrets->config->secret_roots, path, root, &rest) == 0)
        fd = open_below(root, rest);
    if (fd < 0 && errno == EXDEV)
        fault(problem, name, "from_file", "not-allowed",
              "%.200s is a link that leads out of the directory that the operator allowed", path);
    else if (fd < 0 || fstat(fd, &status) < 0)
        fault(problem, name, "from_file", "unreadable",
              "%.200s: %s; it has to be there, and readable for bottled, whenever the bottle is "
              "started",
              path, strerror(errno));
    else if (!S_ISREG(status.st_mode))
        fault(problem, name, "from_file", "unreadable", "%.200s is no file", path);
    else if (secret_read(ret, fd, SECRET_VALUE_MAX) == 0)
        return;
    else if (errno == EFBIG)
        fault(problem, name, "from_file", "too-long",
              "%.200s is too large: a secret has at most %d bytes, and all of a plan, with their "
              "names, %d",
              path, SECRET_VALUE_MAX, SECRETS_TOTAL_MAX);
    else
        fault(problem, name, "from_file", "unreadable", "%.200s: %s", path, strerror(errno));
}

static void add_variable(const struct secrets *secrets, const char *name, const char *variable_name,
                         struct secret *ret, struct problem *problem)
{
    const struct variable *variable = find_variable(secrets, variable_name);

    if (!variable || !variable->value.bytes)
        fault(problem, name, "from_env", "unreadable",
              "bottled was started without the variable %.200s", variable_name);
    else if (variable->value.length > SECRET_VALUE_MAX ||
             secret_add(ret, variable->value.bytes, variable->value.length) < 0)
        fault(problem, name, "from_env", "too-long",
              "%.200s is too large: a secret has at most %d bytes, and all of a plan, with their "
              "names, %d",
              variable_name, SECRET_VALUE_MAX, SECRETS_TOTAL_MAX);
}

/* NAME=value and its NUL. */
static void add_one(const struct secrets *secrets, const char *name, const struct secret_ref *ref,
                    struct secret *ret, struct problem *problem)
{
    if (secret_add(ret, name, strlen(name)) < 0 || secret_add(ret, "=", 1) < 0) {
        problem_add_fault(problem, "/secrets", "too-long",
                          "all secrets, with their names, have at most %d bytes",
                          SECRETS_TOTAL_MAX);
        return;
    }
    size_t begin = ret->length;
    if (ref->from_file)
        add_file(secrets, name, ref->from_file, ret, problem);
    else
        add_variable(secrets, name, ref->from_env, ret, problem);
    if (memchr(ret->bytes + begin, 0, ret->length - begin))
        fault(problem, name, ref->from_file ? "from_file" : "from_env", "pattern",
              "its value holds a NUL, which no variable can");
    if (secret_add(ret, "", 1) < 0 && !problem->type)
        problem_add_fault(problem, "/secrets", "too-long",
                          "all secrets, with their names, have at most %d bytes",
                          SECRETS_TOTAL_MAX);
}

int secrets_read(const struct secrets *secrets, const struct spec *spec, struct secret *ret,
                 struct problem *problem)
{
    CLEANUP_SECRET struct secret secret = {0};
    const struct secret_ref *items = spec->secrets.items;
    struct error err = ERROR_INIT;

    if (spec->secrets.count == 0)
        return 0;
    if (secret_make(&secret, SECRETS_TOTAL_MAX, &err) < 0) {
        problem_from_error(problem, &err);
        return -1;
    }
    for (size_t i = 0; i < spec->secrets.count; i++)
        if (allowed(secrets, spec->secrets.names[i], &items[i], problem))
            add_one(secrets, spec->secrets.names[i], &items[i], &secret, problem);
    if (problem->type) {
        problem->type = problem_type("secrets-unavailable");
        return -1;
    }
    *ret = secret;
    secret = (struct secret){0};
    return 0;
}

int secrets_memfd(const struct secret *secret, struct error *err)
{
    CLEANUP_CLOSE int fd = memfd_create("bottle-secrets", MFD_CLOEXEC);

    if (fd < 0 || write_all(fd, secret->bytes, secret->length) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return error_errno(err, NULL, "handing secrets over");
    return steal_fd(&fd);
}
