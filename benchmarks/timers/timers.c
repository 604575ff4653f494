/* timers.c - what cancelling costs: at once (csrc/ds/heap.c) and lazily (lazy.c).
 *
 * Each scenario runs with N timers outstanding. A timer is a malloc'd block of TIMER_SIZE
 * bytes, about what a TimerHandle with its deadline and its share of a context takes, and
 * is freed when it leaves the heap; so memory traffic is like the loop's. An operation is
 * a call_later with a cancel (in "drain" a cancel, in "fire" a timer that fires), and
 * every OPS_PER_ITERATION operations end an iteration of the loop, which is when the lazy
 * way tidies up. The timers' clock goes on by a microsecond per operation.
 *
 * Figures: CPU nanoseconds per operation, median and best round; the longest iteration in
 * microseconds of CPU, the lesser of two rounds of their own, which read the clock in
 * every iteration; the most timers in memory at once, per outstanding one.
 */
#include "ds/heap.h"
#include "lazy.h"

#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TIMER_SIZE = 320, OPS_PER_ITERATION = 16, ROUNDS = 5, PAUSE_ROUNDS = 2 };

#define TICK 1e-6

typedef union {
    HeapNode node;
    LazyNode lazy;
    char room[TIMER_SIZE];
} Timer;

typedef struct {
    const char *name;
    bool lazy;
} Way;

static const Way WAYS[] = {{"at once", false}, {"lazily", true}};
enum { WAY_COUNT = sizeof(WAYS) / sizeof(WAYS[0]) };

/* One run of one scenario. */
typedef struct {
    const Way *way;
    size_t n;
    Heap heap;
    LazyHeap lazy;
    Timer **live; /* the N outstanding ones, in the order they were made */
    uint64_t random;
    double now;
    size_t in_memory, most_in_memory;
    size_t done;      /* operations */
    bool pauses;      /* look for the longest iteration */
    uint64_t began;   /* this iteration, ns */
    uint64_t longest; /* iteration, ns */
} Run;

typedef struct {
    double ns;      /* per operation */
    double longest; /* iteration, us */
    double memory;  /* the most timers in memory, per outstanding one */
} Result;

typedef struct {
    const char *name;
    void (*prepare)(Run *run);
    void (*body)(Run *run); /* what is timed */
} Scenario;

static size_t *memory_of_lazy_drop; /* drop() has no argument for its run */

static uint64_t
cpu_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now); /* cannot fail */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t
run_random(Run *run)
{
    run->random ^= run->random << 13;
    run->random ^= run->random >> 7;
    run->random ^= run->random << 17;
    return run->random;
}

/* ---- the two ways behind one interface ---- */

static void
drop_lazy(LazyNode *node)
{
    (*memory_of_lazy_drop)--;
    free(node);
}

static Timer *
timer_add(Run *run, double delay)
{
    Timer *timer = malloc(sizeof(Timer));
    bool pushed = false;
    if (timer != NULL) {
        memset(timer, 0, sizeof(Timer));
        timer->node.deadline = run->now + delay; /* where lazy.deadline is too */
        pushed = run->way->lazy ? lazy_push(&run->lazy, &timer->lazy)
                                : heap_push(&run->heap, &timer->node);
    }
    if (!pushed) {
        (void)fprintf(stderr, "out of memory\n");
        exit(1);
    }
    if (++run->in_memory > run->most_in_memory) {
        run->most_in_memory = run->in_memory;
    }
    return timer;
}

static void
timer_cancel(Run *run, Timer *timer)
{
    if (run->way->lazy) {
        lazy_cancel(&run->lazy, &timer->lazy);
        return;
    }
    heap_remove(&run->heap, &timer->node);
    free(timer);
    run->in_memory--;
}

static void
timer_fire_first(Run *run)
{
    Timer *timer;
    if (run->way->lazy) {
        timer = (Timer *)lazy_pop(&run->lazy);
    }
    else {
        timer = (Timer *)heap_first(&run->heap);
        heap_remove(&run->heap, &timer->node);
    }
    free(timer);
    run->in_memory--;
}

static void
run_end_iteration(Run *run)
{
    if (run->way->lazy) {
        lazy_iteration(&run->lazy);
    }
    if (!run->pauses) {
        return;
    }
    uint64_t now = cpu_ns();
    if (now - run->began > run->longest) {
        run->longest = now - run->began;
    }
    run->began = now;
}

/* After each operation. */
static void
run_operation_done(Run *run)
{
    run->now += TICK;
    if (++run->done % OPS_PER_ITERATION == 0) {
        run_end_iteration(run);
    }
}

/* ---- scenarios ---- */

static size_t
run_operations(const Run *run)
{
    return run->n * 2 > 400000 ? run->n * 2 : 400000;
}

static void
add_outstanding(Run *run, double delay, double spread)
{
    for (size_t i = 0; i < run->n; i++) {
        double part = spread > 0 ? (double)(run_random(run) % 1000000) / 1e6 : 0;
        run->live[i] = timer_add(run, delay + spread * part);
        run->now += TICK;
    }
}

static void
prepare_minute(Run *run)
{
    add_outstanding(run, 60, 0);
}

static void
prepare_spread(Run *run)
{
    add_outstanding(run, 60, 60);
}

/* A time-out of 10 s around something that is done at once, beside N longer ones. */
static void
body_short(Run *run)
{
    for (size_t i = run_operations(run); i > 0; i--) {
        timer_cancel(run, timer_add(run, 10));
        run_operation_done(run);
    }
}

/* The same beside N shorter ones. */
static void
body_long(Run *run)
{
    for (size_t i = run_operations(run); i > 0; i--) {
        timer_cancel(run, timer_add(run, 600));
        run_operation_done(run);
    }
}

/* N connections in turn renew their idle time-out: the oldest timer is cancelled. */
static void
body_renew_oldest(Run *run)
{
    for (size_t i = 0; i < run_operations(run); i++) {
        Timer **timer = &run->live[i % run->n];
        timer_cancel(run, *timer);
        *timer = timer_add(run, 60);
        run_operation_done(run);
    }
}

/* N connections at random renew theirs. */
static void
body_renew_any(Run *run)
{
    for (size_t i = 0; i < run_operations(run); i++) {
        Timer **timer = &run->live[run_random(run) % run->n];
        timer_cancel(run, *timer);
        *timer = timer_add(run, 60);
        run_operation_done(run);
    }
}

static void
body_cancel_fifo(Run *run)
{
    for (size_t i = 0; i < run->n; i++) {
        timer_cancel(run, run->live[i]);
        run_operation_done(run);
    }
}

static void
body_cancel_lifo(Run *run)
{
    for (size_t i = run->n; i-- > 0;) {
        timer_cancel(run, run->live[i]);
        run_operation_done(run);
    }
}

static void
body_fire(Run *run)
{
    for (size_t i = 0; i < run->n; i++) {
        timer_fire_first(run);
        run_operation_done(run);
    }
}

static const Scenario SCENARIOS[] = {
    {"add and cancel at once, earliest", prepare_minute, body_short},
    {"add and cancel at once, latest", prepare_minute, body_long},
    {"renew the oldest", prepare_minute, body_renew_oldest},
    {"renew any", prepare_minute, body_renew_any},
    {"cancel all, oldest first", prepare_minute, body_cancel_fifo},
    {"cancel all, newest first", prepare_minute, body_cancel_lifo},
    {"cancel all, mixed deadlines", prepare_spread, body_cancel_fifo},
    {"let all fire, mixed deadlines", prepare_spread, body_fire},
};
enum { SCENARIO_COUNT = sizeof(SCENARIOS) / sizeof(SCENARIOS[0]) };

/* ---- measuring ---- */

static Result
run_scenario(const Scenario *scenario, const Way *way, size_t n, bool pauses)
{
    Run run = {.way = way, .n = n, .pauses = pauses, .now = 1000};
    run.random = 88172645463325252u;
    run.live = calloc(n, sizeof(*run.live));
    run.lazy.drop = drop_lazy;
    memory_of_lazy_drop = &run.in_memory;
    if (run.live == NULL) {
        (void)fprintf(stderr, "out of memory\n");
        exit(1);
    }
    scenario->prepare(&run);
    uint64_t start = cpu_ns();
    run.began = start;
    scenario->body(&run);
    uint64_t end = cpu_ns();
    Result result = {
        .ns = (double)(end - start) / (double)run.done,
        .longest = (double)run.longest / 1e3,
        .memory = (double)run.most_in_memory / (double)n,
    };
    while (heap_first(&run.heap) != NULL || run.lazy.count > 0) {
        timer_fire_first(&run);
    }
    heap_free(&run.heap);
    free(run.lazy.items);
    free(run.live);
    return result;
}

static int
compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void
measure(const Scenario *scenario, size_t n)
{
    double ns[WAY_COUNT][ROUNDS], longest[WAY_COUNT], memory[WAY_COUNT];
    for (size_t round = 0; round < ROUNDS + PAUSE_ROUNDS; round++) {
        for (size_t i = 0; i < WAY_COUNT; i++) {
            size_t way = (i + round) % WAY_COUNT; /* in turn */
            bool pauses = round >= ROUNDS;
            Result result = run_scenario(scenario, &WAYS[way], n, pauses);
            if (!pauses) {
                ns[way][round] = result.ns;
                memory[way] = result.memory;
            }
            else if (round == ROUNDS || result.longest < longest[way]) {
                longest[way] = result.longest;
            }
        }
    }
    (void)printf("%-32s %8zu", scenario->name, n);
    for (size_t way = 0; way < WAY_COUNT; way++) {
        qsort(ns[way], ROUNDS, sizeof(double), compare_doubles);
        (void)printf("  %6.1f %6.1f %9.1f %5.2f", ns[way][ROUNDS / 2], ns[way][0],
                     longest[way], memory[way]);
    }
    (void)printf("\n");
    (void)fflush(stdout);
}

int
main(void)
{
    /* What is freed stays with the process: the kernel's work is no part of this. */
    (void)mallopt(M_TRIM_THRESHOLD, INT_MAX);
    (void)mallopt(M_MMAP_MAX, 0);
    (void)printf("%-41s", "");
    for (size_t way = 0; way < WAY_COUNT; way++) {
        (void)printf("  %-29s", WAYS[way].name);
    }
    (void)printf("\n%-32s %8s", "", "N");
    for (size_t way = 0; way < WAY_COUNT; way++) {
        (void)printf("  %6s %6s %9s %5s", "ns", "best", "worst us", "mem");
    }
    (void)printf("\n");
    for (size_t i = 0; i < SCENARIO_COUNT; i++) {
        for (size_t n = 1000; n <= 1000000; n *= 10) {
            measure(&SCENARIOS[i], n);
        }
    }
    return 0;
}
