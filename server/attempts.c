#include "server/attempts.h"

#include <string.h>

#include "base/util.h"

static void make_key(const union address *peer, uint8_t ret[16])
{
    memset(ret, 0, 16);
    if (peer->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&peer->v6.sin6_addr))
        memcpy(ret + 12, peer->v6.sin6_addr.s6_addr + 12, 4);
    else if (peer->any.sa_family == AF_INET6)
        memcpy(ret, peer->v6.sin6_addr.s6_addr, 8);
    else
        memcpy(ret + 12, &peer->v4.sin_addr, 4);
}

static bool counts(const struct attempts_peer *row, int64_t now_ms)
{
    return row->count > 0 && now_ms - row->since_ms < ATTEMPTS_WINDOW_MS;
}

void attempts_add(struct attempts *attempts, const union address *peer, int64_t now_ms)
{
    struct attempts_peer *taken = &attempts->peers[0];
    uint8_t key[16];

    make_key(peer, key);
    for (size_t i = 0; i < COUNT_OF(attempts->peers); i++) {
        struct attempts_peer *row = &attempts->peers[i];
        if (counts(row, now_ms) && memcmp(row->key, key, sizeof key) == 0) {
            row->count++;
            return;
        }
        if (counts(taken, now_ms) && (!counts(row, now_ms) || row->since_ms < taken->since_ms))
            taken = row;
    }
    *taken = (struct attempts_peer){.since_ms = now_ms, .count = 1};
    memcpy(taken->key, key, sizeof key);
}

int64_t attempts_wait_ms(const struct attempts *attempts, const union address *peer, int64_t most,
                         int64_t now_ms)
{
    uint8_t key[16];

    make_key(peer, key);
    for (size_t i = 0; i < COUNT_OF(attempts->peers); i++) {
        const struct attempts_peer *row = &attempts->peers[i];
        if (counts(row, now_ms) && memcmp(row->key, key, sizeof key) == 0)
            return row->count >= most ? row->since_ms + ATTEMPTS_WINDOW_MS - now_ms : 0;
    }
    return 0;
}
