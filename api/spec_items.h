/* Rows and rules that the tables of a plan and of an exec share (defined in spec.c). */
#pragma once

#include "api/field.h"

enum { ARG_STRING_MAX = 131072 };

extern const struct field field_argument, field_env_name, field_env_value;
#define WORKDIR_PATTERN "^/$|^(/([^./][^/]*|[.][^./][^/]*|[.][.][^/]+))+$"
const char *workdir_check(const char *value);
