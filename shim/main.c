/* bottle-shim: one small process a bottle. It outlives bottled, so that restarting, upgrading or
 * killing the daemon disturbs no VM. What it is told and what it answers: shim/protocol.h. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/util.h"
#include "shim/limits.h"
#include "shim/mounts.h"
#include "shim/probe.h"
#include "shim/protocol.h"
#include "shim/secrets.h"
#include "shim/staging.h"
#include "shim/supervisor.h"

enum { SPEC_MAX = 8 * 1024 * 1024 };

static int read_spec(struct launch *ret, struct error *err)
{
    char path[32];
    size_t length;

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", SHIM_SPEC_FD);
    CLEANUP_FREE char *text = file_read(path, SPEC_MAX, &length, err);
    (void)close(SHIM_SPEC_FD);
    if (!text)
        return error_wrap(err, "launch spec");
    int result = launch_decode(text, length, ret, err);
    explicit_bzero(text, length);
    return result;
}

static int run(struct launch *launch, struct error *err)
{
    CLEANUP_CLOSE int log_dir = -1;

    if (limits_join(launch, err) < 0 || limits_own(launch, err) < 0 ||
        staging_enter(launch, &log_dir, err) < 0)
        return -1;
    if (!launch->probe)
        return supervisor_run(launch, log_dir, SHIM_READY_FD, err);
    if (probe_run(launch, err) < 0)
        return -1;
    return write_all(SHIM_READY_FD, "ok\n", 3);
}

int main(int argc, char **argv)
{
    struct launch launch = {0};
    struct error err = ERROR_INIT;

    if (argc > 2 && strcmp(argv[1], LIMITS_FLAG) == 0)
        return limits_enter(argv + 2);
    if (argc > 2 && strcmp(argv[1], MOUNTED_FLAG) == 0)
        return mounts_enter(argv + 2);
    if (argc != 2 || strcmp(argv[1], "--launch") != 0) {
        (void)fprintf(stderr,
                      "usage: bottle-shim --launch (started by bottled, with the launch "
                      "spec on descriptor %d)\n",
                      SHIM_SPEC_FD);
        return 2;
    }
    limits_raise_files();
    bool failed = read_spec(&launch, &err) < 0 ||
                  secrets_load(SHIM_SECRETS_FD, &launch, &err) < 0 || run(&launch, &err) < 0;
    if (failed) {
        (void)fprintf(stderr, "bottle-shim: %s\n", err.text);
        (void)dprintf(SHIM_READY_FD, "%s\n", err.text);
    }
    launch_free(&launch);
    return failed;
}
