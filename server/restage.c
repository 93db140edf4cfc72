/* The stage files of a plan that has changed. They are derived, and each start makes what differs;
 * this keeps them true meanwhile. */
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/log.h"
#include "server/stage.h"

struct restage {
    struct job job;
    struct runner *runner;
    struct plan_ref *plan;
    unsigned uid;
    struct error err;
};

static void restage_work(struct job *job)
{
    struct restage *restage = (struct restage *)job;
    const struct plan *plan = plan_ref_get(restage->plan, &restage->err);

    if (plan)
        (void)stage_ensure(plan, restage->uid, &restage->err);
}

static void restaged(struct engine *engine, struct message *message)
{
    struct restage *restage = (struct restage *)message;
    struct runner *runner = restage->runner;

    (void)engine;
    runner_job_done(runner);
    if (restage->err.text[0]) /* the next start makes them, or says so */
        log_event(LEVEL_WARNING, "stage files are not the plan's", LOG_TEXT("slug", runner->slug),
                  LOG_TEXT("detail", restage->err.text));
    plan_ref_unref(restage->plan);
    free(restage);
    runner_settle(runner);
}

void runner_restage(struct runner *runner)
{
    struct restage *restage = must_alloc(sizeof *restage);

    restage->job = (struct job){.message.run = restaged, .work = restage_work};
    restage->runner = runner;
    restage->plan = plan_ref_ref(runner->plan);
    restage->uid = stage_uid(&runner->engine->app->host, &runner->row.allocation);
    runner_work(runner, &restage->job);
}
