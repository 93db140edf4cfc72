/* What bottled and bottle-shim say to each other.
 *
 * Launch: bottled starts `bottle-shim --launch`. Descriptor 3 holds the launch spec (JSON, see
 * spec.h) and is never on disk. On descriptor 4 the shim writes one line once its control socket
 * listens ("ok\n"), or the words of what went wrong; bottled waits for that line, under a deadline,
 * before it calls the bottle `starting`. Where the spec has "secrets": N, descriptor 5 is a memfd
 * of N variables, each NAME=value and a NUL; the shim wipes it once it has read it.
 *
 * Control: <run_dir>/shim.sock, SOCK_SEQPACKET, one JSON object a packet, at most
 * CONTROL_PACKET_MAX bytes. Peers other than root and the daemon's user (SO_PEERCRED) are turned
 * away. The first packet must be {"op":"hello","token":"…"}; a wrong token ends the connection. The
 * answer, and then every change, is a status:
 *
 *   {"state": "starting" | "running" | "paused" | "stopping" | "stopped" | "exited" | "failed",
 *    "reason": "…" | null, "exit_code": N | null, "started_ms": N, "finished_ms": N,
 *    "pid": N, "start_time": N, "boots": N,
 *    "ran_ms": N (how long the command runs, or ran, by a clock that nobody sets),
 *    "boot": "template" | "cold" (once a guest has come up), "boot_reason": "…" (of a cold one),
 *    "template_failed": true | false,
 *    "processes": [{"name": "gvproxy", "pid": N, "start_time": N}, …]}
 *
 * Further requests: {"op":"stop","grace_ms":N} (idempotent; N 0 kills at once, and of several the
 * one that is over first holds), {"op":"status"}, {"op":"report","id":N}, {"op":"egress","id":N}
 * and
 * {"op":"secrets","id":N,"signal":N} (ids from 1 on).
 *
 * {"op":"pause","id":N,"pause":true} stops the machine's processors, with false they go on; the
 * answer, after the status that says so and within five seconds, is {"paused": N, "error": null |
 * "…"}. One at a time; a stop lifts it.
 *
 * What the bottle tried to reach comes by itself, every 500 ms at most and only when there is news:
 *
 *   {"egress": [{"verdict": "allowed" | "denied", "host": "…", "port": N, "rule": "…" | null,
 *                "why": "…" | null, "count": N, "bytes_out": N, "bytes_in": N, "last_ms": N}, …],
 *    "lost": N, "totals": {"allowed": N, "denied": N, "bytes_out": N, "bytes_in": N}}
 *
 * An entry stands for all that are alike but for their times. `count` 0: bytes of an attempt that
 * was told before. `lost` counts attempts without an entry, since the last packet; the totals miss
 * nothing since the shim began.
 *
 * A report's answer, within ten seconds: {"report": N, "error": "…"} or {"report": N, "checks":
 * [{"name", "tried", "expected", "got": "…", "passed": true | false}, …]}.
 *
 * With "egress" comes one descriptor (SCM_RIGHTS) of a file that holds the bottle's whole new
 * egress:
 * {"rules": ["host[:port]" | {"host": "host[:port]", "private": true}, …], "files": [{"name":
 * "squid.conf", "content": "…"}]}. The answer, to who asked: {"applied": N, "error": null} once all
 * of it is in force, or {"applied": N, "error": "…"}, and then the former one is. Changes are made
 * one after the other; of those that wait only the newest is made, and the others' error says so.
 *
 * With "secrets" comes one descriptor, a memfd as at the launch: they take the place of those that
 * the guest has. `signal` is then sent to the command's process group (0: none). The answer, within
 * ten seconds: {"secrets": N, "error": null | "…"}. One at a time.
 *
 * What happened in the guest comes by itself, one of a kind a second at most:
 *
 *   {"guest": "out-of-memory" | "disk-full", "words": "…"}
 *
 * {"op":"exec","id":"<16 hexadecimal digits>"} with one descriptor, an end of a socketpair
 * (stream): a program is to be run beside the command. Over the socket go frames as in
 * guest/protocol.h, with id 0: first EXEC, then EXEC_INPUT within the windows that come back,
 * EXEC_WINDOW (nothing is read of its output before), EXEC_SIGNAL, EXEC_RESIZE; back EXEC_OUTPUT,
 * EXEC_WINDOW and, last of all, EXEC_EXIT, with code EXEC_LOST when its end is not known. A socket
 * that ends without it was cut. When bottled closes its end, the program runs on; what it prints is
 * thrown away. A copy of files (EXEC_FILES) is ended by it instead, and of its end nothing is told
 * but EXEC_EXIT. EXEC_SIGNAL 9 before that ends it. Each end is told by
 * {"exec":"…","state":"ended","exit_code":N | null, "signal":N | null,"timed_out":…,"reason":"…" |
 * null}; {"op":"exec-result","id":"…"} is answered by the same, with "asked":true, or by
 * {"exec":"…","state":"running" | "unknown","asked":true}. The last EXEC_RESULTS_MAX are known.
 * {"op":"exec-tell","id":"…"} with "signal":N, or with "rows":R and "columns":C, does to one that
 * runs what EXEC_SIGNAL and EXEC_RESIZE do, whoever has its socket, and is answered in the same
 * way.
 *
 * End: the last status is also in <run_dir>/exit.json, written whole and synced before the shim
 * ends. A shim that is gone without an exit.json was killed; everything it started died with it
 * (bubblewrap's --die-with-parent). */
#pragma once

#include <stdint.h>

enum { CONTROL_PACKET_MAX = 16 * 1024, EXEC_SIGNAL_MAX = 64 };

#define SHIM_SOCKET "shim.sock"
#define SHIM_EXIT_RECORD "exit.json"
#define SHIM_SPEC_FD 3
#define SHIM_READY_FD 4
#define SHIM_SECRETS_FD 5
/* The variable of each jail's own processes, not of what runs in it, that names the run directory:
 * they are known by it wherever they are (server/strays.c). */
#define SHIM_RUN_DIR "BOTTLE_RUN_DIR"

/* What is told to an exec: a signal (0: none) and a terminal's size (0: as it is). */
struct exec_note {
    uint32_t signal;
    uint16_t rows, columns;
};
