/* qemu.json: the argument vector of a QEMU microvm, exactly as the shim runs it in the VM's jail.
 *
 * Theory: the machine has only what a bottle needs. One serial port is the console (stdout of
 * QEMU); one virtio-net card is the wire to gvproxy (datagrams over a pair of Unix sockets, opened
 * by path); one read-only disk is the image; one virtio-serial port is the agent's channel, an
 * inherited descriptor; the monitor is another, by which the shim stops the processors and lets
 * them go on. -nodefaults and -no-user-config keep anything else off, and QEMU's own seccomp filter
 * stays on. Requests of a disk wait in threads of QEMU's, up to 64 of them, whose stacks are more
 * than its limit of memory has left: a guest that reads much at once from a slow disk would end its
 * own machine. There are 16. pic and pit are left at the machine's defaults: without them Debian's
 * kernel prints nothing under TCG.
 *
 * A template is a machine whose memory is a file. It is made with the file shared, so that the file
 * is the memory; then QEMU saves the devices only. A bottle maps the same file for itself alone:
 * what it writes is its own page from then on. Kernel and boot root are in the memory already, so
 * that a restored machine is given neither.
 *
 * The file is written as text, two spaces a level: check_config() lets nothing in that a JSON
 * string would have to escape. */
#include <stdarg.h>

#include "renderers/check.h"
#include "renderers/render.h"

enum machine { MACHINE_COLD, MACHINE_MAKE, MACHINE_RESTORE };
enum { FIRST_FREE_FD = 3 }; /* 0, 1 and 2 are the console and QEMU's own words */

#define SANDBOX "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
#define NETDEV                                                                                     \
    "dgram,id=net0,local.type=unix,local.path=" JAIL_VM_SOCKET                                     \
    ",remote.type=unix,remote.path=" JAIL_NET_SOCKET

struct arguments {
    struct text *out;
    size_t count;
};

static void add(struct arguments *arguments, const char *value)
{
    text_add(arguments->out, arguments->count++ ? ",\n    \"" : "\n    \"");
    text_add(arguments->out, value);
    text_add(arguments->out, "\"");
}

/* An option and its value, which is formatted. */
__attribute__((format(printf, 3, 4))) static void
add_option(struct arguments *arguments, const char *option, const char *format, ...)
{
    va_list values;

    add(arguments, option);
    text_add(arguments->out, ",\n    \"");
    va_start(values, format);
    text_addv(arguments->out, format, values);
    va_end(values);
    text_add(arguments->out, "\"");
}

#define MICROVM "microvm,x-option-roms=off,isa-serial=on,rtc=on"

static void add_memory(struct arguments *arguments, const struct qemu_config *config,
                       enum machine machine)
{
    add_option(arguments, "-m", "%u", config->memory_mib);
    if (machine == MACHINE_COLD)
        return;
    /* merge=off: the kernel is not to look for pages that are alike in several bottles. */
    add_option(arguments, "-object",
               "memory-backend-file,id=ram,size=%uM,mem-path=%s,share=%s,merge=off",
               config->memory_mib, config->template_ram, machine == MACHINE_MAKE ? "on" : "off");
}

static void add_machine(struct arguments *arguments, const struct qemu_config *config,
                        enum machine machine)
{
    const char *const fixed[] = {
        config->binary,
        "-M",
        machine != MACHINE_COLD ? MICROVM ",memory-backend=ram"
        : config->n_mounts      ? MICROVM ",memory-backend=memory"
                                : MICROVM,
        /* Named, since the machine's default differs between builds of QEMU, and SeaBIOS boots no
         * kernel without option ROMs. */
        "-bios",
        "qboot.rom",
        "-accel",
        config->kvm ? "kvm" : "tcg,thread=multi",
        "-cpu",
        config->kvm ? "host" : "max",
        "-object",
        "main-loop,id=main-loop,thread-pool-max=16",
    };
    const char *const quiet[] = {"-nodefaults", "-no-user-config", "-nographic", "-no-reboot"};

    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        add(arguments, fixed[i]);
    add_option(arguments, "-smp", "%u", config->cpus);
    add_memory(arguments, config, machine);
    for (size_t i = 0; i < sizeof quiet / sizeof quiet[0]; i++)
        add(arguments, quiet[i]);
}

#define KERNEL_LINE "console=ttyS0 quiet panic=-1 reboot=t"

/* Under TCG the kernel is told the speed of the clock: measuring it, one boot in eight hangs. And
 * that it may rely on it: the ticks by which it would watch it are lost on a busy host, and then it
 * goes by those, and loses time. */
static void add_kernel_line(struct arguments *arguments, const struct qemu_config *config)
{
    const char *const files[] = {"-kernel", config->kernel, "-initrd", config->initrd};

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        add(arguments, files[i]);
    if (config->kvm)
        add_option(arguments, "-append", KERNEL_LINE);
    else if (config->tsc_khz)
        add_option(arguments, "-append", KERNEL_LINE " tsc=reliable tsc_early_khz=%u",
                   config->tsc_khz);
    else
        add_option(arguments, "-append", KERNEL_LINE " tsc=reliable");
}

static void add_card_and_image(struct arguments *arguments, const struct qemu_config *config)
{
    add(arguments, "-netdev");
    add(arguments, NETDEV);
    add_option(arguments, "-device", "virtio-net-device,netdev=net0,mac=%s", config->guest_mac);
    add_option(arguments, "-drive", "if=none,id=image,file=%s,format=raw,readonly=on",
               config->image);
    add(arguments, "-device");
    add(arguments, "virtio-blk-device,drive=image");
}

static void add_disk(struct arguments *arguments, const struct qemu_config *config)
{
    add_option(arguments, "-drive", "if=none,id=disk,file=%s,format=raw,discard=unmap",
               config->disk);
    add(arguments, "-device");
    add(arguments, "virtio-blk-device,drive=disk");
}

static void add_monitor(struct arguments *arguments, const struct qemu_config *config,
                        enum machine machine)
{
    add_option(arguments, "-chardev", "socket,id=qmp,fd=%d", config->qmp_fd);
    add(arguments, "-mon");
    add(arguments, "chardev=qmp,mode=control");
    if (machine == MACHINE_RESTORE) {
        add(arguments, "-incoming");
        add(arguments, "defer");
    }
}

/* Who serves a directory works in the guest's memory, which so has to be one that can be shared. */
static void add_mounts(struct arguments *arguments, const struct qemu_config *config)
{
    if (config->n_mounts == 0)
        return;
    add_option(arguments, "-object", "memory-backend-memfd,id=memory,size=%uM,share=on",
               config->memory_mib);
    add(arguments, "-global"); /* the wire to it knows the devices of virtio 1.0 only */
    add(arguments, "virtio-mmio.force-legacy=false");
    for (unsigned i = 0; i < config->n_mounts; i++) {
        add_option(arguments, "-chardev", "socket,id=fs%u,fd=%d", i, config->mount_fd + (int)i);
        add_option(arguments, "-device",
                   "vhost-user-fs-device,chardev=fs%u,tag=fs%u,queue-size=1024", i, i);
    }
}

static void add_agent_port(struct arguments *arguments, const struct qemu_config *config)
{
    add_option(arguments, "-chardev", "socket,id=agent,fd=%d", config->agent_fd);
    add(arguments, "-device");
    add(arguments, "virtio-serial-device,max_ports=2");
    add(arguments, "-device");
    add(arguments, "virtserialport,chardev=agent,nr=1,name=bottled.agent");
}

static int check_config(const struct qemu_config *config, struct error *err)
{
    bool good = check_jail_path(config->binary) && check_jail_path(config->kernel) &&
                check_jail_path(config->initrd) &&
                (!config->disk || check_jail_path(config->disk)) && config->cpus > 0 &&
                config->memory_mib > 0 && config->agent_fd >= FIRST_FREE_FD &&
                (config->n_mounts == 0 || config->mount_fd > config->agent_fd);

    if (good && !config->probe)
        good = check_jail_path(config->image) && check_mac(config->guest_mac) &&
               config->qmp_fd >= FIRST_FREE_FD;
    if (good && config->template_ram)
        good = !config->probe && check_jail_path(config->template_ram);
    good = good && (config->template_ram || !config->template_make) &&
           (!config->template_ram || config->n_mounts == 0);
    return good ? 0 : error_set(err, NULL, "qemu.json: the machine is not well-formed");
}

static void add_vector(struct text *out, const char *name, const struct qemu_config *config,
                       enum machine machine)
{
    struct arguments arguments = {out, 0};

    text_addf(out, "  \"%s\": [", name);
    add_machine(&arguments, config, machine);
    if (machine != MACHINE_RESTORE)
        add_kernel_line(&arguments, config);
    add(&arguments, "-serial");
    add(&arguments, "stdio");
    if (!config->probe)
        add_card_and_image(&arguments, config);
    if (config->disk)
        add_disk(&arguments, config);
    add_agent_port(&arguments, config);
    if (!config->probe)
        add_monitor(&arguments, config, machine);
    add_mounts(&arguments, config);
    add(&arguments, "-sandbox");
    add(&arguments, SANDBOX);
    text_add(out, "\n  ]");
}

int render_qemu(const struct qemu_config *config, struct text *out, struct error *err)
{
    if (check_config(config, err) < 0)
        return -1;
    text_add(out, "{\n");
    add_vector(out, "argv", config, config->template_make ? MACHINE_MAKE : MACHINE_COLD);
    if (config->template_ram && !config->template_make) {
        text_add(out, ",\n");
        add_vector(out, "restore", config, MACHINE_RESTORE);
    }
    text_add(out, "\n}\n");
    return out->failed ? error_set(err, NULL, "qemu.json: out of memory") : 0;
}
