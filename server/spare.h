/* Blocks that a thread asks for anew with each request: it keeps one of each kind at hand, so that
 * the next request needs no malloc() of a size that glibc has no quick way for. */
#pragma once

#include <stddef.h>

enum spare { SPARE_READ, SPARE_REQUEST, N_SPARES };

/* A block with whatever is in it; NULL: no memory. One kind is always asked for with one size. */
void *spare_take(enum spare kind, size_t size);
/* The block (of that kind, or NULL) is not used any more; in any thread. */
void spare_give(enum spare kind, void *block);
