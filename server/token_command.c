#include "server/token_command.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/number.h"
#include "base/util.h"
#include "server/config.h"
#include "server/tokens.h"

enum { FAILED = 1, USAGE = 2, ARGUMENTS_MAX = 64, DAYS_MAX = 3650, DAY_MS = 86400000 };

static const char usage[] =
    "bottled token create --name NAME --role read|operate|admin [--expires 90d|12h|30m]\n"
    "        make a token and print its value, this once\n"
    "bottled token list\n"
    "        show all tokens, without their values\n"
    "bottled token revoke NAME\n"
    "        remove one; a running bottled refuses it at once\n\n"
    "Each takes --config FILE and bottled's flags (--state-dir DIR) to find the state directory.\n";

struct command {
    const char *verb, *name, *role, *expires;
    char *rest[ARGUMENTS_MAX]; /* for config_load: a program's name first */
    int n_rest;
};

/* "--name=x" or "--name" "x": the value, and how many arguments it was; 0: another flag. */
static int take(char **argv, const char *flag, const char **ret)
{
    size_t length = strlen(flag);

    if (strncmp(argv[0], flag, length) != 0)
        return 0;
    if (argv[0][length] == '=') {
        *ret = argv[0] + length + 1;
        return 1;
    }
    if (argv[0][length] != '\0' || !argv[1])
        return 0;
    *ret = argv[1];
    return 2;
}

static int parse(int argc, char **argv, struct command *ret)
{
    *ret = (struct command){.verb = argc > 1 ? argv[1] : "", .rest = {argv[0]}, .n_rest = 1};
    if (argc > ARGUMENTS_MAX - 1)
        return -1;
    for (int i = 2; i < argc;) {
        int used = take(argv + i, "--name", &ret->name);
        used = used ? used : take(argv + i, "--role", &ret->role);
        used = used ? used : take(argv + i, "--expires", &ret->expires);
        if (!used && i == 2 && argv[i][0] != '-' && strcmp(ret->verb, "revoke") == 0) {
            ret->name = argv[i];
            used = 1;
        }
        if (!used)
            ret->rest[ret->n_rest++] = argv[i++];
        i += used;
    }
    return 0;
}

/* "90d", or a time as everywhere else → a moment; 0: never. */
static int expiry(const char *words, int64_t *ret, struct error *err)
{
    size_t length = words ? strlen(words) : 0;
    char digits[8];
    int64_t days, ms;

    *ret = 0;
    if (!words)
        return 0;
    if (length > 1 && length < sizeof digits && words[length - 1] == 'd') {
        (void)snprintf(digits, sizeof digits, "%.*s", (int)length - 1, words);
        if (number_parse(digits, 1, DAYS_MAX, &days) == 0) {
            *ret = clock_wall_ms() + days * DAY_MS;
            return 0;
        }
    } else if (duration_parse(words, &ms) == 0 && ms > 0) {
        *ret = clock_wall_ms() + ms;
        return 0;
    }
    return error_set(err, NULL,
                     "--expires: \"%.32s\" is no time like 30m, 12h or 90d (at most %dd)", words,
                     DAYS_MAX);
}

static int create(const char *state_dir, const struct command *command, struct error *err)
{
    enum role role = command->role ? role_parse(command->role) : ROLE_NONE;
    char value[TOKEN_VALUE_SIZE];
    int64_t expires_ms;

    if (!command->name || role == ROLE_NONE)
        return error_set(err, NULL, "create wants --name NAME and --role read, operate or admin");
    if (expiry(command->expires, &expires_ms, err) < 0 ||
        directory_make(state_dir, geteuid() == 0 ? 0711 : 0700, err) < 0 ||
        token_create(state_dir, command->name, role, expires_ms, value, err) < 0)
        return -1;
    (void)printf("%s\n", value);
    explicit_bzero(value, sizeof value);
    (void)fprintf(stderr, "this is the only time that the value is shown\n");
    return 0;
}

static int list(const char *state_dir, struct error *err)
{
    char created[TIMESTAMP_SIZE], expires[TIMESTAMP_SIZE];
    struct tokens tokens;

    if (tokens_read(state_dir, &tokens, err) < 0)
        return -1;
    (void)printf("%-24s %-8s %-24s %s\n", "NAME", "ROLE", "CREATED", "EXPIRES");
    for (size_t i = 0; i < tokens.count; i++) {
        const struct token *token = &tokens.rows[i];
        timestamp_format(token->created_ms, created);
        timestamp_format(token->expires_ms, expires);
        (void)printf("%-24s %-8s %-24s %s%s\n", token->name, role_names[token->role], created,
                     token->expires_ms ? expires : "never",
                     token_expired(token, clock_wall_ms()) ? " (over)" : "");
    }
    return 0;
}

static int take_away(const char *state_dir, const struct command *command, struct error *err)
{
    if (!command->name)
        return error_set(err, NULL, "revoke wants the NAME of a token");
    if (token_revoke(state_dir, command->name, err) < 0)
        return -1;
    (void)fprintf(stderr, "%s is revoked\n", command->name);
    return 0;
}

int token_command(int argc, char **argv)
{
    struct command command;
    struct config config;
    struct error err = ERROR_INIT;
    int result = -1;

    if (parse(argc, argv, &command) < 0 ||
        (strcmp(command.verb, "create") != 0 && strcmp(command.verb, "list") != 0 &&
         strcmp(command.verb, "revoke") != 0)) {
        (void)fputs(usage, stderr);
        return USAGE;
    }
    result = config_load(command.n_rest, command.rest, &config, &err);
    if (result != 0) {
        if (result < 0)
            (void)fprintf(stderr, "bottled token: %s\n", err.text);
        return result < 0 ? USAGE : 0;
    }
    if (strcmp(command.verb, "create") == 0)
        result = create(config.state_dir, &command, &err);
    else if (strcmp(command.verb, "list") == 0)
        result = list(config.state_dir, &err);
    else
        result = take_away(config.state_dir, &command, &err);
    config_free(&config);
    if (result == 0)
        return 0;
    (void)fprintf(stderr, "bottled token: %s\n", err.text);
    return FAILED;
}
