/* A resolved plan: everything that bottled decided for one bottle, and the files that follow from
 * it.
 *
 * Pure: the same spec and the same allocation give the same plan, byte for byte. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "api/image.h"
#include "api/spec.h"

/* What the registry reserved for a bottle; unique among bottles. */
struct allocation {
    unsigned subnet;                   /* a number of subnet_format() */
    unsigned loopback;                 /* its sidecars listen on 127.0.<loopback>.1 */
    uint16_t host_ports[FORWARDS_MAX]; /* in the order pipelock, git-gate, supervise; 0 when not
                                          active */
};

enum sidecar { SIDECAR_PIPELOCK, SIDECAR_GIT_GATE, SIDECAR_SUPERVISE, N_SIDECARS };

struct sidecar_row {
    const char *name;       /* "pipelock" */
    const char *plan_field; /* pointer of the plan field that asks for it, NULL: always */
    uint16_t gateway_port;
};
extern const struct sidecar_row sidecars[N_SIDECARS];
bool sidecar_active(const struct spec *spec, enum sidecar sidecar);

struct plan_file {
    const char *name; /* static */
    char *content;    /* owned */
    size_t length;
};

enum { PLAN_FILES_MAX = 8 };

/* Mounted in this order: what lies above another before it. */
struct plan_mount {
    const struct mount_spec *spec; /* of the plan's own spec */
    char tag[8];                   /* "fs0", … */
};

/* The name of a bottle's run directory: the first 16 hex digits of sha256(slug). */
enum { PLAN_ID_SIZE = 17 };
void plan_id(const char *slug, char ret[PLAN_ID_SIZE]);

struct plan {
    struct spec spec; /* owned; slug filled in */
    struct allocation allocation;
    /* The three that the backend decides: NULL until its caller sets them. */
    const char *backend;       /* row name, static */
    const char *accelerator;   /* "kvm", "tcg" or NULL, static */
    const char *engine;        /* proxy engine's row name, static */
    char *limits_note;         /* what the chosen engine can't check, for people; may be NULL */
    char *stage_dir, *run_dir; /* owned */
    char id[PLAN_ID_SIZE];     /* of plan_id() */
    char subnet[20], gateway[16], guest_ip[16], mac[18], loopback[16];
    struct network network; /* points into this struct: a plan is never moved, only by pointer */
    struct string_map
        env; /* the guest's whole environment: proxy variables, defaults, then the plan's */
    /* What the plan and the image say together. */
    struct string_list command;
    char *workdir, *user;         /* user: "" for root */
    char *user_numbers;           /* as in struct image_config */
    char image_id[IMAGE_ID_SIZE]; /* "" of the built-in one */
    char image_digest[SHA256_HEX_SIZE];
    char *image_file; /* NULL of the built-in one */
    struct plan_mount mounts[MOUNTS_MAX];
    size_t n_mounts;
    struct guest_config guest;
    struct plan_file files[PLAN_FILES_MAX];
    size_t n_files;
};

struct plan_dirs {
    const char *state_dir, *run_dir;
    const struct image *image; /* the imported one that the plan asks for; NULL: none */
};

/* Resolves all but the files (which the backend's prepare adds) and what the backend decides. The
 * spec has its slug (slug_make); it is taken over (left zeroed) on success. Fails with kind
 * "socket-path-too-long" when run_dir makes a socket path over 107 bytes. NULL on failure. */
struct plan *plan_resolve(struct spec *spec, const struct allocation *allocation,
                          const struct plan_dirs *dirs, struct error *err);
/* Steals `content`, also on failure (NULL: memory was short). `name` is static. */
int plan_add_file(struct plan *plan, const char *name, char *content, struct error *err);
const struct plan_file *plan_find_file(const struct plan *plan, const char *name);
void plan_file_digest(const struct plan_file *file, char ret[SHA256_HEX_SIZE]);
void plan_free(struct plan *plan);

/* The resolved plan's JSON of the HTTP contract; `with_content` puts the files' text in. Caller
 * owns. */
json_t *plan_encode(const struct plan *plan, bool with_content);
/* The page that a person reads before saying yes. Caller frees. */
char *plan_page(const struct plan *plan);

/* Which variables bottled sets itself, and a plan may not; the proxy variables in any mixture of
 * cases, since some clients read them so. */
bool env_reserved(const char *name);
/* The guest's whole environment but for the plan's secrets: bottled's variables, then the image's
 * (NULL: none) that neither bottled nor the plan sets, then defaults (PATH, HOME) that nobody set,
 * then the plan's in its order. HOME is left to the guest where the image names a user. -1 when
 * memory is short (string_map_free in any case). */
int env_build(const struct spec *spec, const struct image_config *image, struct string_map *ret);
/* The file of an imported image. Caller frees; NULL when memory is short. */
char *image_file_path(const char *state_dir, const char *digest);

/* Subnets. A stable hash of the slug mod 254 gives the first choice: 0–253, the third octet of
 * 192.168.x.0/24. 17 is never taken; a taken one moves on to the next free, around the end; when
 * all 253 are taken, the /24s of 10.128.0.0/9 the same way, from a stable hash mod 32768; and past
 * those, the /28s of 10.0.0.0/9. Number in *ret, or -1 (kind "no-free-subnet"). */
typedef bool subnet_taken(unsigned subnet, void *context);
int subnet_pick(const char *slug, subnet_taken *taken, void *context, unsigned *ret,
                struct error *err);
void subnet_format(unsigned subnet, char ret_subnet[20], char ret_gateway[16], char ret_guest[16]);
/* Lower case, locally administered, one per subnet number, never GATEWAY_MAC: 5a:94:ef and the
 * number. */
void subnet_mac(unsigned subnet, char ret[18]);
enum { SUBNETS_MAX = 254 + 32768 + 524288 };

/* Host ports: `count` distinct ports in [first, last] of the address 127.0.<loopback>.1 that are
 * not taken and can be bound right now. The search begins one past the port that was last given in
 * this process (the range's first at first, and when that is outside), and goes around once: a port
 * just released rests, and the last free one is found. -1 (kind "no-free-port"). */
typedef bool port_taken(uint16_t port, void *context);
int ports_pick(unsigned loopback, uint16_t first, uint16_t last, size_t count, port_taken *taken,
               void *context, uint16_t *ret, struct error *err);
