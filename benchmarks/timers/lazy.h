/* lazy.h - the other way: asyncio's, as it would be in C.
 *
 * A heap over (deadline, sequence) of four children, as csrc/ds/heap.h's, so that only the
 * way of cancelling differs. A cancelled timer is marked and stays. Once per iteration the
 * dead ones at the top are popped; or, when more than LAZY_MINIMUM timers are queued and
 * more than half of them are dead, all dead ones are taken out and the heap is built anew:
 * the constants are asyncio's.
 */
#ifndef PYLOOP_BENCHMARKS_TIMERS_LAZY_H
#define PYLOOP_BENCHMARKS_TIMERS_LAZY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LAZY_MINIMUM = 100 };

typedef struct {
    double deadline;
    bool cancelled;
    bool queued;
} LazyNode;

typedef struct {
    double deadline;
    uint64_t sequence;
    LazyNode *node;
} LazyItem;

typedef struct {
    LazyItem *items;
    size_t count;
    size_t capacity;
    size_t cancelled;
    uint64_t next_sequence;
    void (*drop)(
        LazyNode *node); /* a dead timer left the heap: its owner may free it */
} LazyHeap;

bool lazy_push(LazyHeap *heap, LazyNode *node);
void lazy_cancel(LazyHeap *heap, LazyNode *node);
/* The heap's part of an iteration, before the first deadline is looked at. */
void lazy_iteration(LazyHeap *heap);
/* The earliest timer, dead or not; the heap must not be empty. */
LazyNode *lazy_pop(LazyHeap *heap);

#endif
