/* The plan's field `mounts`: its rows, and what must hold between them. Whether a source is there
 * and allowed is looked at when the bottle is made and at each start (backends/mounts.h). */
#include <stdio.h>
#include <string.h>

#include "api/spec.h"
#include "api/spec_items.h"
#include "base/util.h"

/* The guest's own: what is mounted there a command could not do without. */
static const char *const kept[] = {"/proc", "/sys", "/dev"};

#define TARGET_PATTERN "^(/([^./\\x00][^/\\x00]*|[.][^./\\x00][^/\\x00]*|[.][.][^/\\x00]+))+$"

static const char *target_check(const char *value)
{
    return strcmp(value, "/") == 0
               ? "may not be the guest's root, which is its image; mount below it"
               : workdir_check(value);
}

static const struct field mount_rows[] = {
    {.name = "source",
     .type = FIELD_STRING,
     .flags = FIELD_REQUIRED,
     .offset = offsetof(struct mount_spec, source),
     .min = 1,
     .max = 4095,
     .pattern = WORKDIR_PATTERN,
     .check = workdir_check,
     .doc = "The directory of the host, below one of the operator's mount_roots. Links in the path "
            "are followed as long as they stay below that root."},
    {.name = "target",
     .type = FIELD_STRING,
     .flags = FIELD_REQUIRED,
     .offset = offsetof(struct mount_spec, target),
     .min = 1,
     .max = 4095,
     .pattern = TARGET_PATTERN,
     .check = target_check,
     .doc = "Where the guest sees it; made when it is missing. Not /, and nothing in /proc, /sys "
            "and /dev, nor, where the plan has secrets, in /run/secrets."},
    {.name = "read_only",
     .type = FIELD_BOOLEAN,
     .offset = offsetof(struct mount_spec, read_only),
     .doc = "True: nothing that the guest does, as root too, writes to it."},
};

const struct field field_mount = {.name = "*",
                                  .type = FIELD_OBJECT,
                                  .fields = mount_rows,
                                  .n_fields = COUNT_OF(mount_rows),
                                  .size = sizeof(struct mount_spec),
                                  .doc = "One directory of the host, live in the guest."};

const struct mount_spec *spec_mount(const struct spec *spec, size_t i)
{
    return (const struct mount_spec *)spec->mounts.items + i;
}

bool path_below(const char *path, const char *folder)
{
    size_t length = strlen(folder);

    while (length > 0 && folder[length - 1] == '/')
        length--;
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static void check_target(const struct spec *spec, size_t i, struct problem *problem)
{
    const char *target = spec_mount(spec, i)->target;
    char pointer[64];

    (void)snprintf(pointer, sizeof pointer, "/mounts/%zu/target", i);
    for (size_t k = 0; k < COUNT_OF(kept); k++)
        if (path_below(target, kept[k]))
            problem_add_fault(problem, pointer, "reserved",
                              "%s is the guest's own; mount elsewhere", kept[k]);
    for (size_t k = 0; k < i; k++) {
        const char *other = spec_mount(spec, k)->target;
        if (other && strcmp(other, target) == 0) {
            problem_add_fault(problem, pointer, "duplicate", "something is mounted there already");
            break;
        }
    }
}

void spec_check_mounts(const struct spec *spec, struct problem *problem)
{
    for (size_t i = 0; i < spec->mounts.count; i++)
        if (spec_mount(spec, i)->target)
            check_target(spec, i, problem);
}

void spec_free_mounts(struct spec *spec)
{
    struct mount_spec *items = spec->mounts.items;

    for (size_t i = 0; i < spec->mounts.count; i++) {
        free(items[i].source);
        free(items[i].target);
    }
    free(items);
    spec->mounts = (struct object_list){0};
}
