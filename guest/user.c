#include "guest/user.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/number.h"
#include "base/util.h"

enum { FILE_MAX = 1024 * 1024, PART_MAX = 256, FIELDS = 7, ID_MAX = 0x7fffffff };

/* The whole file, NUL-terminated, or NULL. The image may have anything there, a pipe too. */
static char *read_small(const char *etc, const char *name)
{
    char path[PATH_MAX];

    (void)snprintf(path, sizeof path, "%s/%s", etc, name);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
        return NULL;
    return file_read_open(fd, path, FILE_MAX, NULL, NULL);
}

/* Takes the next line apart at its colons, in place; the number of fields, 0 at the end. */
static size_t next_line(char **at, char *fields[FIELDS])
{
    char *line = *at;
    size_t count = 0;

    if (!line || !*line)
        return 0;
    char *end = line + strcspn(line, "\n");
    *at = *end ? end + 1 : end;
    *end = '\0';
    while (count < FIELDS && line) {
        fields[count++] = line;
        line = strchr(line, ':');
        if (line)
            *line++ = '\0';
    }
    return count;
}

static bool parse_id(const char *text, unsigned *ret)
{
    int64_t number;

    if (number_parse(text, 0, ID_MAX, &number) < 0)
        return false;
    *ret = (unsigned)number;
    return true;
}

/* Looks for the user by name or number; fills what the file has. */
static bool find_user(char *file, const char *name, struct user *ret, char *ret_name, size_t size)
{
    char *at = file, *fields[FIELDS];
    unsigned wanted = 0, uid, gid;
    bool by_number = parse_id(name, &wanted);

    for (size_t count; (count = next_line(&at, fields)) > 0;) {
        if (count < 4 || !parse_id(fields[2], &uid) || !parse_id(fields[3], &gid))
            continue;
        if (strcmp(fields[0], name) != 0 && !(by_number && uid == wanted))
            continue;
        ret->uid = uid;
        ret->gid = gid;
        if (count > 5 && fields[5][0] == '/' && strlen(fields[5]) < sizeof ret->home)
            (void)snprintf(ret->home, sizeof ret->home, "%s", fields[5]);
        (void)snprintf(ret_name, size, "%s", fields[0]);
        return true;
    }
    ret->uid = wanted;
    ret->gid = 0;
    return by_number;
}

/* Is `name` one of "a,b,c"? */
static bool listed(const char *list, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',')
        if (length && strcspn(at, ",") == length && strncmp(at, name, length) == 0)
            return true;
    return false;
}

/* The group of that name or number, when one is named; else those that list the user. */
static bool find_groups(char *file, const char *group, const char *user, struct user *ret)
{
    char *at = file, *fields[FIELDS];
    unsigned wanted = 0, gid;
    bool by_number = group && parse_id(group, &wanted);

    for (size_t count; (count = next_line(&at, fields)) > 0;) {
        if (count < 3 || !parse_id(fields[2], &gid))
            continue;
        if (!group && count > 3 && ret->n_groups < USER_GROUPS_MAX && listed(fields[3], user))
            ret->groups[ret->n_groups++] = gid;
        if (group && (strcmp(fields[0], group) == 0 || (by_number && gid == wanted))) {
            ret->gid = gid;
            return true;
        }
    }
    if (by_number)
        ret->gid = wanted;
    return !group || by_number;
}

int user_resolve_in(char *passwd, char *group_file, const char *text, struct user *ret,
                    struct error *err)
{
    struct user user = {.home = "/"};
    char name[PART_MAX], known[PART_MAX] = "";
    const char *colon = strchr(text, ':');
    const char *group = colon && colon[1] ? colon + 1 : NULL;
    int length = snprintf(name, sizeof name, "%.*s",
                          (int)(colon ? (size_t)(colon - text) : strnlen(text, PART_MAX)), text);

    if (length < 0 || (size_t)length >= sizeof name)
        return error_set(err, NULL, "the image's user has a name that is too long");
    if (!name[0])
        (void)snprintf(name, sizeof name, "0");
    if (!find_user(passwd, name, &user, known, sizeof known))
        return error_set(err, NULL, "the image's user \"%.160s\" is not in its /etc/passwd", name);
    if (!find_groups(group_file, group, known, &user))
        return error_set(err, NULL, "the image's group \"%.160s\" is not in its /etc/group", group);
    if (!text[0])
        (void)snprintf(user.home, sizeof user.home, "/root");
    *ret = user;
    return 0;
}

int user_resolve(const char *etc, const char *text, struct user *ret, struct error *err)
{
    CLEANUP_FREE char *passwd = read_small(etc, "passwd");
    CLEANUP_FREE char *group = read_small(etc, "group");

    return user_resolve_in(passwd, group, text, ret, err);
}

int user_become(const struct user *user)
{
    if (user->uid == 0 && user->gid == 0 && user->n_groups == 0)
        return 0;
    if (setgroups(user->n_groups, user->groups) < 0 ||
        setresgid(user->gid, user->gid, user->gid) < 0)
        return -1;
    return setresuid(user->uid, user->uid, user->uid);
}
