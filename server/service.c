#include "server/service.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/clock.h"
#include "server/config_keys.h"
#include "server/engine.h"
#include "server/http.h"
#include "server/log.h"

void service_log(const struct config *config)
{
    log_set_json(strcmp(config->log_format, "json") == 0);
    for (int level = 0; level < N_LEVELS; level++)
        if (strcmp(log_level_names[level], config->log_level) == 0)
            log_set_level((enum log_level)level);
}

/* --- SIGHUP --------------------------------------------------------------------------------- */

/* TLS itself is not switched on or off under clients: only its certificate changes. */
static bool takes_effect(const struct config_key *key, const struct config *old,
                         const struct config *fresh)
{
    const bool is_tls = strcmp(key->name, "tls_cert") == 0 || strcmp(key->name, "tls_key") == 0;

    return key->live && !(is_tls && !*old->tls_cert != !*fresh->tls_cert);
}

static void tell_changes(const struct config *old, const struct config *fresh)
{
    for (size_t i = 0; i < n_config_keys; i++) {
        const struct config_key *key = &config_keys[i];
        if (!config_differs(old, fresh, key))
            continue;
        if (takes_effect(key, old, fresh))
            log_event(LEVEL_ALWAYS, "a key changed", LOG_TEXT("key", key->name));
        else
            log_event(LEVEL_WARNING, "a changed key needs a restart", LOG_TEXT("key", key->name));
    }
}

/* Reads the configuration as at the start; `current` is what was read last. */
static void reload(const struct service *service, struct config *current)
{
    struct config fresh = {0};
    struct error err = ERROR_INIT;

    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)clock_monotonic_us());
    int result = config_load(service->argc, service->argv, &fresh, &err);
    if (result == 0 && http_apply(service->http, &fresh, &err) == 0) {
        tell_changes(current, &fresh);
        service_log(&fresh);
        config_free(current);
        *current = fresh;
        log_event(LEVEL_INFO, "configuration read again", LOG_TEXT("file", current->config_file));
    } else {
        log_event(LEVEL_ERROR, "the configuration stays as it was", LOG_TEXT("error", err.text));
        if (result == 0)
            config_free(&fresh);
    }
    (void)sd_notify(0, "READY=1");
}

/* --- The watchdog --------------------------------------------------------------------------- */

struct watchdog {
    int64_t interval_ms; /* 0: nobody wants to hear of us */
    int64_t next_ms;
    uint64_t beats; /* of the engine, when it was last told of */
};

static struct watchdog watchdog_new(void)
{
    uint64_t us = 0;
    bool wanted = sd_watchdog_enabled(0, &us) > 0;

    return (struct watchdog){.interval_ms = wanted ? (int64_t)(us / 2000) : 0};
}

/* Says that all is well where it is: the engine's thread came round since the last time, and the
 * HTTP side's lock is to be had. */
static void watchdog_tick(struct watchdog *dog, const struct service *service)
{
    int64_t now = clock_monotonic_ms();

    if (!dog->interval_ms || now < dog->next_ms)
        return;
    http_touch(service->http);
    uint64_t beats = engine_beats(service->app);
    if (beats != dog->beats || dog->next_ms == 0)
        (void)sd_notify(0, "WATCHDOG=1");
    dog->beats = beats;
    dog->next_ms = now + dog->interval_ms;
}

/* --- Until the end -------------------------------------------------------------------------- */

static int say_ready(const struct http *http, struct error *err)
{
    CLEANUP_TEXT struct text where = TEXT_INIT;

    http_describe(http, &where);
    if (where.failed)
        return error_set(err, NULL, "out of memory");
    (void)printf("ready on %s\n", where.data);
    (void)fflush(stdout);
    (void)sd_notifyf(0, "READY=1\nSTATUS=ready on %s", where.data);
    log_event(LEVEL_INFO, "ready", LOG_TEXT("on", where.data));
    return 0;
}

/* The next signal: its number, 0 when the watchdog is due, or -1. */
static int next_signal(int signals, const struct watchdog *dog, struct error *err)
{
    struct pollfd source = {.fd = signals, .events = POLLIN};
    struct signalfd_siginfo info;
    int64_t left = dog->next_ms - clock_monotonic_ms();
    int found = poll(&source, 1, !dog->interval_ms ? -1 : left > 0 ? (int)left : 0);

    if (found == 0 || (found < 0 && errno == EINTR))
        return 0;
    if (found < 0 || read(signals, &info, sizeof info) != (ssize_t)sizeof info)
        return error_errno(err, NULL, "waiting for signals");
    return (int)info.ssi_signo;
}

int service_run(const struct service *service, struct error *err)
{
    struct watchdog dog = watchdog_new();
    struct config current = {0};
    int number = 0;

    /* A copy of what holds: the app's own is read by other threads, and stays as it is. */
    if (config_load(service->argc, service->argv, &current, err) != 0 ||
        say_ready(service->http, err) < 0)
        number = -1;
    while (number >= 0 && number != SIGTERM && number != SIGINT) {
        watchdog_tick(&dog, service);
        number = next_signal(service->signals, &dog, err);
        if (number == SIGHUP)
            reload(service, &current);
    }
    config_free(&current);
    if (number < 0)
        return -1;
    (void)sd_notify(0, "STOPPING=1");
    log_event(LEVEL_INFO, "ending", LOG_NUMBER("signal", number));
    return 0;
}
