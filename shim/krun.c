/* bottle-krun: one machine of libkrun's, in the VM's jail (its argument vector: renderers/krun.c).
 *
 * Two processes. The second opens the library and becomes the machine. The first holds the master
 * of the terminal that is the guest's console and copies it to stdout, so that the console's last
 * lines are out before the machine's end is seen, and ends as the second did. Either one's death is
 * the other's. Words about a fault go to stderr, of which the shim tells the last line.
 *
 *   bottle-krun --library FILE --firmware FILE --root DIR --disk FILE --cpus N --memory MIB
 *     --agent-fd N [--own-disk FILE] [--mount TAG | --mount-ro TAG]…
 *     [--net SOCKET --net-local SOCKET --mac MAC]
 *
 * Without the last three the machine has no network card. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/file.h"
#include "base/number.h"
#include "base/process.h"
#include "base/util.h"
#include "shim/krun_machine.h"

enum { MEMORY_MAX_MIB = 1 << 24, FD_MAX = 64, FAULT = 1, USAGE = 2 };

struct option_row {
    const char *name;
    const char **text; /* where the value goes as it is */
    int64_t *number;   /* or as a number in [1, maximum] */
    int64_t maximum;
    bool of_card; /* may be absent, with the card's others */
    bool optional;
    const char *value;
};

static int usage(const char *what, const char *which)
{
    (void)fprintf(stderr, "bottle-krun: %s %s\n", what, which);
    return USAGE;
}

/* "5a:94:ef:00:00:01", in lower case */
static int read_mac(const char *text, uint8_t ret[6])
{
    static const char digits[] = "0123456789abcdef";

    if (strlen(text) != 17)
        return -1;
    for (size_t i = 0; i < 6; i++, text += 3) {
        const char *high = strchr(digits, text[0]), *low = strchr(digits, text[1]);
        if (!high || !low || text[2] != (i < 5 ? ':' : '\0'))
            return -1;
        ret[i] = (uint8_t)((high - digits) * 16 + (low - digits));
    }
    return 0;
}

/* The row of that name, or NULL. */
static struct option_row *find_row(struct option_row *rows, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

/* A tag is a name in JAIL_MOUNTS. */
static int add_mount(struct machine_options *options, const char *tag, bool read_only)
{
    if (options->n_mounts == MOUNTS_MAX || !*tag || strchr(tag, '/') || tag[0] == '.')
        return -1;
    options->mounts_read_only[options->n_mounts] = read_only;
    options->mounts[options->n_mounts++] = tag;
    return 0;
}

/* 0, or an exit status when it has said what is wrong. */
static int read_options(char **argv, struct machine_options *ret)
{
    const char *mac = NULL;
    int64_t cpus = 1, memory = 1, agent = 0;
    struct option_row rows[] = {
        {.name = "--library", .text = &ret->library},
        {.name = "--firmware", .text = &ret->firmware},
        {.name = "--root", .text = &ret->root},
        {.name = "--disk", .text = &ret->disk},
        {.name = "--own-disk", .text = &ret->own_disk, .optional = true},
        {.name = "--cpus", .number = &cpus, .maximum = UINT8_MAX},
        {.name = "--memory", .number = &memory, .maximum = MEMORY_MAX_MIB},
        {.name = "--agent-fd", .number = &agent, .maximum = FD_MAX},
        {.name = "--net", .text = &ret->net, .of_card = true},
        {.name = "--net-local", .text = &ret->net_local, .of_card = true},
        {.name = "--mac", .text = &mac, .of_card = true},
    };

    for (char **at = argv + 1; *at; at++) {
        bool read_only = strcmp(*at, "--mount-ro") == 0;
        if (read_only || strcmp(*at, "--mount") == 0) {
            if (!at[1] || add_mount(ret, *++at, read_only) < 0)
                return usage("no fitting tag for", read_only ? "--mount-ro" : "--mount");
            continue;
        }
        struct option_row *row = find_row(rows, COUNT_OF(rows), *at);
        if (!row || !at[1])
            return usage(row ? "no value for" : "no such option:", *at);
        row->value = *++at;
        if (row->text)
            *row->text = row->value;
        else if (number_parse(row->value, 1, row->maximum, row->number) < 0)
            return usage("not a fitting number for", row->name);
    }
    bool card = ret->net || ret->net_local || mac;
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (!rows[i].value && !rows[i].optional && (card || !rows[i].of_card))
            return usage("missing:", rows[i].name);
    if (card && read_mac(mac, ret->mac) < 0)
        return usage("not a MAC address:", mac);
    ret->cpus = (unsigned)cpus;
    ret->memory_mib = (unsigned)memory;
    ret->agent_fd = (int)agent;
    return 0;
}

/* A terminal that passes every byte on as it is: *ret_slave is for the machine. -1: no terminal. */
static int open_terminal(int *ret_slave)
{
    CLEANUP_CLOSE int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    CLEANUP_CLOSE int slave = -1;
    struct termios mode;
    char name[64];

    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 ||
        ptsname_r(master, name, sizeof name) != 0 ||
        (slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0 || tcgetattr(slave, &mode) < 0)
        return -1;
    cfmakeraw(&mode);
    if (tcsetattr(slave, TCSANOW, &mode) < 0)
        return -1;
    *ret_slave = steal_fd(&slave);
    return steal_fd(&master);
}

/* Until the last holder of the terminal is gone. */
static void copy_console(int master)
{
    char bytes[4096];
    ssize_t got;

    while ((got = read(master, bytes, sizeof bytes)) > 0 || (got < 0 && errno == EINTR))
        if (got > 0 && write_all(STDOUT_FILENO, bytes, (size_t)got) < 0)
            return;
}

static int become_machine(const struct machine_options *options)
{
    struct error err = ERROR_INIT;

    (void)machine_enter(options, &err);
    (void)fprintf(stderr, "bottle-krun: %s\n", err.text);
    return FAULT;
}

int main(int argc, char **argv)
{
    struct machine_options options = {0};
    char words[96];
    int status, fault = argc > 0 ? read_options(argv, &options) : USAGE;

    if (fault)
        return fault;
    int master = open_terminal(&options.console_fd);
    pid_t self = getpid(), machine = master < 0 ? -1 : fork();
    if (machine < 0) {
        perror("bottle-krun: making the console");
        return FAULT;
    }
    if (machine == 0) {
        (void)close(master);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != self)
            return FAULT;
        return become_machine(&options);
    }
    (void)close(options.console_fd);
    (void)close(options.agent_fd); /* its end is the machine's end */
    copy_console(master);
    while (waitpid(machine, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    wait_status_words(status, words, sizeof words);
    (void)fprintf(stderr, "bottle-krun: the machine's process was %s\n", words);
    return 128 + WTERMSIG(status);
}
