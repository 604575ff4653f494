/* heap.c - see heap.h.
 *
 * Invariant H1: items[i].node->index == i for every i < count.
 * Invariant H2: no item is before its parent, items[(i - 1) / 4].
 */
#include "ds/heap.h"

#include <assert.h>
#include <stdlib.h>

enum { HEAP_ARITY = 4, HEAP_FIRST_CAPACITY = 16 };

static inline bool
item_before(const HeapItem *a, const HeapItem *b)
{
    return a->deadline < b->deadline ||
           (a->deadline == b->deadline && a->sequence < b->sequence);
}

static inline void
heap_place(Heap *heap, size_t index, HeapItem item)
{
    heap->items[index] = item;
    item.node->index = index;
}

static void
heap_sift_up(Heap *heap, size_t index, HeapItem item)
{
    while (index > 0) {
        size_t parent = (index - 1) / HEAP_ARITY;
        if (!item_before(&item, &heap->items[parent])) {
            break;
        }
        heap_place(heap, index, heap->items[parent]);
        index = parent;
    }
    heap_place(heap, index, item);
}

static void
heap_sift_down(Heap *heap, size_t index, HeapItem item)
{
    for (;;) {
        size_t child = index * HEAP_ARITY + 1;
        if (child >= heap->count) {
            break;
        }
        size_t end = child + HEAP_ARITY;
        if (end > heap->count) {
            end = heap->count;
        }
        size_t best = child;
        for (size_t i = child + 1; i < end; i++) {
            if (item_before(&heap->items[i], &heap->items[best])) {
                best = i;
            }
        }
        if (!item_before(&heap->items[best], &item)) {
            break;
        }
        heap_place(heap, index, heap->items[best]);
        index = best;
    }
    heap_place(heap, index, item);
}

static bool
heap_grow(Heap *heap)
{
    size_t capacity = heap->capacity > 0 ? heap->capacity * 2 : HEAP_FIRST_CAPACITY;
    if (capacity > SIZE_MAX / sizeof(HeapItem)) {
        return false;
    }
    HeapItem *items = realloc(heap->items, capacity * sizeof(HeapItem));
    if (items == NULL) {
        return false;
    }
    heap->items = items;
    heap->capacity = capacity;
    return true;
}

bool
heap_push(Heap *heap, HeapNode *node)
{
    if (heap->count == heap->capacity && !heap_grow(heap)) {
        node->index = HEAP_NOT_QUEUED;
        return false;
    }
    node->sequence = heap->next_sequence++;
    HeapItem item = {node->deadline, node->sequence, node};
    heap->count++;
    heap_sift_up(heap, heap->count - 1, item);
    return true;
}

void
heap_remove(Heap *heap, HeapNode *node)
{
    size_t index = node->index;
    assert(index < heap->count && heap->items[index].node == node);
    node->index = HEAP_NOT_QUEUED;
    heap->count--;
    if (index == heap->count) {
        return; /* the last place: nothing moves */
    }
    HeapItem last = heap->items[heap->count];
    if (index > 0 && item_before(&last, &heap->items[(index - 1) / HEAP_ARITY])) {
        heap_sift_up(heap, index, last);
    }
    else {
        heap_sift_down(heap, index, last);
    }
}

void
heap_free(Heap *heap)
{
    assert(heap->count == 0);
    free(heap->items);
    *heap = (Heap){0};
}

bool
heap_check(const Heap *heap)
{
    for (size_t i = 0; i < heap->count; i++) {
        const HeapItem *item = &heap->items[i];
        if (item->node->index != i || item->node->sequence != item->sequence) {
            return false;
        }
        if (i > 0 && item_before(item, &heap->items[(i - 1) / HEAP_ARITY])) {
            return false;
        }
    }
    return true;
}
