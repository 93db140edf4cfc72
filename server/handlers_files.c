/* Files into and out of a running bottle: one as it is, a folder as a tar stream. */
#include "server/handlers.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "guest/files.h"
#include "server/app.h"
#include "server/registry.h"
#include "server/transfer.h"

#define BYTES_TYPE "application/octet-stream"
#define TAR_TYPE "application/x-tar"

/* ── what is asked ── */

static bool mode_fits(const char *mode)
{
    size_t length = strlen(mode);

    return length >= 3 && length <= 5 && mode[strspn(mode, "01234567")] == '\0' &&
           (length < 5 || mode[0] == '0');
}

static bool owner_fits(const char *owner, enum transfer_verb verb)
{
    static const struct files_owner nobody;
    struct files_owner parsed;

    if (verb == TRANSFER_UNPACK && strcmp(owner, "keep") == 0)
        return true;
    return owner[0] && files_owner_parse(owner, &nobody, &parsed);
}

/* False: it was answered. */
static bool read_query(struct request *request, struct transfer_plan *plan)
{
    const char *mode = request_query(request, "mode"), *owner = request_query(request, "owner");

    plan->path = request_query(request, "path");
    plan->mode = mode ? mode : "";
    plan->owner = owner ? owner : "";
    if (!plan->path || !files_path_fits(plan->path))
        reply_fault(request, "invalid-query",
                    "path: an absolute path in the guest, like /workspace/notes.txt, of at most %d "
                    "bytes, without \".\", \"..\" and doubled slashes",
                    FILES_PATH_MAX);
    else if (mode && !mode_fits(mode))
        reply_fault(request, "invalid-query", "mode: three or four octal digits, like 644 or 0755");
    else if (owner && !owner_fits(owner, plan->verb))
        reply_fault(request, "invalid-query",
                    "owner: numbers of user and group, each below %d, like 1000:1000%s",
                    FILES_OWNER_END,
                    plan->verb == TRANSFER_UNPACK ? ", or \"keep\" for the archive's own" : "");
    else
        return true;
    return false;
}

/* Known before a body is read; the engine looks once more. */
static bool check_bottle(struct request *request)
{
    const char *slug = request_param(request, "slug");
    struct snapshot *snapshot = registry_get(request_app(request)->registry, slug);

    if (!snapshot) {
        reply_fault(request, "not-found", "there is no bottle named %s", slug);
        return false;
    }
    enum bottle_state state = snapshot->bottle.state;
    snapshot_release(snapshot);
    if (state != STATE_RUNNING)
        reply_fault(request, "wrong-state", "%s is %s: files are those of a running bottle", slug,
                    states[state].name);
    return state == STATE_RUNNING;
}

static void done(void *context)
{
    transfer_unref(context);
}

static void begin(struct request *request, enum transfer_verb verb, struct worker worker)
{
    struct transfer_plan plan = {.verb = verb};
    struct problem problem = PROBLEM_INIT;
    struct app *app = request_app(request);

    if (!read_query(request, &plan) || !check_bottle(request))
        return;
    if (request_declared(request) > (uint64_t)app->config.files_max_bytes) {
        reply_fault(request, "file-too-large", "a copy may have %lld bytes here (files_max_bytes)",
                    (long long)app->config.files_max_bytes);
        return;
    }
    struct transfer *transfer = transfer_new(app, request_param(request, "slug"), &plan, &problem);
    if (!transfer) {
        reply_problem(request, &problem);
        problem_free(&problem);
        return;
    }
    worker.done = done;
    worker.context = transfer;
    worker.fd = transfer_fd(transfer);
    request_work(request, worker);
}

/* Whether there is something to be answered; a failure is. */
static bool is_ready(struct transfer *transfer, struct request *request)
{
    struct problem problem = PROBLEM_INIT;
    enum transfer_state state = transfer_look(transfer, &problem);

    if (state == TRANSFER_FAILED)
        reply_problem(request, &problem);
    problem_free(&problem);
    return state == TRANSFER_READY;
}

/* ── out ── */

static void add_head(struct request *request, const struct transfer_head *head)
{
    char value[64];
    time_t modified = (time_t)head->modified;
    struct tm parts;

    (void)snprintf(value, sizeof value, "%04o", head->mode);
    reply_header(request, "X-File-Mode", value);
    (void)snprintf(value, sizeof value, "%u:%u", head->uid, head->gid);
    reply_header(request, "X-File-Owner", value);
    if (gmtime_r(&modified, &parts) &&
        strftime(value, sizeof value, "%a, %d %b %Y %H:%M:%S GMT", &parts) > 0)
        reply_header(request, "Last-Modified", value);
}

static void send_out(struct transfer *transfer, struct request *request, const char *type)
{
    const struct transfer_head *head = transfer_head(transfer);

    reply_stream(request, 200, type,
                 (struct stream){.next = transfer_next,
                                 .done = done,
                                 .context = transfer_ref(transfer),
                                 .fd = transfer_fd(transfer),
                                 .whole = true,
                                 .sized = head->sized,
                                 .size = head->size});
}

static void look_file(void *context, struct request *request)
{
    if (!is_ready(context, request))
        return;
    add_head(request, transfer_head(context));
    send_out(context, request, BYTES_TYPE);
}

static void look_archive(void *context, struct request *request)
{
    if (is_ready(context, request))
        send_out(context, request, TAR_TYPE);
}

void handle_file_get(struct request *request)
{
    begin(request, TRANSFER_GET, (struct worker){.look = look_file});
}

void handle_archive_get(struct request *request)
{
    begin(request, TRANSFER_PACK, (struct worker){.look = look_archive});
}

/* ── in ── */

static ssize_t take(void *context, struct request *request, const char *bytes, size_t length)
{
    ssize_t took = transfer_put(context, bytes, length);

    if (took < 0)
        (void)is_ready(context, request); /* says why */
    return took;
}

static void look_put(void *context, struct request *request)
{
    transfer_end_input(context);
    if (is_ready(context, request))
        reply_empty(request, 204);
}

static void look_unpack(void *context, struct request *request)
{
    uint64_t counts[3];

    transfer_end_input(context);
    if (!is_ready(context, request))
        return;
    transfer_counts(context, counts);
    reply_json(request, 200,
               json_pack("{s:I, s:I, s:I}", "entries", (json_int_t)counts[0], "bytes",
                         (json_int_t)counts[1], "left_out", (json_int_t)counts[2]));
}

void handle_file_put(struct request *request)
{
    begin(request, TRANSFER_PUT, (struct worker){.take = take, .look = look_put});
}

void handle_archive_put(struct request *request)
{
    begin(request, TRANSFER_UNPACK, (struct worker){.take = take, .look = look_unpack});
}
