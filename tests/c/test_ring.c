/* test_ring.c - csrc/ds/ring.h against a plain array. */
#include "check.h"
#include "ds/ring.h"

enum { STEPS = 200000 };

static void
test_empty(void)
{
    Ring ring = {0};
    CHECK(ring.count == 0);
    CHECK(ring_capacity(&ring) == 0);
    CHECK(ring_reserve(&ring, 0));
    ring_free(&ring);
    ring_free(&ring);
}

static void
test_order(void)
{
    Ring ring = {0};
    for (uint64_t i = 0; i < 1000; i++) {
        CHECK(ring_push(&ring, i));
    }
    CHECK(ring.count == 1000);
    for (uint64_t i = 0; i < 1000; i++) {
        CHECK(ring_at(&ring, 0) == i);
        CHECK(ring_pop(&ring) == i);
    }
    CHECK(ring.count == 0);
    ring_free(&ring);
}

/* Growth with the head at every place of a full ring: the order survives the unrolling. */
static void
test_growth_at_every_head(void)
{
    Ring probe = {0};
    CHECK(ring_push(&probe, 0));
    size_t capacity = ring_capacity(&probe);
    ring_free(&probe);
    for (size_t head = 0; head < capacity; head++) {
        Ring ring = {0};
        uint64_t next = 0, oldest = 0;
        for (size_t i = 0; i < head; i++) {
            CHECK(ring_push(&ring, next++));
            CHECK(ring_pop(&ring) == oldest++);
        }
        while (ring.count < capacity) {
            CHECK(ring_push(&ring, next++));
        }
        CHECK(ring_capacity(&ring) == capacity);
        CHECK(ring_push(&ring, next++));
        CHECK(ring_capacity(&ring) > capacity);
        for (size_t i = 0; i < ring.count; i++) {
            CHECK(ring_at(&ring, i) == oldest + i);
        }
        while (ring.count > 0) {
            CHECK(ring_pop(&ring) == oldest++);
        }
        CHECK(oldest == next);
        ring_free(&ring);
    }
}

static void
test_reserve(void)
{
    for (size_t extra = 1; extra < 1000; extra = extra * 3 + 1) {
        Ring ring = {0};
        CHECK(ring_push(&ring, 42));
        CHECK(ring_reserve(&ring, extra));
        size_t capacity = ring_capacity(&ring);
        CHECK(capacity >= extra + 1);
        CHECK((capacity & (capacity - 1)) == 0);
        for (size_t i = 0; i < extra; i++) {
            ring_push_reserved(&ring, i);
        }
        CHECK(ring_capacity(&ring) == capacity);
        CHECK(ring_pop(&ring) == 42);
        for (size_t i = 0; i < extra; i++) {
            CHECK(ring_pop(&ring) == i);
        }
        ring_free(&ring);
    }
}

static void
test_reserve_of_the_impossible(void)
{
    Ring ring = {0};
    CHECK(ring_push(&ring, 1));
    CHECK(ring_push(&ring, 2));
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 2, SIZE_MAX / 8, SIZE_MAX / 16};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_fail_allocations_after(0); /* should it get that far */
        CHECK(!ring_reserve(&ring, sizes[i]));
        check_fail_allocations_after(-1);
        CHECK(ring.count == 2);
        CHECK(ring_at(&ring, 0) == 1);
        CHECK(ring_at(&ring, 1) == 2);
    }
    ring_free(&ring);
}

static void
test_memory_runs_short(void)
{
    Ring ring = {0};
    size_t failures = 0;
    for (uint64_t i = 0; i < 5000; i++) {
        check_fail_allocations_after(0);
        bool pushed = ring_push(&ring, i);
        check_fail_allocations_after(-1);
        if (!pushed) {
            failures++;
            CHECK(ring.count == i);
            CHECK(ring_push(&ring, i));
        }
    }
    CHECK(failures > 0 && failures < 20);
    for (uint64_t i = 0; i < 5000; i++) {
        CHECK(ring_pop(&ring) == i);
    }
    ring_free(&ring);
}

/* Pushes and pops in bursts; the length wanders between empty and thousands. */
static void
test_random(uint64_t seed)
{
    Ring ring = {0};
    uint64_t state = seed, next = 0, oldest = 0;
    for (int step = 0; step < STEPS; step++) {
        uint64_t burst = check_random(&state) % 8;
        if (check_random(&state) % 1000 == 0) {
            burst = check_random(&state) % 3000;
        }
        bool grows = (check_random(&state) % 100) < (step / 2000 % 2 == 0 ? 60 : 40);
        for (uint64_t i = 0; i < burst; i++) {
            if (grows) {
                CHECK(ring_push(&ring, next++));
            }
            else if (ring.count > 0) {
                CHECK(ring_pop(&ring) == oldest++);
            }
        }
        CHECK(ring.count == next - oldest);
        if (ring.count > 0) {
            size_t i = (size_t)(check_random(&state) % ring.count);
            CHECK(ring_at(&ring, i) == oldest + i);
        }
    }
    while (ring.count > 0) {
        CHECK(ring_pop(&ring) == oldest++);
    }
    CHECK(oldest == next);
    ring_free(&ring);
}

int
main(void)
{
    test_empty();
    test_order();
    test_growth_at_every_head();
    test_reserve();
    test_reserve_of_the_impossible();
    test_memory_runs_short();
    for (uint64_t seed = 1; seed <= 4; seed++) {
        test_random(seed);
    }
    return 0;
}
