/* lock.h - the lock of a loop, on free-threaded builds. With a GIL all of this is empty.
 *
 * It stands in for the GIL, one loop at a time: whoever looks at or changes what a loop
 * owns (its ready ring, timers, table of descriptors; its handles, transports, coroutines)
 * holds it. docs/internals/threads.md has the rules. In short:
 *
 * - A method or attribute of such an object is named in its table as LOCKED(function),
 *   for which LOCKED_NOARGS(function), ... makes a wrapper that takes the lock.
 * - Calls into Python by base/call.h, and waits in the kernel, give it up meanwhile:
 *   as with the GIL, anything may have changed afterwards.
 * - A thread that has to wait for it gives up the other loops' locks that it holds until
 *   it has it (as CPython's critical sections do), so that no order of locks deadlocks.
 * - Taking it twice is taking it once.
 * - A forked child's locks are free, but for those of the thread that forked.
 */
#ifndef PYLOOP_BASE_LOCK_H
#define PYLOOP_BASE_LOCK_H

#include "base/compat.h"

#ifdef Py_GIL_DISABLED

#include <uv.h>

typedef struct Lock {
    uv_mutex_t mutex;
    void *owner;         /* an address of the thread that holds it, or NULL; atomic */
    struct Lock *next;   /* in the list of all, which forks look through */
    struct Lock **place; /* where that list points at this one */
} Lock;

/* One time that a thread took a lock: on its stack, linked to the ones before. */
typedef struct LockHold {
    struct LockHold *outer;
    Lock *lock;     /* NULL: this thread had it already */
    bool suspended; /* given up: taken again when the inner ones are gone */
} LockHold;

/* 0, or a libuv status. */
int lock_init(Lock *lock);
void lock_destroy(Lock *lock);

/* May wait, detached. Every enter is paired with an exit, in the reverse order. */
void lock_enter(Lock *lock, LockHold *hold);
void lock_exit(LockHold *hold);

/* Gives up all that this thread holds, and takes back what was innermost. */
LockHold *lock_give_up(void);
void lock_take_back(LockHold *held);

/* While the lock is given up, another thread may drop what an object holds: what is
 * called needs a reference of the caller's own. */
#define LOCK_KEEP(object) Py_INCREF(object)
#define LOCK_DROP(object) Py_DECREF(object)

#define LOCKED(function) function##_locked

#define LOCKED_WRAPPER(function, type, parameters, arguments)                          \
    static type(function##_locked) parameters                                          \
    {                                                                                  \
        LockHold hold;                                                                 \
        FIRST_USE(op);                                                                 \
        lock_enter(LOCK_OF(op), &hold);                                                \
        type result = function arguments;                                              \
        lock_exit(&hold);                                                              \
        return result;                                                                 \
    }

#else

typedef struct {
    char unused;
} Lock;

typedef struct LockHold {
    char unused;
} LockHold;

static inline int
lock_init(Lock *Py_UNUSED(lock))
{
    return 0;
}

static inline void
lock_destroy(Lock *Py_UNUSED(lock))
{
}

static inline void
lock_enter(Lock *Py_UNUSED(lock), LockHold *Py_UNUSED(hold))
{
}

static inline void
lock_exit(LockHold *Py_UNUSED(hold))
{
}

static inline LockHold *
lock_give_up(void)
{
    return NULL;
}

static inline void
lock_take_back(LockHold *Py_UNUSED(held))
{
}

#define LOCK_KEEP(object) ((void)(object))
#define LOCK_DROP(object) ((void)(object))

#define LOCKED(function) function
#define LOCKED_WRAPPER(function, type, parameters, arguments)

#endif

/* Before these, a file defines LOCK_OF(op): where the lock of the object op is. No
 * semicolon follows them. */
#define LOCKED_NOARGS(function)                                                        \
    LOCKED_WRAPPER(function, PyObject *, (PyObject * op, PyObject * ignored),          \
                   (op, ignored))
#define LOCKED_O(function)                                                             \
    LOCKED_WRAPPER(function, PyObject *, (PyObject * op, PyObject * arg), (op, arg))
#define LOCKED_FASTCALL(function)                                                      \
    LOCKED_WRAPPER(function, PyObject *,                                               \
                   (PyObject * op, PyObject *const *args, Py_ssize_t nargs),           \
                   (op, args, nargs))
#define LOCKED_KEYWORDS(function)                                                      \
    LOCKED_WRAPPER(                                                                    \
        function, PyObject *,                                                          \
        (PyObject * op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames),   \
        (op, args, nargs, kwnames))
#define LOCKED_GETTER(function)                                                        \
    LOCKED_WRAPPER(function, PyObject *, (PyObject * op, void *closure), (op, closure))
#define LOCKED_SETTER(function)                                                        \
    LOCKED_WRAPPER(function, int, (PyObject * op, PyObject * value, void *closure),    \
                   (op, value, closure))
#define LOCKED_REPR(function)                                                          \
    LOCKED_WRAPPER(function, PyObject *, (PyObject * op), (op))

/* What threads look at without a lock: a hint, or a number that only counts. */
#define RACY_LOAD(place) __atomic_load_n(&(place), __ATOMIC_RELAXED)
#define RACY_STORE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELAXED)
#ifdef Py_GIL_DISABLED
#define RACY_ADD(place, n) ((void)__atomic_add_fetch(&(place), (n), __ATOMIC_RELAXED))
#else
#define RACY_ADD(place, n) ((void)((place) += (n)))
#endif

/* For ThreadSanitizer (make tsan), which sees neither reference counts nor the allocator,
 * nor how a reference comes to another thread; without it, nothing.
 *
 * - MEMORY_BEGINS when an object is allocated: after the end of what was there before.
 * - MADE when it is filled in, and then FIRST_USE, in LOCKED_WRAPPER.
 * - LAST_USE, first in what clears, finalizes or frees it: after all uses, of which each
 *   had the lock or dropped a reference.
 * - MEMORY_ENDS before it is freed. */
#if defined(Py_GIL_DISABLED) && defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define MEMORY_BEGINS(object) __tsan_acquire(object)
#define MADE(object) __tsan_release(object)
#define FIRST_USE(object) __tsan_acquire(object)
#define LAST_USE(object, lock) (__tsan_acquire(object), __tsan_acquire(&(lock)->mutex))
#define MEMORY_ENDS(object) __tsan_release(object)

static inline void
lock_drop_reference(PyObject *object)
{
    __tsan_release(object);
    Py_DECREF(object);
}

#undef Py_DECREF
#define Py_DECREF(object) lock_drop_reference(_PyObject_CAST(object))
#undef Py_XDECREF
#define Py_XDECREF(object)                                                             \
    do {                                                                               \
        PyObject *dropped_ = _PyObject_CAST(object);                                   \
        if (dropped_ != NULL) {                                                        \
            lock_drop_reference(dropped_);                                             \
        }                                                                              \
    } while (0)
#else
#define MEMORY_BEGINS(object) ((void)(object))
#define MADE(object) ((void)(object))
#define FIRST_USE(object) ((void)(object))
#define LAST_USE(object, lock) ((void)(object))
#define MEMORY_ENDS(object) ((void)(object))
#endif

#endif
