/* What "auto" came to in the last second: a burst of bottles does not have every program that could
 * be here looked for again and again. What was chosen is looked at each time all the same. */
#pragma once

#include "backends/backend.h"
#include "backends/engines.h"

struct backend_choice {
    const struct backend *backend;
    char words[1024]; /* why none of those before it */
};

/* NULL: no memory. */
struct choices *choices_new(void);
void choices_free(struct choices *choices);

/* Nothing is kept, or is too old: false, NULL. Without `choices` nothing ever is. */
bool choices_backend(struct choices *choices, struct backend_choice *ret);
void choices_keep_backend(struct choices *choices, const struct backend_choice *choice);
const struct engine_row *choices_engine(struct choices *choices, enum sidecar sidecar);
void choices_keep_engine(struct choices *choices, enum sidecar sidecar,
                         const struct engine_row *row);
