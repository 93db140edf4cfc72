/* The engine: carries out what clients ask for, and keeps the bottles' states true to their
 * processes.
 *
 * It owns one thread with an event loop: shim connections, pidfds and timers live there. Requests
 * reach it by a queue; its answers are callbacks (any thread, no lock held), as the handlers need.
 * After engine_stop() every call is answered with the problem "shutting-down". */
#pragma once

#include "api/cleanup.h"
#include "api/problem.h"
#include "server/app.h"
#include "server/registry.h"
#include "server/shim_client.h"

/* How long a stop waits for the command by default, and how much longer for the supervisor's own
 * end: that has to see to it that a disk is written. */
enum { STOP_GRACE_MS = 10000, STOP_MARGIN_MS = 55000 };

/* Opens and loads the store and makes the registry (both unless app has them already), re-adopts
 * live shims, marks what ended meanwhile, and starts the thread. Returns once every supervisor that
 * was running has answered or is known to be gone (a few seconds at most). */
int engine_start(struct app *app, struct error *err);
/* Ends the thread after answering every request that still waits; the bottles run on, unless
 * `stop_bottles`. app->engine stays valid until engine_free(). */
void engine_stop(struct app *app, bool stop_bottles);
/* Closes the store, and frees engine and registry. Nothing may call in any more. NULLs are fine. */
void engine_free(struct app *app);

/* How often the engine's thread has come round when it was asked to, and asks it once more. */
uint64_t engine_beats(struct app *app);

/* Exactly one of snapshot (borrowed for the call) and problem is non-NULL. */
typedef void engine_done(void *context, struct snapshot *snapshot, const struct problem *problem);

/* What else is to be stored in the transaction that makes the bottle, on the store's thread. */
typedef int engine_record(sqlite3 *db, void *context, const struct snapshot *made,
                          struct error *err);
/* Creates: preflight, reserve, render into the stage directory, store. Takes the spec over.
 * `record` (NULL: none) has the same context. */
void engine_create(struct app *app, struct spec *spec, engine_record *record, engine_done *done,
                   void *context);
/* Idempotent. done as soon as it is under way (or already there). `sequence`: only the bottle of
 * that number, not another one that has come to the name ("not-found"); 0: whichever has it. */
void engine_start_bottle(struct app *app, const char *slug, uint64_t sequence, engine_done *done,
                         void *context);
/* Idempotent. done once its machine's processors stand still, or go on. */
void engine_pause_bottle(struct app *app, const char *slug, bool pause, engine_done *done,
                         void *context);
/* Stops it, if it runs, and starts it again; done as soon as that is under way. */
void engine_restart_bottle(struct app *app, const char *slug, int64_t grace_ms, engine_done *done,
                           void *context);
void engine_stop_bottle(struct app *app, const char *slug, int64_t grace_ms, engine_done *done,
                        void *context);
/* Does somebody still want what is waited for? On the engine's thread. */
typedef bool engine_wanted(void *context);
/* Calls done once the bottle is in one of `wanted` (a bit per enum bottle_state), is deleted
 * ("not-found"), or the time is over (problem "timeout" with a member "state"). It also ends, with
 * the snapshot as it is, once the bottle has come to rest (stopped, exited, failed): what was
 * waited for does not come by itself any more. Once `still` says no it ends with "timeout". */
void engine_wait(struct app *app, const char *slug, unsigned wanted, int64_t timeout_ms,
                 engine_wanted *still, engine_done *done, void *context);

/* Shows every snapshot of a bottle that is published, in order: no state is missed. */
struct watcher {
    struct watcher *prev, *next;
    const char *slug;
    /* On the engine's thread and under a lock: quick, and never back into the engine. NULL: the
     * bottle is no more. */
    void (*saw)(struct watcher *watcher, struct snapshot *snapshot);
};
/* From any thread. False: as many watch as may wait (max_waiters). */
bool engine_watch(struct app *app, struct watcher *watcher);
/* It is shown nothing any more once this is back. */
void engine_unwatch(struct app *app, struct watcher *watcher);

/* Applies a merge patch to the plan and, when the bottle runs, to its supervisor; done once it is
 * in force. Takes the patch over. `if_match` (may be NULL) is an If-Match header. */
void engine_patch(struct app *app, const char *slug, json_t *patch, const char *if_match,
                  engine_done *done, void *context);

typedef void engine_report_done(void *context, const json_t *report, const struct problem *problem);
/* Has the confinement tried from inside the live guest: {"passed", "checks"}, borrowed. */
void engine_report(struct app *app, const char *slug, engine_report_done *done, void *context);

/* Reads the bottle's secrets again and has the running guest take them: {"secrets", "signal"}. */
void engine_reload(struct app *app, const char *slug, engine_report_done *done, void *context);

typedef void engine_cleanup_done(void *context, const struct cleanup_plan *plan,
                                 const struct problem *problem);
/* What deleting would remove; changes nothing. */
void engine_cleanup_plan(struct app *app, const char *slug, engine_cleanup_done *done,
                         void *context);
/* Stops what runs, confirms death, then removes item by item. `if_match` (may be NULL) is an
 * If-Match header: the tag that was shown has to be in it; `sequence` as engine_start_bottle()'s.
 * An item that can not be removed ends it with "cleanup-failed", whose member "cleanup" is the plan
 * with its outcomes; deleting again goes on. */
void engine_delete(struct app *app, const char *slug, uint64_t sequence, const char *if_match,
                   bool keep_logs, engine_cleanup_done *done, void *context);

/* What no bottle owns (orphans.h), and, with `remove`, its removal; `if_match` and failures as
 * engine_delete()'s. */
void engine_orphans(struct app *app, bool remove, const char *if_match, engine_cleanup_done *done,
                    void *context);

enum { EXEC_ID_SIZE = 17 }; /* 16 hexadecimal digits */

/* `stream` speaks frames with the supervisor (shim/protocol.h, "exec") and is the callee's; -1 with
 * a problem. */
typedef void engine_exec_done(void *context, int stream, const char *id,
                              const struct problem *problem);
/* Prepares a program's run beside the command of a running bottle. `theirs`: the supervisor's end
 * of a socketpair whose other end the caller has; it is taken over, `stream` is -1 then, and of a
 * problem it is closed after the callback. -1: none. */
void engine_exec(struct app *app, const char *slug, int theirs, engine_exec_done *done,
                 void *context);
/* How an exec stands, after it was told `note`: {"id", "state", "exit_code", …}, borrowed. */
void engine_exec_result(struct app *app, const char *slug, const char *id,
                        const struct exec_note *note, engine_report_done *done, void *context);
