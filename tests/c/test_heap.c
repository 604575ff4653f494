/* test_heap.c - csrc/ds/heap.h against a model that looks at every node. */
#include "check.h"
#include "ds/heap.h"

#include <math.h>

enum { NODES = 600, STEPS = 60000 };

typedef struct {
    HeapNode node;
    bool queued;
    uint64_t order; /* of its last push: what decides between equal deadlines */
} Timer;

static Timer *
model_first(Timer *timers, size_t count)
{
    Timer *first = NULL;
    for (size_t i = 0; i < count; i++) {
        Timer *timer = &timers[i];
        if (timer->queued &&
            (first == NULL || timer->node.deadline < first->node.deadline ||
             (timer->node.deadline == first->node.deadline &&
              timer->order < first->order))) {
            first = timer;
        }
    }
    return first;
}

static void
push(Heap *heap, Timer *timer, double deadline, uint64_t *order)
{
    timer->node.deadline = deadline;
    CHECK(heap_push(heap, &timer->node));
    timer->queued = true;
    timer->order = ++*order;
}

static void
test_empty(void)
{
    Heap heap = {0};
    CHECK(heap_first(&heap) == NULL);
    CHECK(heap_check(&heap));
    heap_free(&heap);
    heap_free(&heap);
}

static void
test_one(void)
{
    Heap heap = {0};
    HeapNode node = {.deadline = 1.0, .index = HEAP_NOT_QUEUED};
    for (int i = 0; i < 3; i++) {
        CHECK(heap_push(&heap, &node));
        CHECK(heap_first(&heap) == &node);
        CHECK(node.index == 0);
        heap_remove(&heap, &node);
        CHECK(node.index == HEAP_NOT_QUEUED);
        CHECK(heap_first(&heap) == NULL);
    }
    heap_free(&heap);
}

/* Deadlines in a given order come out in theirs. */
static void
test_sorting(void)
{
    static const double orders[][5] = {
        {1, 2, 3, 4, 5},
        {5, 4, 3, 2, 1},
        {3, 1, 4, 5, 2},
        {-INFINITY, -1e300, 0, 1e300, INFINITY},
        {INFINITY, 0, -INFINITY, 5e-324, -5e-324},
    };
    for (size_t row = 0; row < sizeof orders / sizeof orders[0]; row++) {
        Heap heap = {0};
        HeapNode nodes[5];
        for (size_t i = 0; i < 5; i++) {
            nodes[i].deadline = orders[row][i];
            CHECK(heap_push(&heap, &nodes[i]));
        }
        double last = -INFINITY;
        for (size_t i = 0; i < 5; i++) {
            HeapNode *first = heap_first(&heap);
            CHECK(first != NULL && first->deadline >= last);
            last = first->deadline;
            heap_remove(&heap, first);
        }
        CHECK(heap_first(&heap) == NULL);
        heap_free(&heap);
    }
}

static void
test_equal_deadlines_are_a_queue(void)
{
    Heap heap = {0};
    static HeapNode nodes[1000];
    for (size_t i = 0; i < 1000; i++) {
        nodes[i].deadline = 7.0;
        CHECK(heap_push(&heap, &nodes[i]));
    }
    for (size_t i = 0; i < 1000; i += 3) {
        heap_remove(&heap, &nodes[i]);
    }
    CHECK(heap_check(&heap));
    for (size_t i = 0; i < 1000; i++) {
        if (i % 3 != 0) {
            CHECK(heap_first(&heap) == &nodes[i]);
            heap_remove(&heap, &nodes[i]);
        }
    }
    heap_free(&heap);
}

/* Random pushes and removals from anywhere; few distinct deadlines, so many are equal. */
static void
test_random(uint64_t seed, uint64_t deadlines)
{
    static Timer timers[NODES];
    Heap heap = {0};
    uint64_t order = 0, state = seed;
    for (size_t i = 0; i < NODES; i++) {
        timers[i] = (Timer){.node.index = HEAP_NOT_QUEUED};
    }
    for (int step = 0; step < STEPS; step++) {
        Timer *timer = &timers[check_random(&state) % NODES];
        if (!timer->queued) {
            double deadline = (double)(check_random(&state) % deadlines);
            push(&heap, timer, deadline - (double)deadlines / 2, &order);
        }
        else if (check_random(&state) % 4 == 0) {
            heap_remove(&heap, &timer->node);
            timer->queued = false;
            CHECK(timer->node.index == HEAP_NOT_QUEUED);
        }
        if (step % 3 == 0) {
            Timer *first = model_first(timers, NODES);
            CHECK(heap_first(&heap) == (first != NULL ? &first->node : NULL));
            if (first != NULL && check_random(&state) % 2 == 0) {
                heap_remove(&heap, &first->node);
                first->queued = false;
            }
        }
        if (step % 500 == 0) {
            CHECK(heap_check(&heap));
        }
    }
    for (Timer *first; (first = model_first(timers, NODES)) != NULL;) {
        CHECK(heap_first(&heap) == &first->node);
        heap_remove(&heap, &first->node);
        first->queued = false;
    }
    CHECK(heap_first(&heap) == NULL);
    heap_free(&heap);
}

/* A push that fails changes nothing, and succeeds when there is memory again. */
static void
test_memory_runs_short(void)
{
    static HeapNode nodes[500];
    Heap heap = {0};
    size_t failures = 0;
    for (size_t i = 0; i < 500; i++) {
        nodes[i].deadline = (double)(500 - i);
        nodes[i].index = HEAP_NOT_QUEUED;
        check_fail_allocations_after(0);
        bool pushed = heap_push(&heap, &nodes[i]);
        check_fail_allocations_after(-1);
        if (!pushed) {
            failures++;
            CHECK(nodes[i].index == HEAP_NOT_QUEUED);
            CHECK(heap.count == i);
            CHECK(heap_check(&heap));
            CHECK(heap_push(&heap, &nodes[i]));
        }
    }
    CHECK(failures > 0 && failures < 20);
    CHECK(heap_check(&heap));
    for (size_t i = 500; i-- > 0;) {
        CHECK(heap_first(&heap) == &nodes[i]);
        heap_remove(&heap, &nodes[i]);
    }
    heap_free(&heap);
}

/* heap_check() finds what it is there to find. */
static void
test_the_checker(void)
{
    Heap heap = {0};
    HeapNode nodes[10];
    for (size_t i = 0; i < 10; i++) {
        nodes[i].deadline = (double)i;
        CHECK(heap_push(&heap, &nodes[i]));
    }
    CHECK(heap_check(&heap));
    nodes[3].index = 4;
    CHECK(!heap_check(&heap));
    nodes[3].index = 3;
    heap.items[0].deadline = 100;
    CHECK(!heap_check(&heap));
    heap.items[0].deadline = 0;
    CHECK(heap_check(&heap));
    while (heap_first(&heap) != NULL) {
        heap_remove(&heap, heap_first(&heap));
    }
    heap_free(&heap);
}

int
main(void)
{
    test_empty();
    test_one();
    test_sorting();
    test_equal_deadlines_are_a_queue();
    for (uint64_t seed = 1; seed <= 4; seed++) {
        test_random(seed, 10);
        test_random(seed, 1000000);
    }
    test_memory_runs_short();
    test_the_checker();
    return 0;
}
