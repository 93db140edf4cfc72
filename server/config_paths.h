/* Paths of the configuration: how they are made absolute, and what they are when nobody said. */
#pragma once

#include "server/config.h"

/* The path from the root, by the working directory; "" stays "". NULL when memory is short. Caller
 * frees. */
char *path_absolute(const char *path);
/* The same for each of DIR[:DIR…]; empty ones and repetitions go. */
char *paths_absolute(const char *paths);
/* Fills the paths that are still NULL or empty, and adds PATH to tools_path. */
int config_fill_paths(struct config *config, struct error *err);
