/* ring.h - a growable FIFO of 64-bit words: the ready queue and the threads' inbox.
 *
 * Plain C, no Python.h: what a word means is its owner's affair (run.h). The capacity
 * is a power of two and never shrinks while the ring lives, so that a loop that had a
 * burst once does not pay for the next one.
 */
#ifndef PYLOOP_DS_RING_H
#define PYLOOP_DS_RING_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t *items; /* malloc; NULL until the first reserve */
    size_t mask;     /* capacity - 1, or 0 while items is NULL */
    size_t head;     /* index of the oldest word, taken modulo the capacity */
    size_t count;
} Ring;

/* Makes room for extra more words; false when memory is short (nothing changed). */
bool ring_reserve(Ring *ring, size_t extra);

/* Frees the storage. The words must have been taken out by their owner. */
void ring_free(Ring *ring);

static inline size_t
ring_capacity(const Ring *ring)
{
    return ring->items == NULL ? 0 : ring->mask + 1;
}

/* Cannot fail once ring_reserve() has succeeded for it. */
static inline void
ring_push_reserved(Ring *ring, uint64_t word)
{
    assert(ring->count < ring_capacity(ring));
    ring->items[(ring->head + ring->count) & ring->mask] = word;
    ring->count++;
}

static inline bool
ring_push(Ring *ring, uint64_t word)
{
    if (ring->count == ring_capacity(ring) && !ring_reserve(ring, 1)) {
        return false;
    }
    ring_push_reserved(ring, word);
    return true;
}

/* The ring must not be empty. */
static inline uint64_t
ring_pop(Ring *ring)
{
    assert(ring->count > 0);
    uint64_t word = ring->items[ring->head];
    ring->head = (ring->head + 1) & ring->mask;
    ring->count--;
    return word;
}

/* The i-th oldest word, i < count. */
static inline uint64_t
ring_at(const Ring *ring, size_t i)
{
    assert(i < ring->count);
    return ring->items[(ring->head + i) & ring->mask];
}

#endif
