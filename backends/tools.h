/* Finding the programs and files that a backend needs, and saying clearly which are missing. */
#pragma once

#include "backends/backend.h"

/* tool_find() that may say what it said in the last second, where that program still is: to tell
 * whether it is there, not to run it. */
int tool_is_there(const char *tools_path, const char *name, char *ret, size_t size);
/* One of the two. */
typedef int tool_finder(const char *tools_path, const char *name, char *ret, size_t size);
/* Adds a row for a program looked for along host->tools_path (and where distributions keep what is
 * in nobody's PATH). */
void preflight_program(struct preflight *preflight, const struct host *host, const char *name,
                       const char *hint);
/* Adds a row for a file that must be readable. */
void preflight_file(struct preflight *preflight, const char *name, const char *directory,
                    const char *file, const char *hint);
/* Adds a row with a verdict of its own. */
void preflight_row(struct preflight *preflight, const char *name, bool found, const char *path,
                   const char *detail, const char *hint);
/* Rows that both backends share: gvproxy, bubblewrap, our own helpers, the proxy engine, the
 * sidecars' programs. */
void preflight_common(struct preflight *preflight, const struct host *host,
                      const struct spec *spec);
/* True when an ELF program names an interpreter, so that its jail needs the system's libraries. */
bool program_is_dynamic(const char *path);
/* "builtin:NAME" → <guest_dir>/images/NAME.erofs; -1 for other names. The name was validated with
 * the plan. */
int guest_image_path(const struct host *host, const char *image, char *ret, size_t size);
/* The file of the plan's image, which must be readable. Kind "preflight-failed". */
int plan_image_path(const struct host *host, const struct plan *plan, char *ret, size_t size,
                    struct error *err);
/* A row for what makes the bottle's disk, where the plan wants one. */
void preflight_disk(struct preflight *preflight, const struct host *host, const struct spec *spec);
/* An argument vector, "argv" or another, that the rendered file `name` ("qemu.json") holds. The
 * caller releases it. */
int rendered_argv(const char *name, const char *member, const char *text, size_t length,
                  json_t **ret, struct error *err);
/* Joins size and time of change of the files of a NULL-terminated list. -1: one is missing. */
int files_identity(const char *const *paths, char *ret, size_t size);
