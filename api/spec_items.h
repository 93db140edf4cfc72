/* Rows and rules that the tables of a plan and of an exec share (defined in spec.c). */
#pragma once

#include "api/field.h"

enum { ARG_STRING_MAX = 131072 };

extern const struct field field_argument, field_env_name, field_env_value;
/* An item of `mounts`, and what goes with it (spec_mounts.c). */
extern const struct field field_mount;
struct spec;
void spec_check_mounts(const struct spec *spec, struct problem *problem);
void spec_free_mounts(struct spec *spec);
#define WORKDIR_PATTERN "^/$|^(/([^./\\x00][^/\\x00]*|[.][^./\\x00][^/\\x00]*|[.][.][^/\\x00]+))+$"
const char *workdir_check(const char *value);
