#include "backends/choices.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"

enum { KEPT_MS = 1000 };

struct choices {
    pthread_mutex_t lock;
    struct backend_choice backend;
    int64_t backend_until_ms;
    struct {
        const struct engine_row *row;
        int64_t until_ms;
    } engines[N_SIDECARS];
};

struct choices *choices_new(void)
{
    struct choices *choices = calloc(1, sizeof *choices);

    if (choices)
        (void)pthread_mutex_init(&choices->lock, NULL);
    return choices;
}

void choices_free(struct choices *choices)
{
    if (!choices)
        return;
    (void)pthread_mutex_destroy(&choices->lock);
    free(choices);
}

bool choices_backend(struct choices *choices, struct backend_choice *ret)
{
    if (!choices)
        return false;
    (void)pthread_mutex_lock(&choices->lock);
    const bool known = clock_monotonic_ms() < choices->backend_until_ms;
    if (known)
        *ret = choices->backend;
    (void)pthread_mutex_unlock(&choices->lock);
    return known;
}

void choices_keep_backend(struct choices *choices, const struct backend_choice *choice)
{
    if (!choices)
        return;
    (void)pthread_mutex_lock(&choices->lock);
    choices->backend = *choice;
    choices->backend_until_ms = clock_monotonic_ms() + KEPT_MS;
    (void)pthread_mutex_unlock(&choices->lock);
}

const struct engine_row *choices_engine(struct choices *choices, enum sidecar sidecar)
{
    const struct engine_row *row = NULL;

    if (!choices)
        return NULL;
    (void)pthread_mutex_lock(&choices->lock);
    if (clock_monotonic_ms() < choices->engines[sidecar].until_ms)
        row = choices->engines[sidecar].row;
    (void)pthread_mutex_unlock(&choices->lock);
    return row;
}

void choices_keep_engine(struct choices *choices, enum sidecar sidecar,
                         const struct engine_row *row)
{
    if (!choices)
        return;
    (void)pthread_mutex_lock(&choices->lock);
    choices->engines[sidecar].row = row;
    choices->engines[sidecar].until_ms = clock_monotonic_ms() + KEPT_MS;
    (void)pthread_mutex_unlock(&choices->lock);
}
