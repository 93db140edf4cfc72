#include "backends/krun_api.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "base/util.h"

enum { FIRST = 1, SECOND = 2, BOTH = FIRST | SECOND };
enum { ALIGNMENT = 8 }; /* of tables in an ELF file of 64 bits */

#define ROW(field, needed)                                                                         \
    {                                                                                              \
        "krun_" #field, offsetof(struct krun_api, field), needed                                   \
    }

const struct krun_function krun_functions[] = {
    ROW(create_ctx, BOTH),
    ROW(set_vm_config, BOTH),
    ROW(disable_implicit_init, BOTH),
    ROW(add_disk, BOTH),
    ROW(add_net_unixgram, BOTH),
    ROW(add_virtio_console_multiport, BOTH),
    ROW(add_console_port_tty, BOTH),
    ROW(add_console_port_inout, BOTH),
    ROW(start_enter, BOTH),
    ROW(add_virtiofs3, SECOND),
    ROW(set_root, FIRST),
    ROW(disable_implicit_console, FIRST),
    ROW(disable_implicit_vsock, FIRST),
    ROW(init_log, 0),
    ROW(get_last_error, 0),
};
const size_t n_krun_functions = COUNT_OF(krun_functions);

int krun_check(bool (*has)(void *context, const char *name), void *context, const char *version,
               struct error *err)
{
    unsigned generation = has(context, "krun_set_root") ? FIRST : SECOND;
    CLEANUP_TEXT struct text missing = TEXT_INIT;

    for (size_t i = 0; i < n_krun_functions; i++)
        if ((krun_functions[i].needed_in & generation) && !has(context, krun_functions[i].name))
            text_addf(&missing, " %s", krun_functions[i].name);
    if (missing.length > 0)
        return error_set(err, "preflight-failed", "libkrun of the %s generation (%s) lacks%s",
                         generation == FIRST ? "first" : "second", version, missing.data);
    return 0;
}

/* A library's file in memory; every offset in it is checked against its size. */
struct image {
    const uint8_t *bytes;
    size_t size;
    const Elf64_Sym *symbols;
    size_t n_symbols;
    const char *names; /* NUL-terminated at the end of its section */
    size_t names_size;
};

static const void *at(const struct image *image, uint64_t offset, uint64_t size)
{
    return offset <= image->size && size <= image->size - offset ? image->bytes + offset : NULL;
}

static const char *name_at(const struct image *image, uint64_t offset)
{
    return offset < image->names_size ? image->names + offset : "";
}

/* The section of that type, or NULL; *ret_data is its content. */
static const Elf64_Shdr *section(const struct image *image, uint32_t type, const void **ret_data)
{
    const Elf64_Ehdr *header = at(image, 0, sizeof *header);

    for (size_t i = 0; i < header->e_shnum; i++) {
        const Elf64_Shdr *row = at(image, header->e_shoff + i * sizeof *row, sizeof *row);
        if (!row)
            return NULL;
        if (row->sh_type == type && row->sh_offset % ALIGNMENT == 0 &&
            (*ret_data = at(image, row->sh_offset, row->sh_size)))
            return row;
    }
    return NULL;
}

/* Finds the dynamic symbols and their names. */
static int read_symbols(struct image *image)
{
    const Elf64_Ehdr *header = at(image, 0, sizeof *header);
    const void *symbols = NULL, *names;

    if (!header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_type != ET_DYN ||
        header->e_shoff % ALIGNMENT != 0)
        return -1;
    const Elf64_Shdr *table = section(image, SHT_DYNSYM, &symbols);
    if (!table || table->sh_link >= header->e_shnum)
        return -1;
    const Elf64_Shdr *strings =
        at(image, header->e_shoff + table->sh_link * sizeof *strings, sizeof *strings);
    names = strings ? at(image, strings->sh_offset, strings->sh_size) : NULL;
    if (!names || strings->sh_size == 0 || ((const char *)names)[strings->sh_size - 1] != '\0')
        return -1;
    image->symbols = symbols;
    image->n_symbols = table->sh_size / sizeof *image->symbols;
    image->names = names;
    image->names_size = strings->sh_size;
    return 0;
}

static bool exports(void *context, const char *name)
{
    const struct image *image = context;

    for (size_t i = 0; i < image->n_symbols; i++)
        if (image->symbols[i].st_shndx != SHN_UNDEF &&
            strcmp(name_at(image, image->symbols[i].st_name), name) == 0)
            return true;
    return false;
}

static void read_soname(const struct image *image, char *ret, size_t size)
{
    const void *data = NULL;
    const Elf64_Shdr *dynamic = section(image, SHT_DYNAMIC, &data);
    const Elf64_Dyn *rows = data;

    (void)snprintf(ret, size, "unnamed");
    for (size_t i = 0; dynamic && i < dynamic->sh_size / sizeof *rows; i++)
        if (rows[i].d_tag == DT_SONAME)
            (void)snprintf(ret, size, "%s", name_at(image, rows[i].d_un.d_val));
}

int krun_check_file(const char *path, char *ret_soname, size_t size, struct error *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct image image = {0};
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0)
        return error_errno(err, "preflight-failed", "%s", path);
    image.size = (size_t)status.st_size;
    void *map = image.size > 0 ? mmap(NULL, image.size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    if (map == MAP_FAILED)
        return error_set(err, "preflight-failed", "%s can't be read", path);
    image.bytes = map;
    int result = read_symbols(&image);
    if (result < 0)
        error_set(err, "preflight-failed", "%s is not a library of this machine", path);
    else
        read_soname(&image, ret_soname, size);
    if (result == 0)
        result = krun_check(exports, &image, ret_soname, err);
    (void)munmap(map, image.size);
    return result;
}
