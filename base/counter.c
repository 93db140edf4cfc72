#include "base/counter.h"

unsigned counter_shard(void)
{
    static atomic_uint threads;
    static _Thread_local unsigned mine; /* 0: not chosen yet */

    if (!mine)
        mine = atomic_fetch_add(&threads, 1) % COUNTER_SHARDS + 1;
    return mine - 1;
}

int64_t counter_sum(const struct counter *counter)
{
    int64_t sum = 0;

    for (unsigned i = 0; i < COUNTER_SHARDS; i++)
        sum += atomic_load(&counter->shards[i].count);
    return sum;
}
