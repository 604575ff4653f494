/* handle.h - Handle and TimerHandle: real subclasses of asyncio's.
 *
 * asyncio's own slots are inherited but unused (our getsets of the same names come
 * first); they are visited and cleared because asyncio.Handle._callback.__set__ reaches
 * them.
 */
#ifndef PYLOOP_LOOP_HANDLE_H
#define PYLOOP_LOOP_HANDLE_H

#include "base/compat.h"

#include "loop/loop.h"

enum {
    /* asyncio.TimerHandle's nine slots and, before 3.12, its weak references. */
    HANDLE_INHERITED = 10,
    HANDLE_INLINE_ARGS = 3,
};

struct HandleObject {
    PyObject_HEAD
    PyObject *inherited[HANDLE_INHERITED];
    LoopObject *loop;    /* strong; of a spare: the next spare */
    PyObject *context;   /* strong */
    PyObject *callback;  /* strong, NULL after cancel() */
    PyObject *traceback; /* source_traceback, strong, NULL without debug mode */
    PyObject *repr;      /* strong, NULL unless cancelled in debug mode */
    bool cancelled;
    bool args_in_tuple; /* argv[1] is a tuple of more than HANDLE_INLINE_ARGS */
    uint8_t nargs;      /* inline arguments in argv[1..] */
    uint8_t running;    /* depth of handle_run: cancel() then leaves the arguments */
    PyObject *argv[1 + HANDLE_INLINE_ARGS]; /* [0] is vectorcall's scratch */
};

typedef struct {
    HandleObject base;
    PyObject *when; /* strong: the object that the user gave, or a float */
    HeapNode node;
    bool scheduled;
} TimerHandleObject;

/* container_of for the heap's nodes. */
static inline TimerHandleObject *
timerhandle_from_node(HeapNode *node)
{
    return (TimerHandleObject *)((char *)node - offsetof(TimerHandleObject, node));
}

PyTypeObject *handle_type_create(PyObject *module);
/* The type of call_soon_threadsafe()'s handles: until 3.13 Handle itself. */
PyTypeObject *threadsafehandle_type_create(PyObject *module);
PyTypeObject *timerhandle_type_create(PyObject *module);

/* A handle that is queued nowhere. context NULL: a copy of the current one. */
HandleObject *handle_new(LoopObject *loop, PyObject *callback, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *context);
/* The same for call_soon_threadsafe(). */
HandleObject *handle_new_threadsafe(LoopObject *loop, PyObject *callback,
                                    PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *context);
TimerHandleObject *timerhandle_new(LoopObject *loop, PyObject *when, double deadline,
                                   PyObject *callback, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *context);

/* Calls the callback in its context; what it raises goes to the exception handler.
 * 0, or -1 with SystemExit, KeyboardInterrupt or what the handler let through. */
int handle_run(HandleObject *self);

void handle_cancel(HandleObject *self);

/* For the types (handle_type.c). */
void handle_drop_call(HandleObject *self); /* the callback and its arguments */
int handle_traverse(PyObject *op, visitproc visit, void *arg);
int handle_clear(PyObject *op);
void handle_dealloc(PyObject *op);
int timerhandle_traverse(PyObject *op, visitproc visit, void *arg);
int timerhandle_clear(PyObject *op);
void timerhandle_dealloc(PyObject *op);

/* Frees the loop's spares. */
void handle_free_spares(LoopObject *loop);

/* Puts handle (stealing it) at the end of the ready queue. 0, or -1 with MemoryError. */
int loop_ready_push_steal(LoopObject *loop, HandleObject *handle);

/* call_soon for C code: through the overridden method where there is one. The handle is
 * not returned. 0, or -1. */
int loop_call_soon(LoopObject *loop, PyObject *callback, PyObject *const *args,
                   Py_ssize_t nargs, PyObject *context);
PyObject *handle_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);

static inline bool
handle_check(PyloopState *state, PyObject *object)
{
    return Py_IS_TYPE(object, state->HandleType) ||
           Py_IS_TYPE(object, state->ThreadSafeHandleType) ||
           Py_IS_TYPE(object, state->TimerHandleType);
}

/* The caller's Python stack, as asyncio.Handle records it in debug mode. New reference. */
PyObject *handle_extract_stack(LoopObject *loop);

#endif
