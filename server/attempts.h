/* Wrong tokens, counted by the address that they come from: after so many within a minute that
 * address waits for the minute's end. A bounded table; when it is full the oldest count goes. Not
 * safe for threads by itself. */
#pragma once

#include <stdint.h>

#include "server/address.h"

enum { ATTEMPTS_PEERS = 256, ATTEMPTS_WINDOW_MS = 60000 };

struct attempts {
    struct attempts_peer {
        uint8_t key[16]; /* an IPv6 address counts by its /64, which is one client's */
        int64_t since_ms;
        int64_t count; /* 0: free */
    } peers[ATTEMPTS_PEERS];
};

void attempts_add(struct attempts *attempts, const union address *peer, int64_t now_ms);
/* How long the peer has to wait before another is looked at; 0: not at all. */
int64_t attempts_wait_ms(const struct attempts *attempts, const union address *peer, int64_t most,
                         int64_t now_ms);
