#include "shim/report.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/number.h"
#include "base/util.h"
#include "shim/supervisor_internal.h"

enum {
    GUEST_MS = 9000, /* the guest gives up after eight seconds itself */
    PIDS_MAX = 256,
    STATUS_SIZE = 4096,
};

static void add(json_t *checks, const char *name, const char *tried, const char *expected,
                const char *got, bool passed)
{
    json_array_append_new(checks,
                          json_pack("{s:s, s:s, s:s, s:s, s:b}", "name", name, "tried", tried,
                                    "expected", expected, "got", got, "passed", (int)passed));
}

/* --- From outside: /proc ---------------------------------------------------------------------- */

/* Reads a whole small file of /proc/<pid>/; -1 when it can't be. */
static ssize_t read_of(pid_t pid, const char *name, char *ret, size_t size)
{
    char path[64];
    ssize_t length = 0, piece;

    (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    while ((piece = read(fd, ret + length, size - 1 - (size_t)length)) > 0)
        length += piece;
    ret[length] = '\0';
    return length;
}

/* The value behind "Name:" in a status file, or NULL. */
static const char *field_of(const char *status, const char *name)
{
    size_t length = strlen(name);

    for (const char *line = status; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0 && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " \t");
    }
    return NULL;
}

static pid_t parent_of(pid_t pid)
{
    char status[STATUS_SIZE];
    const char *value =
        read_of(pid, "status", status, sizeof status) > 0 ? field_of(status, "PPid") : NULL;

    return value ? (pid_t)strtol(value, NULL, 10) : 0;
}

static bool below(pid_t pid, pid_t ancestor)
{
    for (int depth = 0; pid > 1 && depth < 16; depth++) {
        pid = parent_of(pid);
        if (pid == ancestor)
            return true;
    }
    return false;
}

/* bubblewrap itself waits outside the jail and is process 1 inside; the program is what is in a
 * process namespace below ours and not its first. */
static bool is_inner(pid_t pid)
{
    char status[STATUS_SIZE];
    const char *value =
        read_of(pid, "status", status, sizeof status) > 0 ? field_of(status, "NSpid") : NULL;
    size_t length = value ? strcspn(value, "\n") : 0;

    while (length > 0 && value[length - 1] != '\t')
        length--;
    return length > 0 && strtol(value + length, NULL, 10) > 1;
}

/* The programs in the jail that the child `pid` made. */
static size_t find_programs(pid_t ancestor, pid_t ret[PIDS_MAX])
{
    DIR *proc = opendir("/proc");
    size_t count = 0;
    int64_t pid;

    for (struct dirent *entry; proc && count < PIDS_MAX && (entry = readdir(proc));)
        if (isdigit((unsigned char)entry->d_name[0]) &&
            number_parse(entry->d_name, 2, INT_MAX, &pid) == 0 && below((pid_t)pid, ancestor) &&
            is_inner((pid_t)pid))
            ret[count++] = (pid_t)pid;
    if (proc)
        (void)closedir(proc);
    return count;
}

static const char *rights_wrong(pid_t pid)
{
    static const struct {
        const char *field, *value, *words;
    } rows[] = {{"Seccomp", "2", "it has no seccomp filter"},
                {"NoNewPrivs", "1", "it may gain privileges"},
                {"CapEff", "0000000000000000", "it has capabilities"},
                {"CapPrm", "0000000000000000", "it has capabilities"},
                {"CapInh", "0000000000000000", "it has capabilities"},
                {"CapAmb", "0000000000000000", "it has capabilities"}};
    char status[STATUS_SIZE];

    if (read_of(pid, "status", status, sizeof status) <= 0)
        return "it can't be looked at";
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const char *value = field_of(status, rows[i].field);
        if (!value || strcspn(value, "\n") != strlen(rows[i].value) ||
            strncmp(value, rows[i].value, strlen(rows[i].value)) != 0)
            return rows[i].words;
    }
    return NULL;
}

/* Two lines of heading, then "  name: …" a device. */
static const char *devices_wrong(const char *devices)
{
    const char *line = strchr(devices, '\n');

    line = line ? strchr(line + 1, '\n') : NULL;
    if (!line)
        return "its devices can't be read";
    for (line++; *line; line = strchr(line, '\n') + 1) {
        const char *name = line + strspn(line, " ");
        if (strncmp(name, "lo:", 3) != 0)
            return "it has a device beside lo";
        if (!strchr(line, '\n'))
            break;
    }
    return NULL;
}

static const char *network_wrong(pid_t pid)
{
    char path[64], devices[STATUS_SIZE];
    struct stat ours, theirs;

    (void)snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    if (stat("/proc/self/ns/net", &ours) < 0 || stat(path, &theirs) < 0)
        return "it can't be looked at";
    if (ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev)
        return "it is in the host's network";
    if (read_of(pid, "net/dev", devices, sizeof devices) <= 0)
        return "its devices can't be read";
    return devices_wrong(devices);
}

static void add_rule(json_t *checks, const char *program, const char *what, const char *expected,
                     const pid_t *pids, size_t count, const char *(*wrong)(pid_t pid))
{
    const char *words = count == 0 ? "no process" : NULL;
    char name[64], tried[96];

    for (size_t i = 0; i < count && !words; i++)
        words = wrong(pids[i]);
    (void)snprintf(name, sizeof name, "%s-%s", program, what);
    (void)snprintf(tried, sizeof tried, "the %s of each process of %s, from outside", what,
                   program);
    add(checks, name, tried, expected, words ? words : expected, !words);
}

void report_add_program(json_t *checks, const char *name, pid_t pid, bool lonely)
{
    pid_t pids[PIDS_MAX];
    size_t count = pid > 0 ? find_programs(pid, pids) : 0;

    add_rule(checks, name, "rights", "none, no way to gain any, and a filter", pids, count,
             rights_wrong);
    if (lonely)
        add_rule(checks, name, "network", "one of its own with only lo", pids, count,
                 network_wrong);
}

/* --- From inside: the guest ------------------------------------------------------------------- */

/* The guest's words, made harmless: printable ASCII. */
static void copy_got(char ret[CHECK_WORDS_MAX + 1], const uint8_t *bytes, size_t length)
{
    size_t cut = length < CHECK_WORDS_MAX ? length : CHECK_WORDS_MAX;

    for (size_t i = 0; i < cut; i++)
        ret[i] = (char)(bytes[i] >= 0x20 && bytes[i] < 0x7f ? bytes[i] : '?');
    ret[cut] = '\0';
}

static void add_guest_checks(json_t *checks, const struct supervisor *sup)
{
    const struct report *report = &sup->report;

    for (size_t i = 0; i < N_FIXED_CHECKS + sup->launch->n_forwards; i++) {
        char name[32], tried[64];
        struct check_row row = {name, tried, "connected"};
        if (i < N_FIXED_CHECKS) {
            row = check_rows[i];
        } else {
            unsigned port = sup->launch->forwards[i - N_FIXED_CHECKS].gateway_port;
            (void)snprintf(name, sizeof name, "forward-%u", port);
            (void)snprintf(tried, sizeof tried, "TCP to the gateway, port %u", port);
        }
        add(checks, row.name, row.tried, row.expected,
            report->results[i].told ? report->results[i].got : "the guest did not say",
            report->results[i].told && report->results[i].passed);
    }
}

static void finish(struct supervisor *sup)
{
    const struct launch *launch = sup->launch;
    json_t *checks = json_array();
    json_int_t id = sup->report.id;

    loop_timer_cancel(sup->loop, &sup->report_deadline);
    add_guest_checks(checks, sup);
    report_add_program(checks, sup->gvproxy.name, sup->gvproxy.pid, true);
    report_add_program(checks, sup->vm.name, sup->vm.pid, true);
    for (size_t i = 0; i < launch->n_sidecars; i++)
        report_add_program(checks, sup->sidecars[i].name, sup->sidecars[i].pid, false);
    sup->report.id = 0;
    control_send(sup->control, json_pack("{s:I, s:o}", "report", id, "checks", checks));
}

void report_abort(struct supervisor *sup, const char *why)
{
    json_int_t id = sup->report.id;

    loop_timer_cancel(sup->loop, &sup->report_deadline);
    sup->report.id = 0;
    if (id)
        control_send(sup->control, json_pack("{s:I, s:s}", "report", id, "error", why));
}

static void on_late(struct loop_timer *timer)
{
    finish(timer->data);
}

void report_request(struct supervisor *sup, int64_t id)
{
    const struct launch *launch = sup->launch;
    uint8_t frame[FRAME_HEADER_SIZE + 5 + 2 * FORWARDS_MAX];
    uint8_t *payload = frame + FRAME_HEADER_SIZE;
    size_t length = 5;
    const char *wrong = NULL;

    if (sup->report.id)
        wrong = "another report is under way";
    else if (id <= 0 || !supervisor_serves(sup))
        wrong = "the command does not run";
    put_u32(payload, sup->report.asked + 1);
    payload[4] = (uint8_t)launch->n_forwards;
    for (size_t i = 0; i < launch->n_forwards; i++) {
        payload[length++] = (uint8_t)(launch->forwards[i].gateway_port & 0xff);
        payload[length++] = (uint8_t)(launch->forwards[i].gateway_port >> 8);
    }
    frame_header(frame, FRAME_REPORT, (uint32_t)length);
    if (!wrong && agent_send(&sup->agent, frame, FRAME_HEADER_SIZE + length) < 0)
        wrong = "the agent's channel is closed";
    if (wrong) {
        control_send(sup->control,
                     json_pack("{s:I, s:s}", "report", (json_int_t)id, "error", wrong));
        return;
    }
    sup->report = (struct report){.id = id, .asked = sup->report.asked + 1};
    sup->report_deadline = (struct loop_timer){.callback = on_late, .data = sup};
    loop_timer_set(sup->loop, &sup->report_deadline, clock_monotonic_ms() + GUEST_MS);
}

int report_frame(struct supervisor *sup, const struct frame *frame)
{
    struct report *report = &sup->report;
    bool is_end = frame->type == FRAME_REPORT_END;

    if (is_end ? frame->length != 4
               : frame->length < 6 || frame->length > 6 + CHECK_WORDS_MAX || frame->payload[5] > 1)
        return -1;
    /* Of a report that was given up, or of none: it may have been on its way. */
    if (!report->id || get_u32(frame->payload) != report->asked)
        return 0;
    if (is_end) {
        finish(sup);
        return 0;
    }
    unsigned number = frame->payload[4];
    if (number >= N_FIXED_CHECKS + sup->launch->n_forwards || report->results[number].told)
        return 0;
    report->results[number].told = true;
    report->results[number].passed = frame->payload[5] == 1;
    copy_got(report->results[number].got, frame->payload + 6, frame->length - 6);
    return 0;
}
