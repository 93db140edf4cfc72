#include "server/made.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/request.h"

/* A place for each remainder of the bytes' address, so that a look is one comparison. */
enum { PLACES = 64 };

#define NAME "X-Request-Id"

struct shelf {
    struct made *places[PLACES];
};

static _Thread_local struct shelf *mine;
static pthread_key_t end_of_thread;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool works;

static void made_free(struct made *made)
{
    if (!made)
        return;
    MHD_destroy_response(made->response);
    shared_bytes_unref(made->bytes);
    free(made);
}

static void free_shelf(void *context)
{
    struct shelf *shelf = context;

    for (size_t i = 0; i < PLACES; i++)
        made_free(shelf->places[i]);
    free(shelf);
}

static void prepare(void)
{
    works = pthread_key_create(&end_of_thread, free_shelf) == 0;
}

/* NULL: there can be none. */
static struct shelf *shelf(void)
{
    if (mine)
        return mine;
    (void)pthread_once(&once, prepare);
    struct shelf *made = works ? calloc(1, sizeof *made) : NULL;
    if (made && pthread_setspecific(end_of_thread, made) == 0)
        return mine = made;
    free(made);
    return NULL;
}

static size_t place(const struct shared_bytes *bytes)
{
    return (size_t)((uintptr_t)bytes / 32 % PLACES); /* malloc's blocks are some 32 bytes apart */
}

static void write_id(struct made *made, const char *id)
{
    const size_t length = strnlen(id, sizeof made->id - 1);

    memcpy(made->id, id, length);
    made->id[length] = '\0';
}

struct made *made_take(const struct shared_bytes *bytes, const char *id)
{
    struct made **at = mine ? &mine->places[place(bytes)] : NULL, *made = at ? *at : NULL;

    if (!made || made->bytes != bytes)
        return NULL;
    *at = NULL;
    if (MHD_del_response_header(made->response, NAME, made->id) == MHD_YES &&
        MHD_add_response_header(made->response, NAME, id) == MHD_YES) {
        write_id(made, id);
        return made;
    }
    made_free(made);
    return NULL;
}

struct made *made_new(struct shared_bytes *bytes, struct MHD_Response *response, const char *id)
{
    struct made *made = malloc(sizeof *made);

    if (!made)
        return NULL;
    made->bytes = shared_bytes_ref(bytes);
    made->response = response;
    write_id(made, id);
    return made;
}

void made_give(struct made *made)
{
    struct shelf *kept = made ? shelf() : NULL;

    if (!kept) {
        made_free(made);
        return;
    }
    struct made **at = &kept->places[place(made->bytes)];
    made_free(*at);
    *at = made;
}
