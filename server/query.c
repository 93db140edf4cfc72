#include "server/query.h"

#include <string.h>

#include "base/number.h"
#include "base/text.h"
#include "base/util.h"

int query_flag(struct request *request, const char *name, bool *ret)
{
    const char *value = request_query(request, name);

    if (!value)
        return 0;
    if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0) {
        reply_fault(request, "invalid-query", "%s: true or false", name);
        return -1;
    }
    *ret = value[0] == 't';
    return 0;
}

int query_duration(struct request *request, const char *name, int64_t max_ms, int64_t *ret_ms)
{
    const char *value = request_query(request, name);

    if (!value)
        return 0;
    if (duration_parse(value, ret_ms) < 0 || *ret_ms > max_ms) {
        reply_fault(request, "invalid-query",
                    "%s: a time such as 500ms, 30s, 5m or 1h, of at most %lld s", name,
                    (long long)max_ms / 1000);
        return -1;
    }
    return 0;
}

int query_integer(struct request *request, const char *name, int64_t min, int64_t max, int64_t *ret)
{
    const char *value = request_query(request, name);

    if (!value)
        return 0;
    if (number_parse(value, min, max, ret) < 0) {
        reply_fault(request, "invalid-query", "%s: a whole number from %lld to %lld", name,
                    (long long)min, (long long)max);
        return -1;
    }
    return 0;
}

static int refuse_state(struct request *request, const char *name, unsigned allowed)
{
    CLEANUP_TEXT struct text names = TEXT_INIT;

    for (int i = 0; i < N_STATES; i++)
        if (allowed >> i & 1)
            text_addf(&names, "%s%s", names.length ? ", " : "", states[i].name);
    reply_fault(request, "invalid-query", "%s: one or more of %s, with commas between", name,
                names.failed ? "the states" : names.data);
    return -1;
}

/* One value: "running" or "stopped,exited". -1: a name that is no allowed state. */
static int parse_states(const char *value, unsigned allowed, unsigned *states_set)
{
    char state_name[16];

    for (;;) {
        size_t length = strcspn(value, ",");
        if (length == 0 || length >= sizeof state_name)
            return -1;
        memcpy(state_name, value, length);
        state_name[length] = '\0';
        int state = state_parse(state_name);
        if (state < 0 || !(allowed >> state & 1))
            return -1;
        *states_set |= 1U << state;
        if (value[length] == '\0')
            return 0;
        value += length + 1;
    }
}

int query_states(struct request *request, const char *name, unsigned allowed, unsigned *ret)
{
    unsigned found = 0;
    const char *value;

    for (size_t k = 0; (value = request_query_nth(request, name, k)); k++)
        if (parse_states(value, allowed, &found) < 0)
            return refuse_state(request, name, allowed);
    *ret = found;
    return 0;
}
