/* bottled: brings the parts up in order, waits for a signal, takes them down in the opposite order.
 *
 * Signals are blocked from the start and read from a descriptor by this thread alone; threads made
 * later inherit that. The bottles live on when the daemon ends, unless it was told otherwise. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backends/choices.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/secret.h"
#include "base/util.h"
#include "server/app.h"
#include "server/cgroup.h"
#include "server/config.h"
#include "server/engine.h"
#include "server/http.h"
#include "server/log.h"
#include "server/secrets.h"
#include "server/service.h"
#include "server/token_command.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };
enum { LOCK_WAIT_MS = 3000, LOCK_PAUSE_NS = 20000000 };

static int block_signals(struct error *err)
{
    sigset_t ours;

    (void)sigemptyset(&ours);
    (void)sigaddset(&ours, SIGTERM);
    (void)sigaddset(&ours, SIGINT);
    (void)sigaddset(&ours, SIGHUP);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its write */
    if (sigprocmask(SIG_BLOCK, &ours, NULL) < 0)
        return error_errno(err, NULL, "signals");
    int fd = signalfd(-1, &ours, SFD_CLOEXEC);
    return fd < 0 ? error_errno(err, NULL, "signalfd") : fd;
}

/* Each bottle needs some descriptors, and soft limits are made for select(), which nobody here
 * uses. */
static void raise_limits(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* A directory that is ours and that nobody else can change: what is below it is trusted. */
static int own_directory(const char *path, mode_t mode, struct error *err)
{
    struct stat status;

    if (directory_make(path, mode, err) < 0)
        return -1;
    if (lstat(path, &status) < 0)
        return error_errno(err, NULL, "%s", path);
    if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid())
        return error_set(err, NULL, "%s is not a directory of the user that runs bottled", path);
    if (status.st_mode & 0022 && chmod(path, mode) < 0)
        return error_errno(err, NULL, "%s", path);
    return 0;
}

static int make_directories(const struct config *config, struct error *err)
{
    /* As root each bottle has a user of its own, which has to get through to what is its own. */
    mode_t mode = geteuid() == 0 ? 0711 : 0700;

    if (own_directory(config->state_dir, mode, err) < 0)
        return error_wrap(err, "state_dir");
    if (own_directory(config->run_dir, *config->socket_group ? mode | 0111 : mode, err) < 0)
        return error_wrap(err, "run_dir");
    return 0;
}

/* Until another's lock is gone, or -1 with errno. A bottled that was killed is not always gone at
 * once: a program that it was about to start holds what it had open until its exec. */
static int lock_in_time(int fd)
{
    const int64_t end = clock_monotonic_ms() + LOCK_WAIT_MS;
    int result;

    while ((result = flock(fd, LOCK_EX | LOCK_NB)) < 0 && errno == EWOULDBLOCK &&
           clock_monotonic_ms() < end)
        (void)nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    return result;
}

/* Two daemons on one state would both answer for the same bottles; on one run directory each would
 * take the other's for what no bottle owns. Descriptor or -1; held until the end. */
static int lock_directory(const char *key, const char *directory, const char *name,
                          struct error *err)
{
    char path[512];

    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
        return error_set(err, NULL, "%s: the path is too long", key);
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_errno(err, NULL, "%s", path);
    if (lock_in_time(fd) == 0)
        return steal_fd(&fd);
    if (errno == EWOULDBLOCK)
        return error_set(err, NULL, "another bottled runs on %s; give this one a %s of its own",
                         directory, key);
    return error_errno(err, NULL, "%s", path);
}

static void fill_host(struct app *app)
{
    const struct config *config = &app->config;

    app->host = (struct host){
        .tools_path = config->tools_path,
        .libexec_dir = config->libexec_dir,
        .guest_dir = config->guest_dir,
        .state_dir = config->state_dir,
        .run_dir = config->run_dir,
        .libkrun = config->libkrun,
        .mount_roots = config->mount_roots,
        .git_gate_program = config->git_gate_program,
        .supervise_program = config->supervise_program,
        .dialect =
            strcmp(config->smolfile_dialect, "smolvm") == 0 ? SMOLFILE_SMOLVM : SMOLFILE_DEVICE,
        .accelerator = config->accelerator,
        .boot_timeout_ms = config->boot_timeout_ms,
        .sidecar_timeout_ms = config->sidecar_timeout_ms,
        .kvm_probe_ms = config->kvm_probe_ms,
        .log_bytes = config->log_bytes,
        .gvproxy_memory_mib = config->gvproxy_memory_mib,
        .sidecar_memory_mib = config->sidecar_memory_mib,
        .shim_memory_mib = config->shim_memory_mib,
        .max_disk_mib = config->max_disk_mib,
        .vm_overhead_mib = config->vm_overhead_mib,
        .bottle_pids = config->bottle_pids,
        .bottle_cpu_weight = config->bottle_cpu_weight,
        .cgroups = config->cgroups,
        .uid_base = (unsigned)config->uid_base,
        .choices = choices_new(), /* without it, each is made anew */
    };
}

static void probe_host(struct app *app)
{
    struct error err = ERROR_INIT;

    /* A probe that could not be made is a machine without KVM, not a daemon that does not start. */
    if (host_probe(&app->host, &err) < 0)
        log_event(LEVEL_WARNING, "KVM could not be probed", LOG_TEXT("error", err.text));
    else
        log_event(LEVEL_INFO, "KVM probed", LOG_TEXT("works", app->host.kvm_works ? "yes" : "no"),
                  LOG_TEXT("detail", app->host.kvm_detail));
}

static int run(struct app *app, struct service *service, struct error *err)
{
    if (make_directories(&app->config, err) < 0)
        return -1;
    CLEANUP_CLOSE int lock = lock_directory("state_dir", app->config.state_dir, "lock", err);
    CLEANUP_CLOSE int run_lock =
        lock < 0 ? -1 : lock_directory("run_dir", app->config.run_dir, "run.lock", err);
    if (run_lock < 0)
        return -1;
    fill_host(app);
    cgroup_settle(&app->host);
    log_event(LEVEL_INFO, "control groups", LOG_TEXT("detail", app->host.cgroup_detail));
    probe_host(app);
    int result = engine_start(app, err);
    struct http *http = result == 0 ? http_start(app, err) : NULL;
    service->http = http;
    result = http ? service_run(service, err) : -1;
    if (http)
        http_stop(http);
    if (app->engine)
        engine_stop(app, result == 0 && app->config.stop_bottles);
    engine_free(app);
    /* The last answers, the store's too, went to requests, which need http's lock. */
    http_free(http);
    cgroup_leave(&app->host);
    choices_free(app->host.choices);
    return result;
}

int main(int argc, char **argv)
{
    struct app app = {.started_ms = clock_wall_ms()};
    struct error err = ERROR_INIT;

    /* Nothing that others could write, or read; files say themselves what a group may. */
    (void)umask(0026);
    if (argc > 1 && strcmp(argv[1], "token") == 0)
        return token_command(argc - 1, argv + 1);
    int result = config_load(argc, argv, &app.config, &err);
    if (result < 0) {
        (void)fprintf(stderr, "bottled: %s\n", err.text);
        return EXIT_USAGE;
    }
    if (result > 0)
        return 0;
    json_object_seed(0); /* before there are threads */
    log_find_journal();
    service_log(&app.config);
    raise_limits();
    secret_no_dumps();
    app.secrets = secrets_new(&app.config, &err);
    CLEANUP_CLOSE int signals = app.secrets ? block_signals(&err) : -1;
    struct service service = {.app = &app, .signals = signals, .argc = argc, .argv = argv};
    result = signals < 0 ? -1 : run(&app, &service, &err);
    if (result < 0)
        log_event(LEVEL_ERROR, "bottled ends", LOG_TEXT("error", err.text));
    else
        log_event(LEVEL_INFO, "ended", LOG_NUMBER("ms", clock_wall_ms() - app.started_ms));
    secrets_free(app.secrets);
    config_free(&app.config);
    return result < 0 ? EXIT_FAILED : 0;
}
