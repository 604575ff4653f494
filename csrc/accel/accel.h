/* accel.h - C code in the place of asyncio's functions: pyloop.install(accelerate=True).
 *
 * An AccelFunction is put where asyncio's function was, in a module or in a class, and
 * keeps it. It answers by itself what it knows to answer the same; all the rest goes to
 * asyncio's own function: calls with other arguments, without a running loop of pyloop, in
 * debug mode; and, step by step, what a coroutine meets only seldom.
 *
 *   call of AccelFunction --+--> asyncio's function
 *                           +--> AccelCoro --first step--+--> asyncio's coroutine
 *                                                        +--> the body's own steps
 *
 * The state of queues, locks, ... stays in the attributes of asyncio's objects, so that
 * both ways can be taken in turn with one object, and subclasses see what they know.
 */
#ifndef PYLOOP_ACCEL_ACCEL_H
#define PYLOOP_ACCEL_ACCEL_H

#include "base/compat.h"

#include "base/call.h"
#include "base/state.h"
#include "loop/coro.h"

typedef struct AccelFunction AccelFunction;
typedef struct AccelCoro AccelCoro;

/* What stands in for one function. */
typedef struct {
    const char *name; /* asyncio's, as `accelerated` takes it: "sleep", "Queue.get" */
    /* NULL without an exception: asyncio's function is to be called. */
    PyObject *(*call)(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames);
    /* NULL, or a function for the loop to call back, bound to the module. */
    PyMethodDef *callback;
} AccelKind;

struct AccelFunction {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *module;   /* strong; visited; dropped only in dealloc (it owns *state) */
    PyloopState *state; /* borrowed from module */
    PyObject *weakrefs;
    const AccelKind *kind;
    PyObject *original; /* strong: asyncio's function */
    PyObject *helper;   /* strong: of pyloop._accelerate, for what is seldom; or None */
    PyObject *callback; /* strong: the kind's, or NULL */
};

/* ACCEL_WAITER: a future that the body waits for, if it does. */
enum { ACCEL_ARGS = 4, ACCEL_HELD = 3, ACCEL_WAITER = 0 };

/* The body of an AccelCoro. */
typedef struct {
    CoroKind coro; /* first: a CoroKind of an AccelCoro is an AccelBody */
    /* The first step, on a running loop that is coro.loop. */
    CoroStatus (*start)(AccelCoro *self, PyObject **result);
    /* The later ones. value is what was awaited; NULL after CORO_YIELD. */
    CoroStatus (*go_on)(AccelCoro *self, PyObject *value, PyObject **result);
    /* See CoroKind.caught. */
    CoroStatus (*caught)(AccelCoro *self, PyObject **result);
} AccelBody;

struct AccelCoro {
    CoroObject coro;
    AccelFunction *function;    /* strong or NULL: it is over */
    PyObject *args[ACCEL_ARGS]; /* strong or NULL */
    PyObject *held[ACCEL_HELD]; /* strong or NULL; the body says what they are */
    bool started;
    bool starts;    /* the first step: it has been asked whether the loop runs */
    bool delegated; /* asyncio's coroutine does it all */
    bool waits;     /* for held[ACCEL_WAITER], which it yielded itself */
    bool waited;    /* it did, and the result was nothing */
    uint8_t step;   /* the body's */
};

/* function.c */
PyTypeObject *accelfunction_type_create(PyObject *module);
/* accelerated(name, original, helper): the module's function. */
PyObject *accel_function(PyObject *module, PyObject *args);

/* coros.c */
PyTypeObject *accelcoro_type_create(PyObject *module);
/* The running loop, if it is one of pyloop's that is not in debug mode: borrowed from
 * whoever runs it. NULL without an exception: it is not; NULL with one. */
LoopObject *accel_running_loop(PyloopState *state);
/* Whether that is `loop`: 1, 0, -1. */
int accel_runs(LoopObject *loop);
/* asyncio.current_task(loop): None, or the task. */
PyObject *accel_current_task(LoopObject *loop);
/* loop.create_future(), for a body. */
PyObject *accel_create_future(AccelCoro *self);
/* A coroutine; NULL without an exception: asyncio's is to be made. */
PyObject *accel_coro_new(AccelFunction *function, const AccelBody *body,
                         PyObject *const *args, Py_ssize_t nargs);
/* For start(): asyncio's coroutine goes on from here. */
CoroStatus accel_delegate(AccelCoro *self);
/* For a body, when it has put a future into held[ACCEL_WAITER]: `await` of that. */
CoroStatus accel_await_future(AccelCoro *self, PyObject **result);
/* CoroKind's functions of every AccelBody. */
CoroStatus accel_resume(CoroObject *self, PyObject *value, PyObject **result);
CoroStatus accel_caught(CoroObject *self, PyObject **result);
void accel_release(CoroObject *self);
int accel_traverse(CoroObject *self, visitproc visit, void *arg);

#define ACCEL_CORO(qualname)                                                           \
    {qualname, accel_resume, NULL, accel_release, accel_traverse, accel_caught}

/* Calls object.name() for its effect, as a `finally` clause does: an exception that is
 * set stays, unless the call raises one. 0, or -1 with that one. */
int accel_finally(PyObject *object, PyObject *name);

/* attributes.c */
/* The instance dict of an object of asyncio's own class, if it has `count` names and,
 * where loop is not NULL, _loop: all methods are the class's then, none replaced in the
 * instance. *loop gets a new reference to that, or NULL. NULL: it is not so, or an
 * exception is set. */
PyObject *accel_dict(PyloopState *state, PyObject *object, Py_ssize_t count,
                     PyObject **loop);

/* A new reference to what a dict has; NULL without an exception: nothing. */
static inline PyObject *
accel_item(PyObject *dict, PyObject *name)
{
#ifdef Py_GIL_DISABLED
    PyObject *value;
    (void)PyDict_GetItemRef(dict, name, &value);
    return value;
#else
    return Py_XNewRef(PyDict_GetItemWithError(dict, name));
#endif
}

/* Whether a method that was found in a class is C code, called with these flags. */
static inline bool
accel_is_c(PyObject *function, int flags)
{
    return Py_IS_TYPE(function, &PyMethodDescr_Type) &&
           ((PyMethodDescrObject *)function)->d_method->ml_flags == flags;
}

/* Calls the C function of a method of the object's exact type; argument may be NULL. */
static inline PyObject *
accel_call_c(PyObject *function, PyObject *object, PyObject *argument)
{
    PyCFunction method = ((PyMethodDescrObject *)function)->d_method->ml_meth;
    LOCK_KEEP(object);
    LockHold *held = lock_give_up();
    PyObject *result = method(object, argument);
    lock_take_back(held);
    LOCK_DROP(object);
    return result;
}

/* What is called often, without a look for the method in a type that cannot change:
 * `function` is what `type` has of that name. */
static inline PyObject *
accel_call0(PyTypeObject *type, PyObject *function, PyObject *object, PyObject *name)
{
    PyObject *args[] = {NULL, object};
    if (!Py_IS_TYPE(object, type)) {
        return call_method(name, args + 1, 1);
    }
    return accel_is_c(function, METH_NOARGS) ? accel_call_c(function, object, NULL)
                                             : call_vector(function, args + 1, 1);
}

static inline PyObject *
accel_call1(PyTypeObject *type, PyObject *function, PyObject *object, PyObject *name,
            PyObject *argument)
{
    PyObject *args[] = {NULL, object, argument};
    if (!Py_IS_TYPE(object, type)) {
        return call_method(name, args + 1, 2);
    }
    return accel_is_c(function, METH_O) ? accel_call_c(function, object, argument)
                                        : call_vector(function, args + 1, 2);
}

/* Sets an attribute that C code keeps; `attribute` is what the object's exact type has of
 * that name. 0, or -1. */
static inline int
accel_set(PyObject *attribute, PyObject *object, PyObject *name, PyObject *value)
{
    if (!Py_IS_TYPE(attribute, &PyGetSetDescr_Type)) {
        return PyObject_SetAttr(object, name, value);
    }
    PyGetSetDef *found = ((PyGetSetDescrObject *)attribute)->d_getset;
    return found->set(object, value, found->closure);
}

static inline PyObject *
accel_append(PyloopState *state, PyObject *deque, PyObject *item)
{
    return accel_call1((PyTypeObject *)state->Deque, state->deque_append, deque,
                       state->str_append, item);
}

static inline PyObject *
accel_popleft(PyloopState *state, PyObject *deque)
{
    return accel_call0((PyTypeObject *)state->Deque, state->deque_popleft, deque,
                       state->str_popleft);
}

/* accel_item() of a name that is likely to be the one that was put there after `place`
 * others: half the cost of looking for it, if it is. */
static inline PyObject *
accel_item_at(PyObject *dict, Py_ssize_t place, PyObject *name)
{
#ifndef Py_GIL_DISABLED
    PyObject *found, *value;
    if (PyDict_Next(dict, &place, &found, &value) && found == name) {
        return Py_NewRef(value);
    }
#else
    (void)place;
#endif
    return accel_item(dict, name);
}

/* Makes a future, appends it to an object's waiters and waits for it. bound_to is the
 * object's _loop, or NULL. */
CoroStatus accel_wait_in(AccelCoro *self, PyObject *object, PyObject *bound_to,
                         PyObject *waiters, PyObject **result);
/* What an exception does to who waits: helper(args[0], waiter, exception). CORO_ERROR. */
CoroStatus accel_interrupted(AccelCoro *self);
/* Takes waiters out until one of them waits, which is woken. 0, or -1. */
int accel_wake_next(PyloopState *state, PyObject *waiters);

/* sleep.c */
/* The seconds of an ordinary number; NAN: asyncio knows what to do with it. */
double accel_seconds(PyObject *number);
extern const AccelKind accel_sleep;
/* waits.c */
extern const AccelKind accel_wait_for;
/* timeouts.c */
extern const AccelKind accel_timeout;
extern const AccelKind accel_timeout_at;
extern const AccelKind accel_timeout_enter;
extern const AccelKind accel_timeout_exit;
/* What those take as their helper: 0, or -1 with TypeError. */
int accel_timeout_takes(PyObject *helper);
/* gather.c */
PyTypeObject *accelgather_type_create(PyObject *module);
extern const AccelKind accel_gather;
/* queue.c */
extern const AccelKind accel_queue_get;
extern const AccelKind accel_queue_put;
/* locks.c */
extern const AccelKind accel_lock_acquire;
extern const AccelKind accel_event_wait;
extern const AccelKind accel_semaphore_acquire;
extern const AccelKind accel_locks_enter;
extern const AccelKind accel_locks_exit;

#endif
