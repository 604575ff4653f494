/* ring.c - storage of Ring; the fast paths are inline in ring.h. */
#include "ds/ring.h"

#include <stdlib.h>
#include <string.h>

enum { RING_FIRST_CAPACITY = 64 };

bool
ring_reserve(Ring *ring, size_t extra)
{
    size_t old_capacity = ring_capacity(ring);
    if (extra <= old_capacity - ring->count) {
        return true;
    }
    if (extra > SIZE_MAX / sizeof(uint64_t) / 4 - ring->count) {
        return false;
    }
    size_t capacity = old_capacity > 0 ? old_capacity : RING_FIRST_CAPACITY;
    while (capacity - ring->count < extra) {
        capacity *= 2;
    }
    uint64_t *items = malloc(capacity * sizeof(uint64_t));
    if (items == NULL) {
        return false;
    }
    /* Unroll: the oldest word lands at 0, so the new mask cannot tear the order. */
    if (ring->count > 0) {
        size_t until_end = old_capacity - ring->head;
        size_t first = ring->count < until_end ? ring->count : until_end;
        memcpy(items, ring->items + ring->head, first * sizeof(uint64_t));
        memcpy(items + first, ring->items, (ring->count - first) * sizeof(uint64_t));
    }
    free(ring->items);
    ring->items = items;
    ring->mask = capacity - 1;
    ring->head = 0;
    return true;
}

void
ring_free(Ring *ring)
{
    free(ring->items);
    *ring = (Ring){0};
}
