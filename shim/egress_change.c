#include "shim/egress_change.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/plan.h"
#include "api/rule_match.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/util.h"
#include "shim/filter.h"
#include "shim/jail.h"
#include "shim/staging.h"
#include "shim/supervisor_internal.h"

/* All steps together stay below what bottled waits for (ten seconds). */
enum {
    CHECK_MS = 4000,
    RELOAD_MS = 3000,
    BACK_MS = 2000,
    TICK_MS = 2,
    REQUEST_MAX = 4 * 1024 * 1024,
    CONFIG_MAX = 2 * 1024 * 1024,
};

static void start_next(struct supervisor *sup);

void egress_change_init(struct supervisor *sup)
{
    sup->change.check.out.source.fd = sup->change.check.out.file = -1;
}

/* --- The request ------------------------------------------------------------------------------ */

static void list_free(struct rule_list *list)
{
    rules_free(list->items, list->count);
    *list = (struct rule_list){0};
}

static void request_free(struct change_request *request)
{
    list_free(&request->rules);
    free(request->name);
    free(request->content);
    *request = (struct change_request){0};
}

static int read_file(const json_t *files, struct change_request *ret, struct error *err)
{
    const json_t *file = json_array_get(files, 0);
    const char *name = json_member_string(file, "name");
    const char *content = json_member_string(file, "content");

    if (json_array_size(files) != 1 || !name || !content || !content[0])
        return error_set(err, NULL, "the new egress has no config, or more than one");
    ret->name = strdup(name);
    ret->content = strdup(content);
    return ret->name && ret->content ? 0 : error_set(err, NULL, "out of memory");
}

/* The whole file; NULL when it is none that we take. */
static char *read_all(int fd, size_t *ret_length, struct error *err)
{
    struct stat status;

    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || lseek(fd, 0, SEEK_SET) < 0) {
        error_set(err, NULL, "no file of its own");
        return NULL;
    }
    return file_read_open(fd, "its file", REQUEST_MAX, ret_length, err);
}

static int read_request(int fd, struct change_request *ret, struct error *err)
{
    size_t length;
    CLEANUP_FREE char *text = read_all(fd, &length, err);
    CLEANUP_JSON json_t *json = text ? json_parse(text, length, err) : NULL;

    if (!json)
        return error_wrap(err, "the new egress");
    if (rules_decode(json_object_get(json, "rules"), &ret->rules.items, &ret->rules.count, err) < 0)
        return error_wrap(err, "the new egress");
    return read_file(json_object_get(json, "files"), ret, err);
}

static void answer(struct supervisor *sup, const struct change_request *request, const char *error)
{
    json_t *words = error ? json_string_lossy(error) : json_null();

    control_answer(sup->control, request->client,
                   json_pack("{s:I, s:o}", "applied", (json_int_t)request->id, "error", words));
}

/* --- Places and the engine -------------------------------------------------------------------- */

/* The sidecar whose config follows from the egress, or -1. */
static int find_proxy(const struct supervisor *sup)
{
    for (size_t i = 0; i < sup->launch->n_sidecars; i++)
        if (jail_is_proxy(&sup->launch->sidecars[i].program) &&
            sup->launch->sidecars[i].config.path)
            return (int)i;
    return -1;
}

static const struct sidecar_spec *proxy_spec(const struct supervisor *sup)
{
    return &sup->launch->sidecars[find_proxy(sup)];
}

static struct child *proxy_child(struct supervisor *sup)
{
    return &sup->sidecars[find_proxy(sup)];
}

/* The config in our own view of the directory; "" or ".new" behind its name. */
static void place(const char *name, const char *suffix, char *ret, size_t size)
{
    (void)snprintf(ret, size, CONFIG_DIR "/%s%s", name, suffix);
}

static int write_config(const char *name, const char *suffix, const char *content,
                        struct error *err)
{
    char path[300];

    place(name, suffix, path, sizeof path);
    return file_write(path, content, strlen(content), 0600, false, err);
}

int egress_place_config(const struct sidecar_config *config, struct error *err)
{
    char path[300];

    if (!config->path)
        return 0;
    place(config->name, "", path, sizeof path);
    if (access(path, F_OK) == 0)
        return 0;
    CLEANUP_FREE char *content = file_read(config->path, CONFIG_MAX, NULL, err);
    return content ? write_config(config->name, "", content, err) : -1;
}

static int tell_engine(struct supervisor *sup, struct error *err)
{
    if (!proxy_spec(sup)->config.hangs_up)
        return 0; /* it watches the file */
    CLEANUP_CLOSE int engine = child_inner(proxy_child(sup));
    if (engine < 0 || pidfd_kill(engine, SIGHUP) < 0)
        return error_errno(err, NULL, "telling the engine to read its new config");
    return 0;
}

int egress_change_relays(struct supervisor *sup)
{
    struct egress_change *change = &sup->change;
    int result = 0;

    if (!change->changed)
        return 0;
    for (size_t i = 0; i < sup->launch->n_forwards; i++)
        if (sup->relays[i] &&
            strcmp(sup->launch->forwards[i].sidecar, sidecars[SIDECAR_PIPELOCK].name) == 0 &&
            relay_set_rules(sup->relays[i], change->rules.items, change->rules.count) < 0)
            result = -1;
    return result;
}

/* --- Steps ------------------------------------------------------------------------------------ */

static void enter(struct supervisor *sup, enum change_step step, int64_t within_ms)
{
    int64_t now = clock_monotonic_ms();

    sup->change.step = step;
    sup->change.until_ms = now + within_ms;
    loop_timer_set(sup->loop, &sup->change.tick,
                   now + (step == CHANGE_CHECK ? within_ms : TICK_MS));
}

/* It is over: `error` NULL means that the engine has the new egress. A relay that can't take it too
 * ends the bottle: of an egress that is half in force nobody could say what it is. */
static void finish(struct supervisor *sup, const char *error)
{
    static const char short_of_memory[] =
        "the relay could not take the new egress: memory is short";
    struct egress_change *change = &sup->change;
    bool torn = false;

    loop_timer_cancel(sup->loop, &change->tick);
    sink_await(&proxy_child(sup)->out, NULL, NULL, NULL);
    sink_close(&change->check.out);
    free(change->before);
    change->before = NULL;
    change->step = CHANGE_NONE;
    if (!error) {
        list_free(&change->rules);
        change->rules = change->now.rules;
        change->now.rules = (struct rule_list){0};
        change->changed = true;
        torn = egress_change_relays(sup) < 0;
    }
    answer(sup, &change->now, torn ? short_of_memory : error);
    request_free(&change->now);
    if (torn)
        supervisor_fail(sup, "%s", short_of_memory);
    else
        start_next(sup);
}

static void finish_error(struct supervisor *sup, const char *what, struct error *err)
{
    (void)error_wrap(err, "%s", what);
    finish(sup, err->text);
}

static void on_in_force(void *context)
{
    struct supervisor *sup = context;
    enum change_step step = sup->change.step;

    if (step == CHANGE_RELOAD)
        enter(sup, CHANGE_LISTEN, RELOAD_MS);
    else if (step == CHANGE_BACK)
        finish(sup, "the engine did not take the new config in time, and has the old one again");
}

static void go_back(struct supervisor *sup)
{
    struct egress_change *change = &sup->change;
    struct error err = ERROR_INIT;

    sink_await(&proxy_child(sup)->out, proxy_spec(sup)->config.in_force, on_in_force, sup);
    if (write_config(change->now.name, "", change->before, &err) < 0 || tell_engine(sup, &err) < 0)
        finish_error(sup, "the engine did not take the new config, nor the old one again", &err);
    else
        enter(sup, CHANGE_BACK, BACK_MS);
}

static void swap(struct supervisor *sup)
{
    struct egress_change *change = &sup->change;
    char path[300], draft[300];
    struct error err = ERROR_INIT;

    place(change->now.name, "", path, sizeof path);
    place(change->now.name, ".new", draft, sizeof draft);
    sink_await(&proxy_child(sup)->out, proxy_spec(sup)->config.in_force, on_in_force, sup);
    if (rename(draft, path) < 0) {
        error_errno(&err, NULL, "%s", path);
        finish_error(sup, "the new config could not be put in place", &err);
        return;
    }
    enter(sup, CHANGE_RELOAD, RELOAD_MS);
    if (tell_engine(sup, &err) < 0)
        go_back(sup);
}

void egress_change_checked(struct supervisor *sup, int status)
{
    struct child *check = &sup->change.check;
    char words[96], reason[400];

    check->pid = 0;
    if (sup->change.step != CHANGE_CHECK)
        return;
    sink_drain(&check->out);
    if (status == 0) {
        swap(sup);
        return;
    }
    wait_status_words(status, words, sizeof words);
    (void)snprintf(reason, sizeof reason, "the engine refuses the new config (%s): %s", words,
                   check->out.seen[0] ? check->out.seen : check->out.last);
    finish(sup, reason);
}

static int start_check(struct supervisor *sup, struct error *err)
{
    struct egress_change *change = &sup->change;
    const struct sidecar_spec *proxy = proxy_spec(sup);
    CLEANUP_ARGV struct argv argv = ARGV_INIT;
    CLEANUP_CLOSE int filter = filter_open(FILTER_PROXY, err);

    if (filter < 0 || write_config(change->now.name, ".new", change->now.content, err) < 0)
        return -1;
    jail_check(&argv, sup->launch, proxy);
    if (argv.failed)
        return error_set(err, NULL, "out of memory");
    if (sink_open(&change->check.out, sup->loop, -1, "check", 0, err) < 0)
        return -1;
    sink_await(&change->check.out, proxy->config.complaint, NULL, NULL);
    const struct spawn_fd fds[] = {{filter, JAIL_FILTER_FD}};
    return child_start(&change->check, sup->launch, argv.items, fds, COUNT_OF(fds), err);
}

static void on_ready(struct supervisor *sup)
{
    struct egress_change *change = &sup->change;
    struct error err = ERROR_INIT;
    char path[300];

    place(change->now.name, "", path, sizeof path);
    change->before = file_read(path, CONFIG_MAX, NULL, &err);
    if (!change->before)
        finish_error(sup, "the config in force could not be read", &err);
    else if (strcmp(change->before, change->now.content) == 0)
        finish(sup, NULL); /* as when it is sent again */
    else if (start_check(sup, &err) < 0)
        finish_error(sup, "the new config could not be checked", &err);
    else
        enter(sup, CHANGE_CHECK, CHECK_MS);
}

static void on_late(struct supervisor *sup)
{
    switch (sup->change.step) {
    case CHANGE_CHECK:
        child_kill(&sup->change.check);
        sup->change.check.pid = 0;
        finish(sup, "the engine's check of the new config did not end in time");
        return;
    case CHANGE_RELOAD:
    case CHANGE_LISTEN:
        go_back(sup);
        return;
    case CHANGE_BACK:
        finish(sup, "the engine took neither the new config nor the old one again in time");
        return;
    case CHANGE_WAIT:
    case CHANGE_NONE:
        return;
    }
}

static void on_tick(struct loop_timer *timer)
{
    struct supervisor *sup = timer->data;
    struct egress_change *change = &sup->change;

    if (change->step == CHANGE_WAIT && sup->sidecars_ready) {
        on_ready(sup);
    } else if (change->step == CHANGE_LISTEN &&
               port_is_ours(proxy_spec(sup)->host, proxy_spec(sup)->host_port)) {
        finish(sup, NULL);
    } else if (change->step != CHANGE_WAIT && clock_monotonic_ms() >= change->until_ms) {
        on_late(sup);
    } else if (change->step != CHANGE_NONE) {
        loop_timer_set(sup->loop, timer, clock_monotonic_ms() + TICK_MS);
    }
}

static void start_next(struct supervisor *sup)
{
    struct egress_change *change = &sup->change;

    if (change->step != CHANGE_NONE || !change->next.id)
        return;
    change->now = change->next;
    change->next = (struct change_request){0};
    change->tick.callback = on_tick;
    change->tick.data = sup;
    enter(sup, CHANGE_WAIT, 0);
}

void egress_change_request(struct supervisor *sup, uint64_t client, int64_t id, int fd)
{
    struct change_request request = {.client = client, .id = id};
    struct egress_change *change = &sup->change;
    struct error err = ERROR_INIT;
    int proxy = find_proxy(sup);

    int result = read_request(fd, &request, &err);
    (void)close(fd);
    if (result == 0 && (sup->phase >= PHASE_ENDING || proxy < 0 || id < 1))
        result = error_set(&err, NULL, "the bottle has no proxy, or ends");
    if (result == 0 && strcmp(request.name, sup->launch->sidecars[proxy].config.name) != 0)
        result = error_set(&err, NULL,
                           "the bottle's engine has %s, not %.100s: another engine needs a restart",
                           sup->launch->sidecars[proxy].config.name, request.name);
    if (result < 0) {
        answer(sup, &request, err.text);
        request_free(&request);
        return;
    }
    if (change->next.id)
        answer(sup, &change->next, "a newer change came before this one was made");
    request_free(&change->next);
    change->next = request;
    start_next(sup);
}

void egress_change_end(struct supervisor *sup)
{
    loop_timer_cancel(sup->loop, &sup->change.tick);
    child_kill(&sup->change.check);
    sup->change.step = CHANGE_NONE;
    request_free(&sup->change.next);
}

void egress_change_free(struct supervisor *sup)
{
    struct egress_change *change = &sup->change;

    sink_close(&change->check.out);
    request_free(&change->now);
    request_free(&change->next);
    list_free(&change->rules);
    free(change->before);
}
