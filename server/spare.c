#include "server/spare.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/util.h"

#ifdef KEEP_NO_SPARES /* where a sanitizer is to see a use after the end */
#define KEEPS false
#else
#define KEEPS true
#endif

static _Thread_local void *kept[N_SPARES];
static _Thread_local bool known; /* the thread frees them when it ends */
static pthread_key_t end_of_thread;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool works;

static void free_kept(void *blocks)
{
    void **block = blocks;

    for (size_t i = 0; i < N_SPARES; i++)
        free(block[i]);
}

static void prepare(void)
{
    works = KEEPS && pthread_key_create(&end_of_thread, free_kept) == 0;
}

static bool may_keep(void)
{
    if (known)
        return true;
    (void)pthread_once(&once, prepare);
    known = works && pthread_setspecific(end_of_thread, kept) == 0;
    return known;
}

void *spare_take(enum spare kind, size_t size)
{
    void *block = kept[kind];

    kept[kind] = NULL;
    return block ? block : malloc(size);
}

void spare_give(enum spare kind, void *block)
{
    if (block && !kept[kind] && may_keep())
        kept[kind] = block;
    else
        free(block);
}
