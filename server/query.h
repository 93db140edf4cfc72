/* Query parameters that several handlers read the same way. Each answers 400 invalid-query itself
 * and returns -1 when the parameter is there and wrong. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "api/bottle.h"
#include "server/request.h"

enum { WAIT_DEFAULT_MS = 60000, WAIT_MAX_MS = 3600000 };

/* "true" or "false". */
int query_flag(struct request *request, const char *name, bool *ret);
/* A duration of at most `max_ms`. */
int query_duration(struct request *request, const char *name, int64_t max_ms, int64_t *ret_ms);
int query_integer(struct request *request, const char *name, int64_t min, int64_t max,
                  int64_t *ret);
/* Every value of a parameter, each a list of states with commas between, as a bit per state; 0 when
 * it is absent. Only states in `allowed`. */
int query_states(struct request *request, const char *name, unsigned allowed, unsigned *ret);
