/* Reads a rendering case (tests/golden/<case>/input.json) and renders one of its files. Shared by
 * the golden test and the `render` tool.
 *
 * A case is an object with the sections that the wanted file needs: network, guest, qemu, proxy. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"

/* The file names that case_render() knows, in a fixed order; NULL at the end. */
extern const char *const case_files[];

/* Whether the case has the sections that `file` is made from. */
int case_has(const json_t *input, const char *file);
/* Adds the rendered file to *out; -1 with err when it has no such sections or the renderer refused.
 */
int case_render(const json_t *input, const char *file, struct text *out, struct error *err);
