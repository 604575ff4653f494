/* locks.c - where tasks wait for asyncio's Lock, Event and Semaphore.
 *
 * What the end of a wait by an exception does differs from version to version: that is in
 * the helpers.
 */
#include "accel/accel.h"

#include "base/call.h"

#include <limits.h>

enum { LOCKS_SELF }; /* AccelCoro.args */

/* What each class has in its dict, without _loop. */
enum {
    LOCK_ATTRIBUTES = 2,      /* _waiters, _locked */
    EVENT_ATTRIBUTES = 2,     /* _waiters, _value */
    SEMAPHORE_ATTRIBUTES = 2, /* _waiters, _value */
    BOUNDED_ATTRIBUTES = 3,   /* _bound_value, too */
};

typedef struct {
    PyObject *dict;    /* strong: the object's */
    PyObject *loop;    /* strong or NULL: its _loop */
    PyObject *waiters; /* strong: a deque, or None for none yet */
    PyObject *value;   /* strong: _locked or _value */
} Locks;

static void
locks_drop(Locks *locks)
{
    Py_CLEAR(locks->value);
    Py_CLEAR(locks->waiters);
    Py_CLEAR(locks->loop);
    Py_CLEAR(locks->dict);
}

/* 1, 0: it is asyncio's to do, -1. */
static int
locks_look(PyloopState *state, WatchedClass class, Py_ssize_t attributes,
           PyObject *object, PyObject *name, Locks *locks)
{
    Watched *watched = &state->watched[class];
    locks->waiters = locks->value = NULL;
    if (!Py_IS_TYPE(object, watched->type) || !watched_is_unchanged(watched)) {
        return 0;
    }
    locks->dict = accel_dict(state, object, attributes, &locks->loop);
    if (locks->dict != NULL) {
        locks->waiters = accel_item(locks->dict, state->str__waiters);
        locks->value = accel_item(locks->dict, name);
    }
    if (locks->waiters != NULL && locks->value != NULL) {
        return 1;
    }
    locks_drop(locks);
    return PyErr_Occurred() ? -1 : 0;
}

/* Whether a task waits, or did and is still in the deque: 1, 0, -1. */
static int
locks_has_waiters(Locks *locks)
{
    Py_ssize_t size = locks->waiters == Py_None ? 0 : PyObject_Size(locks->waiters);
    return size < 0 ? -1 : size > 0;
}

static CoroStatus
locks_wait(AccelCoro *self, Locks *locks, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *object = self->args[LOCKS_SELF];
    if (locks->waiters == Py_None) {
        PyObject *deque = PyObject_CallNoArgs(state->Deque);
        if (deque == NULL) {
            return CORO_ERROR;
        }
        Py_SETREF(locks->waiters, deque);
        if (PyObject_SetAttr(object, state->str__waiters, deque) < 0) {
            return CORO_ERROR;
        }
    }
    return accel_wait_in(self, object, locks->loop, locks->waiters, result);
}

/* self._waiters.remove(<the future>) */
static int
locks_leave(AccelCoro *self)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *waiters = PyObject_GetAttr(self->args[LOCKS_SELF], state->str__waiters);
    PyObject *removed = waiters != NULL ? call_method1(waiters, state->str_remove,
                                                       self->held[ACCEL_WAITER])
                                        : NULL;
    Py_XDECREF(waiters);
    Py_XDECREF(removed);
    return removed != NULL ? 0 : -1;
}

static CoroStatus
locks_caught(AccelCoro *self, PyObject **Py_UNUSED(result))
{
    return accel_interrupted(self);
}

static CoroStatus
locks_true(PyObject **result)
{
    *result = Py_NewRef(Py_True);
    return CORO_RETURN;
}

/* ---- Lock ---------------------------------------------------------------------- */

static CoroStatus
lock_take(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    return PyObject_SetAttr(self->args[LOCKS_SELF], state->str__locked, Py_True) < 0
               ? CORO_ERROR
               : locks_true(result);
}

static CoroStatus
lock_start(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    Locks locks;
    int known = locks_look(state, WATCHED_LOCK, LOCK_ATTRIBUTES, self->args[LOCKS_SELF],
                           state->str__locked, &locks);
    if (known <= 0) {
        return known < 0 ? CORO_ERROR : accel_delegate(self);
    }
    CoroStatus status;
    int waiters;
    if (locks.value == Py_True) {
        status = locks_wait(self, &locks, result);
    }
    else if (locks.value != Py_False || (waiters = locks_has_waiters(&locks)) > 0) {
        status = accel_delegate(self);
    }
    else {
        status = waiters < 0 ? CORO_ERROR : lock_take(self, result);
    }
    locks_drop(&locks);
    return status;
}

static CoroStatus
lock_go_on(AccelCoro *self, PyObject *Py_UNUSED(value), PyObject **result)
{
    return locks_leave(self) < 0 ? CORO_ERROR : lock_take(self, result);
}

static const AccelBody lock_body = {ACCEL_CORO("Lock.acquire"), lock_start, lock_go_on,
                                    locks_caught};

/* ---- Event --------------------------------------------------------------------- */

static CoroStatus
event_start(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    Locks locks;
    int known = locks_look(state, WATCHED_EVENT, EVENT_ATTRIBUTES,
                           self->args[LOCKS_SELF], state->str__value, &locks);
    if (known <= 0) {
        return known < 0 ? CORO_ERROR : accel_delegate(self);
    }
    CoroStatus status;
    if (locks.value == Py_True) {
        status = locks_true(result);
    }
    else if (locks.value == Py_False && locks.waiters != Py_None) {
        status = locks_wait(self, &locks, result);
    }
    else {
        status = accel_delegate(self);
    }
    locks_drop(&locks);
    return status;
}

static CoroStatus
event_go_on(AccelCoro *self, PyObject *Py_UNUSED(value), PyObject **result)
{
    return locks_leave(self) < 0 ? CORO_ERROR : locks_true(result);
}

static const AccelBody event_body = {ACCEL_CORO("Event.wait"), event_start, event_go_on,
                                     locks_caught};

/* ---- Semaphore ----------------------------------------------------------------- */

static int
semaphore_look(PyloopState *state, PyObject *object, Locks *locks)
{
    int known = locks_look(state, WATCHED_SEMAPHORE, SEMAPHORE_ATTRIBUTES, object,
                           state->str__value, locks);
    return known != 0 ? known
                      : locks_look(state, WATCHED_BOUNDED_SEMAPHORE, BOUNDED_ATTRIBUTES,
                                   object, state->str__value, locks);
}

/* How many may still enter; -1 for what only asyncio understands. */
static long
semaphore_value(Locks *locks)
{
    int overflow = 1;
    long value = PyLong_CheckExact(locks->value)
                     ? PyLong_AsLongAndOverflow(locks->value, &overflow)
                     : -1;
    return overflow == 0 ? value : -1;
}

/* object._value = value. 0, or -1. */
static int
semaphore_set_value(PyloopState *state, PyObject *object, long value)
{
    PyObject *number = PyLong_FromLong(value);
    int rc = number != NULL ? PyObject_SetAttr(object, state->str__value, number) : -1;
    Py_XDECREF(number);
    return rc;
}

static CoroStatus
semaphore_start(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    Locks locks;
    int known = semaphore_look(state, self->args[LOCKS_SELF], &locks);
    if (known <= 0) {
        return known < 0 ? CORO_ERROR : accel_delegate(self);
    }
    CoroStatus status;
    long value = semaphore_value(&locks);
    int waiters = value > 0 ? locks_has_waiters(&locks) : 0;
    if (waiters < 0) {
        status = CORO_ERROR;
    }
    else if (value < 0 || waiters > 0) {
        status = accel_delegate(self);
    }
    else if (value > 0) {
        status = semaphore_set_value(state, self->args[LOCKS_SELF], value - 1) < 0
                     ? CORO_ERROR
                     : locks_true(result);
    }
    else {
        status = locks_wait(self, &locks, result);
    }
    locks_drop(&locks);
    return status;
}

/* Those that came while others were first may go on too, as many as there is room for. */
static int
semaphore_wake_more(PyloopState *state, PyObject *object)
{
    for (;;) {
        PyObject *value = PyObject_GetAttr(object, state->str__value);
        PyObject *zero = value != NULL ? PyLong_FromLong(0) : NULL;
        int more = zero != NULL ? PyObject_RichCompareBool(value, zero, Py_GT) : -1;
        Py_XDECREF(zero);
        Py_XDECREF(value);
        if (more <= 0) {
            return more;
        }
        /* Before 3.12.3 it returns None, and one is woken. */
        PyObject *woken = call_method0(object, state->str__wake_up_next);
        int go_on = woken != NULL ? PyObject_IsTrue(woken) : -1;
        Py_XDECREF(woken);
        if (go_on <= 0) {
            return go_on;
        }
    }
}

static CoroStatus
semaphore_go_on(AccelCoro *self, PyObject *Py_UNUSED(value), PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    return locks_leave(self) < 0 ||
                   semaphore_wake_more(state, self->args[LOCKS_SELF]) < 0
               ? CORO_ERROR
               : locks_true(result);
}

static const AccelBody semaphore_body = {
    ACCEL_CORO("Semaphore.acquire"), semaphore_start, semaphore_go_on, locks_caught};

/* ---- async with ---------------------------------------------------------------- */

/* Whether acquire() is that of this file: a lock's class may have had another since. */
static bool
locks_acquires_here(PyloopState *state, PyObject *object, const AccelKind *kind)
{
    PyObject *found = PyObject_GetAttr((PyObject *)Py_TYPE(object), state->str_acquire);
    bool here = found != NULL && Py_IS_TYPE(found, state->AccelFunctionType) &&
                ((AccelFunction *)found)->kind == kind;
    if (found == NULL) {
        PyErr_Clear(); /* a Condition has its lock's, in the instance */
    }
    Py_XDECREF(found);
    return here;
}

/* Whether a Lock that nobody waits for, and is `before`, is `after` now: 1, 0, -1. */
static int
lock_set(PyloopState *state, PyObject *object, PyObject *before, PyObject *after)
{
    Locks locks;
    int known = locks_look(state, WATCHED_LOCK, LOCK_ATTRIBUTES, object,
                           state->str__locked, &locks);
    if (known <= 0) {
        return known;
    }
    int waiters = locks.value == before ? locks_has_waiters(&locks) : 1;
    locks_drop(&locks);
    if (waiters != 0) {
        return waiters < 0 ? -1 : 0;
    }
    return PyObject_SetAttr(object, state->str__locked, after) < 0 ? -1 : 1;
}

/* Whether a Semaphore that nobody waits for, and that has `least`, has `more` now. */
static int
semaphore_add(PyloopState *state, PyObject *object, long least, long more)
{
    Locks locks;
    int known = semaphore_look(state, object, &locks);
    if (known <= 0) {
        return known;
    }
    long value = semaphore_value(&locks);
    int waiters = value >= least && value < LONG_MAX ? locks_has_waiters(&locks) : 1;
    locks_drop(&locks);
    if (waiters != 0) {
        return waiters < 0 ? -1 : 0;
    }
    return semaphore_set_value(state, object, value + more) < 0 ? -1 : 1;
}

/* acquire() of what need not be waited for, without a coroutine of its own. 1, 0: that is
 * something else, -1. */
static int
enter_at_once(PyloopState *state, PyObject *object)
{
    if (Py_IS_TYPE(object, state->watched[WATCHED_LOCK].type)) {
        return locks_acquires_here(state, object, &accel_lock_acquire)
                   ? lock_set(state, object, Py_False, Py_True)
                   : 0;
    }
    return locks_acquires_here(state, object, &accel_semaphore_acquire)
               ? semaphore_add(state, object, 1, -1)
               : 0;
}

/* release() where nobody is to be woken: the same. */
static int
exit_at_once(PyloopState *state, PyObject *object)
{
    if (Py_IS_TYPE(object, state->watched[WATCHED_LOCK].type)) {
        return lock_set(state, object, Py_True, Py_False);
    }
    return Py_IS_TYPE(object, state->watched[WATCHED_SEMAPHORE].type)
               ? semaphore_add(state, object, 0, 1)
               : 0;
}

/* await self.acquire() */
static CoroStatus
enter_start(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    int entered = enter_at_once(state, self->args[LOCKS_SELF]);
    if (entered < 0) {
        return CORO_ERROR;
    }
    if (entered > 0) {
        *result = Py_NewRef(Py_None);
        return CORO_RETURN;
    }
    PyObject *acquiring = call_method0(self->args[LOCKS_SELF], state->str_acquire);
    if (acquiring == NULL) {
        return CORO_ERROR;
    }
    CoroStatus status = coro_await(&self->coro, acquiring);
    Py_DECREF(acquiring);
    return status;
}

static CoroStatus
enter_go_on(AccelCoro *Py_UNUSED(self), PyObject *Py_UNUSED(value), PyObject **result)
{
    *result = Py_NewRef(Py_None);
    return CORO_RETURN;
}

static CoroStatus
enter_caught(AccelCoro *Py_UNUSED(self), PyObject **Py_UNUSED(result))
{
    return CORO_ERROR;
}

static const AccelBody enter_body = {ACCEL_CORO("_ContextManagerMixin.__aenter__"),
                                     enter_start, enter_go_on, enter_caught};

/* self.release() */
static CoroStatus
exit_start(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *object = self->args[LOCKS_SELF];
    int done = exit_at_once(state, object);
    if (done == 0) {
        PyObject *released = call_method0(object, state->str_release);
        done = released != NULL ? 1 : -1;
        Py_XDECREF(released);
    }
    if (done < 0) {
        return CORO_ERROR;
    }
    *result = Py_NewRef(Py_None);
    return CORO_RETURN;
}

static const AccelBody exit_body = {ACCEL_CORO("_ContextManagerMixin.__aexit__"),
                                    exit_start, enter_go_on, enter_caught};

/* ---- the functions --------------------------------------------------------------- */

static PyObject *
locks_call(AccelFunction *self, const AccelBody *body, PyObject *const *args,
           Py_ssize_t nargs, PyObject *kwnames, Py_ssize_t wanted)
{
    if (kwnames != NULL || nargs != wanted) {
        return NULL;
    }
    return accel_coro_new(self, body, args, nargs);
}

static PyObject *
lock_acquire(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    return locks_call(self, &lock_body, args, nargs, kwnames, 1);
}

static PyObject *
event_wait(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames)
{
    return locks_call(self, &event_body, args, nargs, kwnames, 1);
}

static PyObject *
semaphore_acquire(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    return locks_call(self, &semaphore_body, args, nargs, kwnames, 1);
}

static PyObject *
locks_enter(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    return locks_call(self, &enter_body, args, nargs, kwnames, 1);
}

static PyObject *
locks_exit(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames)
{
    return locks_call(self, &exit_body, args, nargs, kwnames, 4);
}

const AccelKind accel_lock_acquire = {"Lock.acquire", lock_acquire, NULL};
const AccelKind accel_event_wait = {"Event.wait", event_wait, NULL};
const AccelKind accel_semaphore_acquire = {"Semaphore.acquire", semaphore_acquire,
                                           NULL};
const AccelKind accel_locks_enter = {"_ContextManagerMixin.__aenter__", locks_enter,
                                     NULL};
const AccelKind accel_locks_exit = {"_ContextManagerMixin.__aexit__", locks_exit, NULL};
