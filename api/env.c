/* The guest's environment: what bottled sets, what it assumes, and what the plan says.
 *
 * curl and git read http_proxy in lower case only, others in upper case only: both are set. Node
 * reads the variables only when told to (NODE_USE_ENV_PROXY, Node 22.21 and 24). Loopback and the
 * proxy itself are never reached through the proxy. */
#include <string.h>
#include <strings.h>

#include "api/plan.h"
#include "base/util.h"

#define PROXY_URL "http://" PROXY_NAME ":8888"
#define NO_PROXY_HOSTS "localhost,127.0.0.1,::1," PROXY_NAME

static const struct own_variable {
    const char *name, *value;
    enum sidecar sidecar; /* set when that one is active */
    bool any_case;        /* reserved in every mixture of cases */
} own_variables[] = {
    {"HTTP_PROXY", PROXY_URL, SIDECAR_PIPELOCK, true},
    {"HTTPS_PROXY", PROXY_URL, SIDECAR_PIPELOCK, true},
    {"ALL_PROXY", PROXY_URL, SIDECAR_PIPELOCK, true},
    {"NO_PROXY", NO_PROXY_HOSTS, SIDECAR_PIPELOCK, true},
    {"http_proxy", PROXY_URL, SIDECAR_PIPELOCK, true},
    {"https_proxy", PROXY_URL, SIDECAR_PIPELOCK, true},
    {"all_proxy", PROXY_URL, SIDECAR_PIPELOCK, true},
    {"no_proxy", NO_PROXY_HOSTS, SIDECAR_PIPELOCK, true},
    {"NODE_USE_ENV_PROXY", "1", SIDECAR_PIPELOCK, false},
    {"GIT_GATE_URL", "http://" PROXY_NAME ":8889", SIDECAR_GIT_GATE, false},
    {"SUPERVISE_URL", "http://" PROXY_NAME ":8890", SIDECAR_SUPERVISE, false},
};

static const struct env_var defaults[] = {
    {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    {"HOME", "/root"},
};

bool env_reserved(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(own_variables); i++) {
        const struct own_variable *own = &own_variables[i];
        if ((own->any_case ? strcasecmp(own->name, name) : strcmp(own->name, name)) == 0)
            return true;
    }
    return false;
}

static int add_images_own(const struct spec *spec, const struct image_config *image,
                          struct string_map *ret)
{
    for (size_t i = 0; i < image->env.count; i++) {
        CLEANUP_FREE char *name = strdup(image->env.items[i]);
        char *equals = name ? strchr(name, '=') : NULL;
        if (!equals)
            return -1;
        *equals = '\0';
        if (!env_reserved(name) && !string_map_get(&spec->env, name) && !spec_secret(spec, name) &&
            !string_map_get(ret, name) && string_map_add(ret, name, equals + 1) < 0)
            return -1;
    }
    return 0;
}

int env_build(const struct spec *spec, const struct image_config *image, struct string_map *ret)
{
    bool own_home = image && image->user[0];

    for (size_t i = 0; i < COUNT_OF(own_variables); i++)
        if (sidecar_active(spec, own_variables[i].sidecar) &&
            string_map_add(ret, own_variables[i].name, own_variables[i].value) < 0)
            return -1;
    if (image && add_images_own(spec, image, ret) < 0)
        return -1;
    for (size_t i = 0; i < COUNT_OF(defaults); i++)
        if (!string_map_get(&spec->env, defaults[i].name) &&
            !string_map_get(ret, defaults[i].name) && !spec_secret(spec, defaults[i].name) &&
            !(own_home && strcmp(defaults[i].name, "HOME") == 0) &&
            string_map_add(ret, defaults[i].name, defaults[i].value) < 0)
            return -1;
    for (size_t i = 0; i < spec->env.count; i++)
        if (string_map_add(ret, spec->env.items[i].name, spec->env.items[i].value) < 0)
            return -1;
    return 0;
}
