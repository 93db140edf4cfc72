/* What the main thread does while the others serve: signals, the configuration read again, and
 * what a service manager wants to hear (sd_notify(3)). */
#pragma once

#include "base/error.h"
#include "server/app.h"

struct http;

/* How the daemon was called: for reading the configuration again. */
struct service {
    struct app *app;
    struct http *http;
    int signals; /* of signalfd: SIGTERM and SIGINT end it, SIGHUP reads the configuration again */
    int argc;
    char **argv;
};

/* Logs as the configuration says. */
void service_log(const struct config *config);
/* Says where it is ready, and goes on until it is told to end. */
int service_run(const struct service *service, struct error *err);
