/* A count that many threads change with each request and few ask for, in shards: each thread
 * changes one that hardly another does, so that the processors need not pass one line of memory to
 * and fro. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

enum { COUNTER_SHARDS = 4, COUNTER_LINE = 64 };

struct counter {
    char before[COUNTER_LINE]; /* what lies there is read by all */
    struct {
        atomic_llong count;
        char rest[COUNTER_LINE - sizeof(long long)];
    } shards[COUNTER_SHARDS];
};

/* The calling thread's, always the same. */
unsigned counter_shard(void);

static inline void counter_add(struct counter *counter, int64_t value)
{
    (void)atomic_fetch_add(&counter->shards[counter_shard()].count, value);
}

/* Looks at one after the other: exact as long as nobody changes it. */
int64_t counter_sum(const struct counter *counter);
