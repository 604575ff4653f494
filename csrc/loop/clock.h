/* clock.h - what the loop tells time by: nanoseconds, and the cycle counter. */
#ifndef PYLOOP_LOOP_CLOCK_H
#define PYLOOP_LOOP_CLOCK_H

#include "base/compat.h"

#include <time.h>

static inline uint64_t
clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* A cheap measure of passing time: a third of clock_gettime's cost where there is one.
 * How long a tick is, metrics.c finds out from both. */
static inline uint64_t
clock_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return clock_ns() * 2;
#endif
}

#endif
