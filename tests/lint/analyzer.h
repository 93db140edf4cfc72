/* Read by clang-tidy before each file (never by a compiler). Its analyzer sees one file at a time and
 * would follow paths on which a function that sets an error goes on as if it had returned 0. */
#pragma once

#include "base/error.h"

#define error_set(...) (error_set(__VA_ARGS__), -1)
#define error_errno(...) (error_errno(__VA_ARGS__), -1)
#define error_wrap(...) (error_wrap(__VA_ARGS__), -1)
