/* What a supervisor says, as bottled takes it: a status, an egress packet, a report, words. A
 * supervisor runs as its bottle's user. What is kept of it is bounded, and can be written as JSON.
 */
#include <stdlib.h>
#include <string.h>

#include "api/bottle.h"
#include "base/json.h"
#include "server/engine_internal.h"
#include "tests/fuzz/fuzz.h"

static void must_encode(json_t *value)
{
    char *text = json_text(value);

    MUST(value && text);
    free(text);
    json_decref(value);
}

static void status(const char *bytes, size_t length)
{
    struct error err = ERROR_INIT;
    struct shim_status said;

    if (shim_status_parse(bytes, length, &said, &err) < 0) {
        MUST(err.text[0]);
        return;
    }
    MUST(said.state >= STATE_STARTING && said.state <= STATE_FAILED);
    MUST(!said.has_exit_code || (said.exit_code >= 0 && said.exit_code <= 255));
    MUST(said.n_processes <= SHIM_PROCESSES_MAX && said.pid >= 0);
    for (size_t i = 0; i < said.n_processes; i++)
        MUST(said.processes[i].pid > 1 && said.processes[i].start_time > 0);
    must_encode(json_string(said.reason));
    must_encode(json_string(said.boot_reason));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct egress_news news;
    json_t *packet = json_parse((const char *)bytes, length, NULL);

    status((const char *)bytes, length);
    if (!packet)
        return 0;
    egress_news_read(packet, &news);
    MUST(news.count <= EGRESS_NOTES_MAX && news.lost >= 0 && news.totals.bytes_in >= 0);
    for (size_t i = 0; i < news.count; i++) {
        MUST(news.notes[i].count >= 0 && news.notes[i].port >= 0 && news.notes[i].port <= 65535);
        must_encode(egress_note_encode(&news.notes[i]));
    }
    must_encode(report_encode(packet));
    json_decref(packet);
    return 0;
}
