/* Who a client is, and what it may do. */
#pragma once

#include <stdint.h>

/* Each role may do what the ones before it may. */
enum role {
    ROLE_NONE,    /* in no row of the routes: a row without a role is a fault */
    ROLE_READ,    /* look at everything but the files of guests */
    ROLE_OPERATE, /* make, run, change and remove bottles; import images */
    ROLE_ADMIN,   /* also what all bottles share: remove images, clean up */
    N_ROLES
};
extern const char *const role_names[N_ROLES]; /* "none", "read", "operate", "admin" */
/* ROLE_NONE for what is no name of a role that someone can have. */
enum role role_parse(const char *name);

enum via { VIA_NOBODY, VIA_UNIX, VIA_TOKEN, VIA_SESSION, N_VIAS };
extern const char *const via_names[N_VIAS];

enum { IDENTITY_NAME_SIZE = 65 };

/* Who sent a request. */
struct identity {
    enum via via;
    enum role role;
    char name[IDENTITY_NAME_SIZE]; /* of the token; of a Unix peer "uid 1000" */
};
