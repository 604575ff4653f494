/* coro.h - coroutines written in C: what `await loop.sock_recv(...)` awaits.
 *
 * A CoroObject is to its users what calling an `async def` gives: lazy until awaited,
 * send(), throw(), close(), __await__(), a warning when nobody awaited it. Its body is a
 * C function, resume(), that runs until it has a result or must wait for something, as a
 * step of a state machine. A kind of coroutine embeds CoroObject as its first field.
 *
 *   CORO_NEW       -> CORO_RUNNING    [coro_run]             the first send()
 *   CORO_NEW       -> CORO_DONE       [coro_throw, coro_close]  never ran, no warning
 *   CORO_RUNNING   -> CORO_SUSPENDED  [coro_run, coro_throw] delegate yielded
 *   CORO_SUSPENDED -> CORO_RUNNING    [coro_run, coro_throw, coro_close]
 *   CORO_RUNNING   -> CORO_DONE       [coro_finish]          returned or raised
 *   Trusted: delegate != NULL => SUSPENDED outside of a run, and the reverse but for a
 *   body that yielded by itself; DONE: release() was called.
 */
#ifndef PYLOOP_LOOP_CORO_H
#define PYLOOP_LOOP_CORO_H

#include "base/compat.h"

#include "loop/loop.h"

typedef enum { CORO_NEW, CORO_RUNNING, CORO_SUSPENDED, CORO_DONE } CoroPhase;

/* What a step of a body came to: an exception is set; coro_await() was called, go on when
 * that has returned; *result is the coroutine's result; *result is for who runs the
 * coroutine, as a bare `yield`. */
typedef enum { CORO_ERROR, CORO_WAIT, CORO_RETURN, CORO_YIELD } CoroStatus;

typedef struct {
    const char *qualname; /* "Loop.sock_recv"; __name__ is what follows the dot */
    /* value is NULL in the first step and after CORO_YIELD, else what the awaited object
     * returned (borrowed). What it raises ends the coroutine, without caught(). */
    CoroStatus (*resume)(CoroObject *self, PyObject *value, PyObject **result);
    /* NULL, or what an except clause around the body does with the raised exception that
     * ends it, which may not have begun. Leaves one raised; runs no Python. */
    void (*failed)(CoroObject *self);
    /* Gives up what the body holds, watches included. Called once, by whatever ended the
     * coroutine; may run Python, must tolerate being called by the collector. */
    void (*release)(CoroObject *self);
    int (*traverse)(CoroObject *self, visitproc visit, void *arg);
    /* NULL, or what a body does with an exception raised where it waits: its `except` or
     * `finally`. Called with the exception set; GeneratorExit is one, from close() or
     * from the end of the object's life. */
    CoroStatus (*caught)(CoroObject *self, PyObject **result);
} CoroKind;

struct CoroObject {
    PyObject_HEAD
    PyObject *weakrefs;
    const CoroKind *kind;
    /* strong; dropped in dealloc only, which needs loop->state. No cycle is kept alive by
     * it: clearing a loop drops everything that a loop holds. */
    LoopObject *loop;
    PyObject *delegate; /* strong or NULL: what is sent or thrown goes to it */
    CoroPhase phase;
};

/* A type whose objects are `size` bytes and begin with CoroObject. name is not copied. */
PyTypeObject *coro_type_create(PyObject *module, const char *name, size_t size,
                               const char *doc);

/* A coroutine that has not run; fields after CoroObject's are zero. */
CoroObject *coro_new(PyTypeObject *type, const CoroKind *kind, LoopObject *loop);

/* For resume(): wait for awaitable, as `await` does. CORO_WAIT, or CORO_ERROR. */
CoroStatus coro_await(CoroObject *self, PyObject *awaitable);

#endif
