/* GET /docs: a page to read and try openapi.yaml, and the files that it is made of.
 *
 * They are read when they are asked for: nobody does often, and they would be the larger part of
 * the daemon's memory. The page may load what comes from here, and run no script that is written
 * into it. */
#include "server/handlers.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/util.h"
#include "server/app.h"

enum { FILE_MAX = 8 * 1024 * 1024 };

static const struct {
    const char *name, *type;
} files[] = {
    {"index.html", "text/html; charset=utf-8"},
    {"page.js", "text/javascript; charset=utf-8"},
    {"swagger-ui-bundle.js", "text/javascript; charset=utf-8"},
    {"swagger-ui.css", "text/css; charset=utf-8"},
};

static void reply_file(struct request *request, const char *name, const char *type)
{
    char path[PATH_MAX];
    struct error err = ERROR_INIT;
    size_t length;

    (void)snprintf(path, sizeof path, "%s/%s", request_app(request)->config.docs_dir, name);
    char *bytes = file_read(path, FILE_MAX, &length, &err);
    if (!bytes) {
        reply_fault(request, "not-found",
                    "the page is not installed here (docs_dir); GET /openapi.yaml says the same");
        return;
    }
    struct shared_bytes *shared = shared_bytes_new(bytes, length);
    reply_header(request, "Content-Security-Policy",
                 "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                 "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    reply_header(request, "Referrer-Policy", "no-referrer");
    reply_shared(request, 200, type, shared);
    shared_bytes_unref(shared);
}

void handle_docs(struct request *request)
{
    reply_file(request, files[0].name, files[0].type);
}

void handle_docs_file(struct request *request)
{
    const char *name = request_param(request, "name");

    for (size_t i = 0; i < COUNT_OF(files); i++)
        if (strcmp(files[i].name, name) == 0) {
            reply_file(request, files[i].name, files[i].type);
            return;
        }
    reply_fault(request, "not-found", "the page has no such file");
}
