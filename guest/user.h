/* Whom the command runs as: an image's USER, looked up in the image's own /etc/passwd and
 * /etc/group as Docker does. No file of the C library takes part: bottle-init is static. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

enum { USER_GROUPS_MAX = 64, USER_HOME_MAX = 256 };

struct user {
    uid_t uid;
    gid_t gid;
    gid_t groups[USER_GROUPS_MAX];
    size_t n_groups;
    char home[USER_HOME_MAX]; /* "/" when the file has none */
};

/* "", "name", "uid", each with ":group" or ":gid" if wanted. A number that the file does not have
 * is taken as it is, with group 0; a name must be there. Groups that list the user are added,
 * unless one is named. `etc` is the folder of both files. */
int user_resolve(const char *etc, const char *text, struct user *ret, struct error *err);
/* The same with what stands in the two files, which it takes apart; NULL: no such file. */
int user_resolve_in(char *passwd, char *group_file, const char *text, struct user *ret,
                    struct error *err);
/* Makes the calling process that user; 0, or -1 with errno. For root it changes nothing. */
int user_become(const struct user *user);
