/* The handlers that the route table names. Each answers its request, now or later (see request.h).
 */
#pragma once

#include "server/request.h"

typedef void handler(struct request *request);

/* handlers_meta.c */
handler handle_healthz, handle_readyz, handle_version, handle_openapi, handle_backends,
    handle_limits;
/* handlers_docs.c */
handler handle_docs, handle_docs_file;
/* handlers_metrics.c */
handler handle_metrics;
/* handlers_plans.c */
handler handle_plan_dry_run, handle_bottle_plan, handle_plan_file;
/* handlers_bottles.c */
handler handle_bottle_create, handle_bottle_list, handle_bottle_get, handle_bottle_wait;
handler handle_bottle_start, handle_bottle_stop, handle_bottle_delete, handle_cleanup_plan;
handler handle_bottle_restart, handle_bottle_pause, handle_bottle_resume;
handler handle_orphans_plan, handle_orphans_remove;
handler handle_bottle_patch;
/* handlers_images.c */
handler handle_image_list, handle_image_import, handle_image_get, handle_image_delete;
/* handlers_live.c */
handler handle_bottle_stats, handle_egress_report, handle_secrets_reload;
/* handlers_exec.c */
handler handle_exec, handle_exec_result, handle_exec_kill;
handler handle_exec_stdin, handle_exec_signal, handle_exec_resize;
/* handlers_files.c */
handler handle_file_get, handle_file_put, handle_archive_get, handle_archive_put;
/* handlers_events.c */
handler handle_events;
/* handlers_session.c */
handler handle_session_open, handle_session_get, handle_session_close;
/* handlers_logs.c */
handler handle_bottle_logs;
