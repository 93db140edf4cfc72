/* What the whole daemon shares. Made by main.c, read by the handlers. */
#pragma once

#include <stdint.h>

#include "backends/backend.h"
#include "server/config.h"

struct registry;
struct store;
struct engine;
struct feed;
struct images;
struct templates;
struct secrets;

struct app {
    struct config config;
    struct host host;
    struct store *store;
    struct feed *feed;
    struct registry *registry;
    struct engine *engine;
    struct images *images;
    struct templates *templates;
    struct secrets *secrets;
    int64_t started_ms;
};

#define BOTTLED_VERSION "0.1.0"
