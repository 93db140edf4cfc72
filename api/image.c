#include "api/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

/* Far below what a plan may have, so that both together fit into the guest's START. */
enum { CONFIG_ITEMS_MAX = 1024, CONFIG_BYTES_MAX = 256 * 1024, WORD_MAX = 4095 };

#define HEX "0123456789abcdef"

/* --- References ------------------------------------------------------------------------------- */

/* Absolute, and no empty, "." or ".." part. */
static bool path_is_normal(const char *path)
{
    for (const char *part = path; *part; part += strcspn(part, "/")) {
        if (*part != '/')
            return false;
        size_t length = strcspn(++part, "/");
        if (length == 0 || (length <= 2 && strncmp(part, "..", length) == 0))
            return false;
    }
    return path[0] == '/';
}

static const char *parse_path(const char *text, struct image_reference *ret)
{
    size_t length = ret->kind == IMAGE_OCI ? strcspn(text, ":") : strlen(text);

    (void)snprintf(ret->path, sizeof ret->path, "%.*s", (int)length, text);
    if (text[length] == ':')
        (void)snprintf(ret->tag, sizeof ret->tag, "%s", text + length + 1);
    if (text[length] == ':' && !ret->tag[0])
        return "has no tag after the ':'";
    return path_is_normal(ret->path)
               ? NULL
               : "needs an absolute path without \"//\", \".\" and \"..\" in it, and no '/' at its "
                 "end";
}

/* As Docker reads names: the first part is a registry when it has a '.' or ':' or is localhost. */
static const char *parse_name(const char *text, struct image_reference *ret)
{
    size_t length = strcspn(text, "/");
    bool named = text[length] == '/' && (memchr(text, '.', length) || memchr(text, ':', length) ||
                                         (length == 9 && strncmp(text, "localhost", 9) == 0));

    if (!*text || *text == '/' || strstr(text, "//"))
        return "needs a name after docker://, like docker://registry.example/name:tag";
    if (named)
        (void)snprintf(ret->registry, sizeof ret->registry, "%.*s", (int)length, text);
    else
        (void)snprintf(ret->registry, sizeof ret->registry, "docker.io");
    return NULL;
}

const char *image_reference_parse(const char *text, struct image_reference *ret)
{
    static const struct {
        const char *prefix;
        enum image_kind kind;
        const char *(*parse)(const char *text, struct image_reference *ret);
    } rows[] = {{"oci:", IMAGE_OCI, parse_path},
                {"dir:", IMAGE_DIR, parse_path},
                {"docker://", IMAGE_DOCKER, parse_name}};
    struct image_reference reference = {.kind = IMAGE_ID};
    const char *wrong;

    *ret = reference;
    if (strlen(text) >= IMAGE_SOURCE_SIZE)
        return "is too long";
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        size_t length = strlen(rows[i].prefix);
        if (strncmp(text, rows[i].prefix, length) != 0)
            continue;
        reference.kind = rows[i].kind;
        wrong = rows[i].parse(text + length, &reference);
        *ret = reference;
        return wrong;
    }
    if (strcmp(text, BUILTIN_IMAGE) == 0)
        ret->kind = IMAGE_BUILTIN;
    else if (strlen(text) != IMAGE_ID_SIZE - 1 || text[strspn(text, HEX)] != '\0')
        return "is none of \"" BUILTIN_IMAGE
               "\", \"oci:PATH\", \"dir:PATH\", \"docker://NAME\" and "
               "the id of an imported image";
    return NULL;
}

bool image_registry_allowed(const char *list, const char *registry)
{
    size_t length = strlen(registry);

    for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == length && strncmp(at, registry, length) == 0)
            return true;
    return false;
}

/* --- What an image says of itself ------------------------------------------------------------- */

static int refuse(struct error *err, const char *name, const char *words)
{
    return error_set(err, "image-refused", "the image's %s %s", name, words);
}

static int read_list(const json_t *object, const char *name, struct string_list *ret, size_t *total,
                     struct error *err)
{
    const json_t *list = json_object_get(object, name);
    size_t count = json_array_size(list);

    if (!list || json_is_null(list) || (json_is_array(list) && count == 0))
        return 0;
    if (!json_is_array(list) || count > CONFIG_ITEMS_MAX)
        return refuse(err, name, "is no list of at most 1024 strings");
    ret->items = calloc(count + 1, sizeof *ret->items);
    for (size_t i = 0; ret->items && i < count; i++) {
        const json_t *item = json_array_get(list, i);
        const char *text = json_string_value(item);
        if (!text || strlen(text) != json_string_length(item))
            return refuse(err, name, "holds something that is no string");
        if ((*total += strlen(text) + 1) > CONFIG_BYTES_MAX)
            return refuse(err, name, "is too long: all of them may have 256 KiB");
        if (!(ret->items[ret->count] = strdup(text)))
            break;
        ret->count++;
    }
    return ret->count == count ? 0 : error_set(err, NULL, "out of memory");
}

static int read_word(const json_t *object, const char *name, const char *prefix, char **ret,
                     struct error *err)
{
    const json_t *item = json_object_get(object, name);
    const char *text = json_is_string(item) ? json_string_value(item) : "";

    if (item && !json_is_null(item) && !json_is_string(item))
        return refuse(err, name, "is no string");
    if (json_is_string(item) && strlen(text) != json_string_length(item))
        return refuse(err, name, "holds a NUL");
    if (strlen(text) > WORD_MAX)
        return refuse(err, name, "is too long");
    if (asprintf(ret, "%s%s", text[0] && text[0] != '/' ? prefix : "", text) < 0) {
        *ret = NULL;
        return error_set(err, NULL, "out of memory");
    }
    return 0;
}

/* Leaves out what is no NAME=value. */
static void drop_nameless(struct string_list *env)
{
    size_t kept = 0;

    for (size_t i = 0; i < env->count; i++) {
        const char *equals = strchr(env->items[i], '=');
        if (equals && equals != env->items[i])
            env->items[kept++] = env->items[i];
        else
            free(env->items[i]);
    }
    env->count = kept;
    if (env->items)
        env->items[kept] = NULL;
}

int image_config_decode(const json_t *object, struct image_config *ret, struct error *err)
{
    size_t total = 0;

    *ret = (struct image_config){0};
    if (object && !json_is_object(object) && !json_is_null(object))
        return refuse(err, "config", "is no object");
    if (read_list(object, "Entrypoint", &ret->entrypoint, &total, err) < 0 ||
        read_list(object, "Cmd", &ret->command, &total, err) < 0 ||
        read_list(object, "Env", &ret->env, &total, err) < 0 ||
        read_word(object, "WorkingDir", "/", &ret->workdir, err) < 0 ||
        read_word(object, "User", "", &ret->user, err) < 0 ||
        read_word(object, "UserNumbers", "", &ret->user_numbers, err) < 0)
        return -1;
    drop_nameless(&ret->env);
    return 0;
}

static json_t *encode_list(const struct string_list *list)
{
    json_t *ret = json_array();

    for (size_t i = 0; i < list->count; i++)
        (void)json_array_append_new(ret, json_string(list->items[i]));
    return ret;
}

json_t *image_config_encode(const struct image_config *config)
{
    return json_pack("{s:o, s:o, s:o, s:s, s:s}", "Entrypoint", encode_list(&config->entrypoint),
                     "Cmd", encode_list(&config->command), "Env", encode_list(&config->env),
                     "WorkingDir", config->workdir ? config->workdir : "", "User",
                     config->user ? config->user : "");
}

void image_config_free(struct image_config *config)
{
    string_list_free(&config->entrypoint);
    string_list_free(&config->command);
    string_list_free(&config->env);
    free(config->workdir);
    free(config->user);
    free(config->user_numbers);
    *config = (struct image_config){0};
}

struct image *image_new(void)
{
    struct image *image = calloc(1, sizeof *image);

    if (image)
        atomic_init(&image->references, 1);
    return image;
}

struct image *image_ref(struct image *image)
{
    atomic_fetch_add(&image->references, 1);
    return image;
}

void image_unref(struct image *image)
{
    if (!image || atomic_fetch_sub(&image->references, 1) != 1)
        return;
    image_config_free(&image->config);
    free(image);
}
