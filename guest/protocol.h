/* The agent channel between bottle-shim and bottle-init: length-prefixed frames over one
 * virtio-serial port.
 *
 * A frame is an 8-byte header (payload length, little-endian u32; type, u8; three zero bytes) and
 * the payload. Neither side trusts the other: a length over the bound, an unknown type or a
 * non-zero reserved byte ends the conversation. Guest to host frames are at most GUEST_PAYLOAD_MAX;
 * only START may be larger.
 *
 *   guest                      host
 *   HELLO(version, kernel)   >
 *                            < WAKE                           before START: say HELLO again
 *                            < SECRETS(0, …)                  when the bottle has any
 *                            < START(network, workdir, command, environment, time, entropy)
 *   STARTED                  >                                the command runs
 *   OUTPUT(stream, bytes)    >                                any number
 *                            < SIGNAL(number)                 to the command's process group
 *                            < STOP(milliseconds)             SIGTERM to it; so long may what it
 *                                                             leaves take to end as well
 *                            < TIME(now)                      the machine stood still until now
 *                            < REPORT(id, ports)              while the command runs, any number
 *   CHECK(id, …)             >                                one for each check
 *   REPORT_END(id)           >
 *                            < SECRETS(id, …)                 in place of those that it has
 *   SECRETS_SET(id, why not) >
 *   EVENT(kind, words)       >                                any number
 *   EXIT(code, signal, why)  >                                the guest ends the machine by itself
 *   FAILED(why)              >                                the guest could not do its part
 *                            < POWEROFF                       sync and power off now
 *
 * Beside the command, while it runs, other programs: at most EXECS_MAX at once, each with an id
 * that the host chooses and never gives twice.
 *
 *                            < EXEC(id, …)                    a program is to be run
 *                            < EXEC_WINDOW(id, bytes)         the host takes so much more output
 *   EXEC_WINDOW(id, bytes)   >                                the guest takes so much more input
 *                            < EXEC_INPUT(id, bytes)          none: the end of its input
 *   EXEC_OUTPUT(id, …)       >                                within the window
 *                            < EXEC_SIGNAL(id, number)        to its process group
 *                            < EXEC_RESIZE(id, rows, columns) of its terminal
 *   EXEC_EXIT(id, …)         >                                always the last of its id
 *
 * Windows begin at 0 both ways, so one stream that nobody reads holds up no other. What the host
 * says of an exec that has ended crossed its EXEC_EXIT, and is ignored.
 *
 * A frame that the guest has written is not yet one that the host has read, and the machine's end
 * takes what is between. So the host answers EXIT and FAILED with POWEROFF, and the guest waits for
 * that answer, three seconds at most.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define AGENT_PORT_NAME "bottled.agent"

enum {
    PROTOCOL_VERSION = 5,
    FRAME_HEADER_SIZE = 8,
    GUEST_PAYLOAD_MAX = 64 * 1024,
    START_PAYLOAD_MAX = 2 * 1024 * 1024, /* and EXEC's */
    EXECS_MAX = 64,
    EXEC_WINDOW_MAX = 128 * 1024, /* more is never granted */
    EXEC_FIXED_SIZE = 24,
    START_ENTROPY_SIZE = 64,
    START_FRESH_SIZE = 16 + START_ENTROPY_SIZE,
};

enum frame_type {
    /* guest → host */
    FRAME_HELLO = 1,   /* u32 version, then the kernel's release, not NUL-terminated */
    FRAME_STARTED = 2, /* empty */
    FRAME_OUTPUT = 3,  /* u8 stream (1 or 2), then bytes */
    FRAME_EXIT = 4,    /* u32 exit code, u32 signal (0: none), then words, maybe empty */
    FRAME_FAILED = 5,  /* words */
    FRAME_CHECK = 6,   /* u32 id of the report, u8 number (guest/checks.h), u8 passed (0 or 1), then
                          at most CHECK_WORDS_MAX bytes: what came back */
    FRAME_REPORT_END = 7,   /* u32 id */
    FRAME_EXEC_OUTPUT = 8,  /* u32 id, u8 stream (1 or 2; a terminal has 1 only), then bytes */
    FRAME_EXEC_EXIT = 9,    /* u32 id, u32 exit code, u32 signal (0: none), u8 timed out (0 or 1),
                               then words, maybe empty. Code EXEC_LOST is not the guest's: the shim
                               says so of one whose end it never learns */
    FRAME_SECRETS_SET = 10, /* u32 id, then words: empty, or why it could not be done */
    FRAME_EVENT = 11,       /* u8 kind (enum guest_event), then words */
    /* host → guest */
    FRAME_START = 64,      /* see struct start_message */
    FRAME_SIGNAL = 65,     /* u32 number */
    FRAME_POWEROFF = 66,   /* empty */
    FRAME_REPORT = 67,     /* u32 id, u8 number of ports, each a u16 in little endian: the gateway's
                              port forwards. A newer report ends an older one */
    FRAME_EXEC = 68,       /* see struct exec_message */
    FRAME_EXEC_INPUT = 69, /* u32 id, then bytes, at most EXEC_INPUT_MAX */
    FRAME_EXEC_SIGNAL = 70, /* u32 id, u32 number */
    FRAME_EXEC_RESIZE = 71, /* u32 id, u16 rows, u16 columns */
    FRAME_SECRETS = 72,     /* see struct secrets_message */
    FRAME_STOP = 73,        /* u32 milliseconds */
    FRAME_TIME = 74,        /* u64 milliseconds of the wall clock since 1970 */
    FRAME_WAKE = 78,        /* empty. The machine was restored from a template: this host has not
                               heard its HELLO */
    /* both ways */
    FRAME_EXEC_WINDOW = 80, /* u32 id, u32 bytes */
};

enum {
    EXEC_INPUT_MAX = 16 * 1024,
    EXEC_TERMINAL = 1, /* flags: on a terminal, which has one stream of output */
    EXEC_STDIN = 2,    /*        with input; without, it reads /dev/null */
    EXEC_FILES = 4,    /*        no program: the agent itself copies files, see guest/files.h */
    EXEC_FLAGS = EXEC_TERMINAL | EXEC_STDIN | EXEC_FILES,
};
#define EXEC_LOST UINT32_MAX

enum guest_event {
    EVENT_OUT_OF_MEMORY = 1, /* the kernel killed a process for its memory */
    EVENT_DISK_FULL = 2,     /* nothing more can be written */
};

struct frame {
    enum frame_type type;
    const uint8_t *payload; /* borrowed from the buffer it was parsed from */
    uint32_t length;
};

uint16_t get_u16(const uint8_t in[2]);
void put_u16(uint8_t out[2], uint16_t value);
void put_u32(uint8_t out[4], uint32_t value);
void put_u64(uint8_t out[8], uint64_t value);
uint64_t get_u64(const uint8_t in[8]);
uint32_t get_u32(const uint8_t in[4]);
void frame_header(uint8_t out[FRAME_HEADER_SIZE], enum frame_type type, uint32_t length);
/* Looks for one frame at the start of `bytes`: its whole size when there, 0 when more is needed, -1
 * when it breaks the rules (`max` bounds the payload). */
int64_t frame_parse(const uint8_t *bytes, size_t length, uint32_t max, struct frame *ret);

/* START's payload: u32 number of arguments, u32 number of variables, then NUL-terminated strings:
 * hostname, address ("192.168.50.2/24"), gateway, workdir, user, the arguments, the variables as
 * NAME=value. Then what a machine restored from a template can't have of its own (START_FRESH_SIZE
 * bytes): u64 milliseconds of the wall clock since 1970, the card's address (6 bytes; all zero: as
 * it is), two zero bytes, and START_ENTROPY_SIZE bytes for the random generator. Then the mounts,
 * in the order of mounting: u32 how many files of theirs the host can hold (guest/room.h), u32
 * their number, and for each u32 flags and two such strings, the tag of a virtio-fs device and
 * where it goes. Nothing after. The user is an image's USER ("" for root): name or number, and ":"
 * and a group if wanted.
 */
enum { START_MOUNTS_MAX = 8, MOUNT_READ_ONLY = 1 };
struct start_mount {
    const char *tag, *target;
    uint32_t flags;
};
struct start_message {
    const char *hostname, *address, *gateway, *workdir, *user;
    uint32_t n_args, n_env;
    char **args, **env; /* NULL-terminated arrays, one allocation each; the strings are borrowed
                           from the payload. There is room for one more of each */
    uint64_t wall_ms;
    const uint8_t *mac, *entropy; /* borrowed from the payload too */
    struct start_mount mounts[START_MOUNTS_MAX];
    size_t n_mounts;
    uint32_t files_max;
};
/* 0, or -1 when malformed or memory is short. start_message_free releases the arrays. */
int start_message_parse(const uint8_t *payload, size_t length, struct start_message *ret);
void start_message_free(struct start_message *message);

/* EXEC's payload: u32 id, u32 flags, u32 milliseconds until it is killed (0: never), u16 rows, u16
 * columns, u32 number of arguments, u32 number of variables, then NUL-terminated strings: the work
 * directory ("": the command's), the arguments, and variables as NAME=value, which come on top of
 * the command's. Nothing after. */
struct exec_message {
    uint32_t id, flags, timeout_ms;
    uint16_t rows, columns;
    const char *workdir;
    uint32_t n_args, n_env;
    char **args, **env; /* as in struct start_message */
};
/* As start_message_parse. */
int exec_message_parse(const uint8_t *payload, size_t length, struct exec_message *ret);
void exec_message_free(struct exec_message *message);

/* SECRETS' payload: u32 id (0: with START, no answer), u32 signal for the command's process group
 * (0: none), u32 number, then so many NUL-terminated NAME=value. Nothing after. */
enum { SECRETS_FIXED_SIZE = 12 };
struct secrets_message {
    uint32_t id, signal, count;
    char **items; /* as in struct start_message */
};
/* As start_message_parse. */
int secrets_message_parse(const uint8_t *payload, size_t length, struct secrets_message *ret);
void secrets_message_free(struct secrets_message *message);
