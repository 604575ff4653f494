/* check.h - what the plain C tests share: a failing check ends the program.
 *
 * The programs are built with malloc, calloc and realloc wrapped by the linker, so that
 * check_fail_allocations_after() can make memory short at any point.
 */
#ifndef PYLOOP_TESTS_CHECK_H
#define PYLOOP_TESTS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static inline void
check_at(bool holds, const char *text, const char *file, int line)
{
    if (!holds) {
        fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, text);
        exit(1);
    }
}

#define CHECK(condition) check_at((condition), #condition, __FILE__, __LINE__)

/* xorshift64*: the same numbers everywhere, from a seed that is not 0. */
static inline uint64_t
check_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

/* Allocations still allowed; negative: any number. */
static long check_allocations_left = -1;

static inline void
check_fail_allocations_after(long count)
{
    check_allocations_left = count;
}

static inline bool
check_may_allocate(void)
{
    if (check_allocations_left < 0) {
        return true;
    }
    if (check_allocations_left == 0) {
        return false;
    }
    check_allocations_left--;
    return true;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

void *
__wrap_malloc(size_t size)
{
    return check_may_allocate() ? __real_malloc(size) : NULL;
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return check_may_allocate() ? __real_calloc(count, size) : NULL;
}

void *
__wrap_realloc(void *old, size_t size)
{
    return check_may_allocate() ? __real_realloc(old, size) : NULL;
}

#endif
