/* Images: what a reference means, and what an image says of itself.
 *
 * A reference is the plan's field `image` and the source of an import:
 *   builtin:busybox           comes with bottled
 *   oci:PATH[:TAG]            on the host: an OCI layout (a directory), or an archive as `docker
 * save`, `podman save` and `skopeo copy` write it; the path ends at its first ':' dir:PATH on the
 * host: an unpacked root docker://NAME[:TAG|@DIGEST]  from a registry 16 hex digits             an
 * imported image, by its id */
#pragma once

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/field.h"
#include "base/error.h"
#include "base/hash.h"

#define BUILTIN_IMAGE "builtin:busybox"

enum { IMAGE_ID_SIZE = 17, IMAGE_SOURCE_SIZE = 256 };

enum image_kind { IMAGE_BUILTIN, IMAGE_OCI, IMAGE_DIR, IMAGE_DOCKER, IMAGE_ID };

struct image_reference {
    enum image_kind kind;
    char path[IMAGE_SOURCE_SIZE];     /* of oci: and dir:, absolute and normal */
    char tag[IMAGE_SOURCE_SIZE];      /* of oci:, "" when none */
    char registry[IMAGE_SOURCE_SIZE]; /* of docker://, "docker.io" when none is named */
};

/* NULL and *ret, or what is wrong with it (static text that ends a sentence). */
const char *image_reference_parse(const char *text, struct image_reference *ret);
/* Is `registry` in the list "a.example,b.example:5000" (config key image_registries)? */
bool image_registry_allowed(const char *list, const char *registry);

/* ENTRYPOINT, CMD, ENV, WORKDIR and USER (the object `config` of
 * https://github.com/opencontainers/image-spec/blob/v1.0.2/config.md). */
struct image_config {
    struct string_list entrypoint, command;
    struct string_list env; /* "NAME=value" */
    char *workdir;          /* absolute; "" when none */
    char *user;             /* as the image has it; "" when none */
    char *user_numbers;     /* "UID:GID" of that, as looked up in the image when it was imported;
                               "" when there is no such user, or it was not looked up */
};

/* Reads {"Entrypoint", "Cmd", "Env", "WorkingDir", "User", "UserNumbers"}; others are left alone,
 * an absent or null one is none. Variables that have no valid name are left out. Kind
 * "image-refused" for what no bottle could take. *ret is released with image_config_free(), also on
 * failure. */
int image_config_decode(const json_t *object, struct image_config *ret, struct error *err);
/* The first five of them, all there. Caller owns; NULL when memory is short. */
json_t *image_config_encode(const struct image_config *config);
void image_config_free(struct image_config *config);

/* One that is complete. Immutable, reference-counted. */
struct image {
    atomic_uint references;
    char id[IMAGE_ID_SIZE];
    char source[IMAGE_SOURCE_SIZE];
    char digest[SHA256_HEX_SIZE]; /* of the erofs file */
    char manifest[80];            /* "sha256:…" of the source's manifest, "" of a directory */
    int64_t bytes;                /* of the erofs file */
    int64_t files;                /* entries of its tree */
    int64_t created_ms;
    struct image_config config;
};

/* With one reference, otherwise empty; NULL when memory is short. */
struct image *image_new(void);
struct image *image_ref(struct image *image);
void image_unref(struct image *image);
static inline void cleanup_image(struct image **image)
{
    image_unref(*image);
}
#define CLEANUP_IMAGE __attribute__((cleanup(cleanup_image)))
