/* What the images' files share: the table and its entries.
 *
 * One lock guards the table. It is held for looks and small changes only: never while something is
 * imported, stored, or answered. */
#pragma once

#include <pthread.h>

#include "server/images.h"

enum image_state { IMAGE_IMPORTING, IMAGE_READY, IMAGE_FAILED };

struct image_waiter {
    struct image_waiter *next;
    images_wanted *wanted;
    images_done *done;
    void *context;
    int64_t until_ms;
};

struct image_entry {
    struct image_entry *next;
    char id[IMAGE_ID_SIZE];
    char source[IMAGE_SOURCE_SIZE];
    enum image_state state;
    struct image *image; /* once it is ready, or about to be */
    struct error failure;
    int64_t created_ms;
    const char *step;     /* NULL: nobody has begun */
    int64_t bytes, files; /* so far */
    unsigned pins;
    bool deleting;
    struct image_waiter *waiters;
};

struct images {
    struct app *app;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t wake;
    pthread_t thread;
    bool runs, ending;
    struct image_entry *first, **last;
    size_t importing, waiting; /* imports that are not over; who waits for one */
    atomic_bool cancelled;
    int64_t progress_ms; /* when the last event of progress was made; the thread's own */
};

/* Under the lock, all but image_answer and image_tell. */
struct image_entry *image_find(struct images *images, const char *id);
void image_add(struct images *images, struct image_entry *entry);
/* Takes it out of the table; the caller frees. */
void image_take_out(struct images *images, struct image_entry *entry);
void image_entry_free(struct image_entry *entry);
/* Removes the file of an entry's image, unless another has the same. */
void image_drop_file(struct images *images, const struct image_entry *entry);
/* The object of the HTTP contract. Caller owns. */
json_t *image_encode(const struct image_entry *entry);
/* Stores an event. */
void image_tell(struct images *images, const char *type, json_t *image);
/* Answers a list of waiters with a problem, and frees it. */
void image_answer_error(struct image_waiter *waiters, const struct error *err);
/* images_import.c: the thread. */
void *image_thread(void *argument);
