#include "server/access.h"

#include <string.h>

const char *const role_names[N_ROLES] = {"none", "read", "operate", "admin"};
const char *const via_names[N_VIAS] = {"nobody", "unix", "token", "session"};

enum role role_parse(const char *name)
{
    for (int role = ROLE_READ; role < N_ROLES; role++)
        if (strcmp(role_names[role], name) == 0)
            return (enum role)role;
    return ROLE_NONE;
}
