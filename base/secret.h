/* Memory for what must not be seen anywhere else: in no core dump, not swapped out as far as the
 * limit on locked memory goes, and wiped before it is given back. It never moves, so that no copy
 * stays behind. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct secret {
    uint8_t *bytes; /* NULL: none */
    size_t length, room;
};

/* Room for so many bytes. *ret is released with secret_free. */
int secret_make(struct secret *ret, size_t room, struct error *err);
/* Appends; -1 when there is no room, and then nothing is added. */
int secret_add(struct secret *secret, const void *bytes, size_t length);
/* Reads the rest of a file behind what is there: 0, or -1 with errno (EFBIG: more than `most`
 * bytes, or no room). */
int secret_read(struct secret *secret, int fd, size_t most);
/* Wipes what it held; it can be filled again. */
void secret_wipe(struct secret *secret);
void secret_free(struct secret *secret);

#define CLEANUP_SECRET __attribute__((cleanup(secret_free)))

/* No core dump of this process, nor of what it starts: neither to a file nor to a program that
 * takes them (core(5)). */
void secret_no_dumps(void);
