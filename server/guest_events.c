/* What happens in a guest as a whole, as events. It is the guest's word, by way of the supervisor,
 * and both may be anybody's: bounded in number and made plain text. */
#include "base/clock.h"
#include "base/json.h"
#include "base/util.h"
#include "server/engine_internal.h"
#include "server/events.h"

enum { SPACE_MS = 500 }; /* the supervisor tells one of a kind a second at most */

static const char *const kinds[N_GUEST_KINDS][2] = {{"out-of-memory", "guest.out-of-memory"},
                                                    {"disk-full", "guest.disk-full"}};

void guest_heard(struct runner *runner, const json_t *packet)
{
    const char *kind = json_member_string(packet, "guest");
    const char *said = json_member_string(packet, "words");
    int64_t now = clock_monotonic_ms();
    char words[EGRESS_WORDS_SIZE];

    egress_words(words, sizeof words, said ? said : "");
    for (size_t i = 0; kind && i < COUNT_OF(kinds); i++) {
        int64_t *last = &runner->guest_heard_ms[i];
        if (strcmp(kinds[i][0], kind) != 0 || (*last && now < *last + SPACE_MS))
            continue;
        *last = now;
        struct event_list *list = event_list_new(runner->slug);
        if (list)
            event_list_add(list, kinds[i][1], json_pack("{s:s}", "reason", words));
        event_list_submit(list, runner->engine->app->store);
    }
}
