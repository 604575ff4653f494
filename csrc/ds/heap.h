/* heap.h - the timer heap: a 4-ary min-heap over (deadline, sequence).
 *
 * Plain C, no Python.h. Nodes are embedded in their owners (TimerHandleObject) and know
 * their own index, so that a cancelled timer leaves at once: its handle is freed when the
 * user lets go of it, not when the deadline comes, and the heap never holds dead entries (docs/decisions/0002). Deadlines are seconds as doubles, exactly what
 * loop.time() counts in, so an overridden clock needs no second kind of key.
 */
#ifndef PYLOOP_DS_HEAP_H
#define PYLOOP_DS_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAP_NOT_QUEUED SIZE_MAX

typedef struct {
    double deadline;   /* seconds; never NaN */
    uint64_t sequence; /* order among equal deadlines; set by heap_push */
    size_t index;      /* place in the heap, HEAP_NOT_QUEUED when in none */
} HeapNode;

typedef struct {
    double deadline;   /* copies of the node's keys, so that comparing */
    uint64_t sequence; /* touches no other cache line */
    HeapNode *node;
} HeapItem;

typedef struct {
    HeapItem *items; /* malloc */
    size_t count;
    size_t capacity;
    uint64_t next_sequence;
} Heap;

static inline HeapNode *
heap_first(const Heap *heap)
{
    return heap->count > 0 ? heap->items[0].node : NULL;
}

/* False when memory is short; the node is then in no heap. */
bool heap_push(Heap *heap, HeapNode *node);

/* The node must be in this heap. */
void heap_remove(Heap *heap, HeapNode *node);

/* Frees the storage; the nodes must have been removed. */
void heap_free(Heap *heap);

/* True when the order and the indexes hold everywhere; for asserts and tests. */
bool heap_check(const Heap *heap);

#endif
