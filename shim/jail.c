#include "shim/jail.h"

#include <string.h>

#include "api/plan.h"
#include "backends/engines.h"
#include "renderers/config.h"
#include "shim/limits.h"
#include "shim/mounts.h"

static const char *const common[] = {
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--new-session",
    "--clearenv",
    "--cap-drop",
    "ALL",
    NULL,
};

/* The host's programs and libraries, read-only, where a dynamically linked program looks for them.
 */
static const char *const system_files[] = {
    "--ro-bind", "/usr",      "/usr",   "--symlink", "usr/lib", "/lib",
    "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin",
    "--symlink", "usr/sbin",  "/sbin",  NULL,
};

static const char *const scratch[] = {"--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", NULL};

#ifndef TEST_OPEN_CELL
#define CELL_GVPROXY "/gvproxy"
#define CELL_HELPER "/cell"
#define CELL_CONFIG "/gvproxy.yaml"
static const char *const cell_network[] = {"--unshare-net", NULL};
#else
/* bwrap can make files there without making them on the machine */
#define CELL_GVPROXY "/run/gvproxy"
#define CELL_HELPER "/run/cell"
#define CELL_CONFIG "/run/gvproxy.yaml"
static const char *const cell_network[] = {"--bind", "/", "/", "--tmpfs", "/run", NULL};
#endif

static void add_bind(struct argv *argv, const char *flag, const char *host, const char *jail)
{
    argv_add(argv, flag);
    argv_add(argv, host);
    argv_add(argv, jail);
}

static void add_program(struct argv *argv, const struct program *program)
{
    for (size_t i = 0; i < program->n_binds; i++)
        add_bind(argv, program->binds[i].writable ? "--bind" : "--ro-bind", program->binds[i].host,
                 program->binds[i].jail);
}

static void add_environment(struct argv *argv, const struct program *program)
{
    const char *name;
    json_t *value;

    json_object_foreach(program->env, name, value)
    {
        argv_add_list(argv,
                      (const char *const[]){"--setenv", name, json_string_value(value), NULL});
    }
}

static void begin(struct argv *argv, const struct launch *launch, enum limits_kind kind)
{
    limits_add(argv, kind, launch);
    argv_add(argv, launch->bwrap);
    argv_add_list(argv, common);
}

static void add_filter(struct argv *argv)
{
    argv_add(argv, "--seccomp");
    argv_addf(argv, "%d", JAIL_FILTER_FD);
}

void jail_cell(struct argv *argv, const struct launch *launch)
{
    begin(argv, launch, LIMITS_GVPROXY);
    argv_add_list(argv, cell_network);
#ifndef TEST_OPEN_CELL
    add_filter(argv);
    if (launch->gvproxy_dynamic)
        argv_add_list(argv, system_files);
#endif
    /* Go's collector works harder from three quarters on, before the limit ends it. */
    argv_add_list(argv, (const char *const[]){"--setenv", "GOMEMLIMIT", NULL});
    argv_addf(argv, "%lld", (long long)limits_memory(LIMITS_GVPROXY, launch) * 3 / 4);
    add_bind(argv, "--ro-bind", launch->gvproxy, CELL_GVPROXY);
    add_bind(argv, "--ro-bind", launch->cell, CELL_HELPER);
    add_bind(argv, "--ro-bind", launch->gvproxy_config, CELL_CONFIG);
    add_bind(argv, "--bind", launch->net_dir, JAIL_RUN_DIR);
#ifndef TEST_OPEN_CELL
    argv_add_list(argv, (const char *const[]){"--remount-ro", "/", NULL});
#endif
    argv_add_list(argv, (const char *const[]){"--chdir", JAIL_RUN_DIR, "--", CELL_HELPER, NULL});
    argv_addf(argv, "%d", JAIL_LISTENER_FD);
    argv_addf(argv, "%d", JAIL_GVPROXY_FD);
    for (size_t i = 0; i < launch->n_forwards; i++)
        argv_addf(argv, "%u", launch->forwards[i].gateway_port);
    argv_add_list(argv, (const char *const[]){"--", CELL_GVPROXY, "-config", CELL_CONFIG, NULL});
}

/* In the jail its one user has the number that all files of a mount shall have in the guest. */
static void add_owner(struct argv *argv, const struct launch *launch)
{
    argv_add(argv, "--uid");
    argv_addf(argv, "%u", launch->mount_uid);
    argv_add(argv, "--gid");
    argv_addf(argv, "%u", launch->mount_gid);
}

static void add_mounts(struct argv *argv, const struct launch *launch)
{
    for (size_t i = 0; i < launch->n_mounts; i++) {
        argv_add(argv, launch->mounts[i].read_only ? "--ro-bind" : "--bind");
        argv_add(argv, launch->mounts[i].path);
        argv_addf(argv, JAIL_MOUNTS "/%s", launch->mounts[i].tag);
    }
}

void jail_vm(struct argv *argv, const struct launch *launch, const struct program *program)
{
    bool serves = launch->n_mounts > 0 && !launch->fs_binary;

    mounts_add(argv, launch, 0, serves ? launch->n_mounts : 0);
    begin(argv, launch, serves ? LIMITS_VM_FS : LIMITS_VM);
    if (serves)
        add_owner(argv, launch);
    argv_add(argv, "--unshare-net");
    add_filter(argv);
    argv_add_list(argv, system_files);
    argv_add_list(argv, scratch);
    argv_add_list(argv, (const char *const[]){"--setenv", "PATH", "/usr/bin", NULL});
    if (launch->dev_kvm)
        add_bind(argv, "--dev-bind", "/dev/kvm", "/dev/kvm");
    add_environment(argv, program);
    add_program(argv, program);
    if (serves)
        add_mounts(argv, launch);
    if (!launch->probe || launch->save.state)
        add_bind(argv, "--bind", launch->net_dir, JAIL_RUN_DIR);
    /* Nor may it fill the machine's memory by files. */
    argv_add_list(argv, (const char *const[]){"--remount-ro", "/tmp", "--remount-ro", "/dev",
                                              "--remount-ro", "/", "--chdir", "/tmp", "--", NULL});
    argv_add_list(argv, program->argv);
}

void jail_fs(struct argv *argv, const struct launch *launch, size_t i)
{
    const struct shared_mount *mount = &launch->mounts[i];
    /* QEMU's changes its root to the directory. Both let go of all capabilities, also of that to do
     * so, before they hear the guest; the one in Rust only as root, and else needs none. Owners
     * they do not change (shim/filter.c). */
#define NO_CAPS "modcaps=-chown:-dac_override:-fowner:-fsetid:-setgid:-setuid:-mknod:-setfcap"
    static const char options[] = "source=/tree,sandbox=chroot,cache=auto,log_level=err,no_xattr,"
                                  "no_posix_lock,no_flock," NO_CAPS;
    static const char no_caps[] = "--" NO_CAPS;
    static const char *const of_qemu[] = {"-f", "--rlimit-nofile=0", "-o", options, NULL};
    static const char *const in_rust[] = {"--shared-dir=/tree",
                                          "--sandbox=none",
                                          "--cache=auto",
                                          "--inode-file-handles=never",
                                          no_caps,
                                          "--rlimit-nofile=0",
                                          "--log-level=error",
                                          NULL};

    mounts_add(argv, launch, i, 1);
    begin(argv, launch, LIMITS_FS);
    add_owner(argv, launch);
    argv_add(argv, "--unshare-net");
    if (launch->fs_of_qemu)
        argv_add_list(argv, (const char *const[]){"--cap-add", "CAP_SYS_CHROOT", NULL});
    if (launch->fs_of_qemu || launch->mount_uid == 0)
        argv_add_list(argv, (const char *const[]){"--cap-add", "CAP_SETPCAP", NULL});
    add_filter(argv);
    argv_add_list(argv, system_files);
    argv_add_list(argv, scratch);
    add_bind(argv, "--ro-bind", launch->fs_binary, "/virtiofsd");
    add_bind(argv, mount->read_only ? "--ro-bind" : "--bind", mount->path, "/tree");
    argv_add_list(argv, (const char *const[]){"--remount-ro", "/tmp", "--remount-ro", "/dev",
                                              "--remount-ro", "/", "--chdir", "/", "--",
                                              "/virtiofsd", NULL});
    argv_addf(argv, "--fd=%d", JAIL_FS_FD);
    argv_add_list(argv, launch->fs_of_qemu ? of_qemu : in_rust);
}

bool jail_is_proxy(const struct program *program)
{
    return strcmp(program->name, sidecars[SIDECAR_PIPELOCK].name) == 0;
}

void jail_sidecar(struct argv *argv, const struct launch *launch, const struct program *program)
{
    begin(argv, launch, jail_is_proxy(program) ? LIMITS_PROXY : LIMITS_SIDECAR);
    add_filter(argv);
    argv_add_list(argv, system_files);
    argv_add_list(argv, scratch);
    argv_add_list(argv, (const char *const[]){"--setenv", "PATH", "/usr/sbin:/usr/bin", NULL});
    add_environment(argv, program);
    add_program(argv, program);
    if (jail_is_proxy(program))
        add_bind(argv, "--ro-bind", launch->config_dir, JAIL_CONFIG_DIR);
    argv_add(argv, "--bind");
    argv_addf(argv, "%s/%s", launch->proxy_dir, program->name); /* no other sidecar's */
    argv_add(argv, "/run/proxy");
    argv_add_list(argv,
                  (const char *const[]){"--remount-ro", "/", "--chdir", "/run/proxy", "--", NULL});
    argv_add_list(argv, program->argv);
}

void jail_check(struct argv *argv, const struct launch *launch, const struct sidecar_spec *sidecar)
{
    struct program check = sidecar->program;

    check.argv = sidecar->config.check;
    jail_sidecar(argv, launch, &check);
}
