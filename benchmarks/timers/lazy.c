/* lazy.c - see lazy.h. */
#include "lazy.h"

#include <stdlib.h>

enum { ARITY = 4, FIRST_CAPACITY = 16 };

static inline bool
item_before(const LazyItem *a, const LazyItem *b)
{
    return a->deadline < b->deadline ||
           (a->deadline == b->deadline && a->sequence < b->sequence);
}

static void
sift_up(LazyHeap *heap, size_t index, LazyItem item)
{
    while (index > 0) {
        size_t parent = (index - 1) / ARITY;
        if (!item_before(&item, &heap->items[parent])) {
            break;
        }
        heap->items[index] = heap->items[parent];
        index = parent;
    }
    heap->items[index] = item;
}

static void
sift_down(LazyHeap *heap, size_t index, LazyItem item)
{
    for (;;) {
        size_t child = index * ARITY + 1;
        if (child >= heap->count) {
            break;
        }
        size_t end = child + ARITY < heap->count ? child + ARITY : heap->count;
        size_t best = child;
        for (size_t i = child + 1; i < end; i++) {
            if (item_before(&heap->items[i], &heap->items[best])) {
                best = i;
            }
        }
        if (!item_before(&heap->items[best], &item)) {
            break;
        }
        heap->items[index] = heap->items[best];
        index = best;
    }
    heap->items[index] = item;
}

bool
lazy_push(LazyHeap *heap, LazyNode *node)
{
    if (heap->count == heap->capacity) {
        size_t capacity = heap->capacity > 0 ? heap->capacity * 2 : FIRST_CAPACITY;
        LazyItem *items = realloc(heap->items, capacity * sizeof(LazyItem));
        if (items == NULL) {
            return false;
        }
        heap->items = items;
        heap->capacity = capacity;
    }
    node->cancelled = false;
    node->queued = true;
    LazyItem item = {node->deadline, heap->next_sequence++, node};
    heap->count++;
    sift_up(heap, heap->count - 1, item);
    return true;
}

void
lazy_cancel(LazyHeap *heap, LazyNode *node)
{
    node->cancelled = true;
    heap->cancelled++;
}

LazyNode *
lazy_pop(LazyHeap *heap)
{
    LazyNode *node = heap->items[0].node;
    heap->count--;
    if (heap->count > 0) {
        sift_down(heap, 0, heap->items[heap->count]);
    }
    node->queued = false;
    return node;
}

static void
compact(LazyHeap *heap)
{
    size_t kept = 0;
    for (size_t i = 0; i < heap->count; i++) {
        if (heap->items[i].node->cancelled) {
            heap->drop(heap->items[i].node);
        }
        else {
            heap->items[kept++] = heap->items[i];
        }
    }
    heap->count = kept;
    heap->cancelled = 0;
    if (kept < 2) {
        return;
    }
    for (size_t i = (kept - 2) / ARITY + 1; i-- > 0;) {
        sift_down(heap, i, heap->items[i]);
    }
}

void
lazy_iteration(LazyHeap *heap)
{
    if (heap->count > LAZY_MINIMUM && heap->cancelled * 2 > heap->count) {
        compact(heap);
        return;
    }
    while (heap->count > 0 && heap->items[0].node->cancelled) {
        heap->cancelled--;
        heap->drop(lazy_pop(heap));
    }
}
