/* sleep.c - asyncio.sleep(). */
#include "accel/accel.h"

#include "base/call.h"

#include <math.h>

enum { SLEEP_DELAY, SLEEP_RESULT };      /* AccelCoro.args */
enum { SLEEP_TIMER = ACCEL_WAITER + 1 }; /* AccelCoro.held */

/* The timer's callback, called as (future, result): what asyncio's
 * futures._set_result_unless_cancelled does. */
static PyObject *
sleep_over(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    PyloopState *state = state_of_module(module);
    assert(nargs == 2);
    (void)nargs;
    PyObject *done =
        accel_call1((PyTypeObject *)state->FutureClass, state->future_set_result,
                    args[0], state->str_set_result, args[1]);
    if (done != NULL) {
        return done;
    }
    /* Looked at afterwards, for it is seldom. */
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *cancelled = call_method0(args[0], state->str_cancelled);
    if (cancelled == Py_True) {
        Py_DECREF(exc);
        Py_DECREF(cancelled);
        Py_RETURN_NONE;
    }
    if (cancelled != NULL) {
        Py_DECREF(cancelled);
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    Py_DECREF(exc);
    return NULL;
}

static PyMethodDef sleep_callback = {
    "_set_result_unless_cancelled",
    (PyCFunction)(void (*)(void))sleep_over,
    METH_FASTCALL,
    NULL,
};

/* future = loop.create_future(); loop.call_later(delay, callback, future, result) */
static CoroStatus
sleep_start_timer(AccelCoro *self, PyObject **result)
{
    LoopObject *loop = self->coro.loop;
    PyObject *future = accel_create_future(self);
    if (future == NULL) {
        return CORO_ERROR;
    }
    self->held[ACCEL_WAITER] = future;
    PyObject *args[] = {(PyObject *)loop, self->args[SLEEP_DELAY],
                        self->function->callback, future, self->args[SLEEP_RESULT]};
    if (args[4] == NULL) {
        args[4] = Py_None;
    }
    self->held[SLEEP_TIMER] =
        loop_overrides(loop) & OVERRIDE_CALL_LATER
            ? call_method(loop->state->str_call_later, args, Py_ARRAY_LENGTH(args))
            : timers_call_later((PyObject *)loop, args + 1, Py_ARRAY_LENGTH(args) - 1,
                                NULL);
    if (self->held[SLEEP_TIMER] == NULL) {
        return CORO_ERROR;
    }
    return accel_await_future(self, result);
}

double
accel_seconds(PyObject *number)
{
    if (PyFloat_CheckExact(number)) {
        return PyFloat_AS_DOUBLE(number);
    }
    if (!PyLong_CheckExact(number)) {
        return NAN;
    }
    int overflow;
    double seconds = (double)PyLong_AsLongAndOverflow(number, &overflow);
    return overflow == 0 ? seconds : NAN;
}

static CoroStatus
sleep_start(AccelCoro *self, PyObject **result)
{
    double seconds = accel_seconds(self->args[SLEEP_DELAY]);
    if (isnan(seconds)) {
        return accel_delegate(self); /* asyncio compares it, and says what is wrong */
    }
    if (seconds > 0) {
        return sleep_start_timer(self, result);
    }
    *result = Py_NewRef(Py_None);
    return CORO_YIELD;
}

/* Whether a timer has run and is known to nobody else: then cancel() has no effect. */
static bool
sleep_is_spent(PyObject *timer, LoopObject *loop)
{
    return Py_IS_TYPE(timer, loop->state->TimerHandleType) && Py_REFCNT(timer) == 1;
}

static CoroStatus
sleep_go_on(AccelCoro *self, PyObject *value, PyObject **result)
{
    if (value == NULL) { /* of sleep(0) */
        value = self->args[SLEEP_RESULT] != NULL ? self->args[SLEEP_RESULT] : Py_None;
    }
    else if (!sleep_is_spent(self->held[SLEEP_TIMER], self->coro.loop) &&
             accel_finally(self->held[SLEEP_TIMER],
                           self->coro.loop->state->str_cancel) < 0) {
        return CORO_ERROR;
    }
    *result = Py_NewRef(value);
    return CORO_RETURN;
}

static CoroStatus
sleep_caught(AccelCoro *self, PyObject **Py_UNUSED(result))
{
    if (self->held[SLEEP_TIMER] != NULL) {
        (void)accel_finally(self->held[SLEEP_TIMER],
                            self->coro.loop->state->str_cancel);
    }
    return CORO_ERROR;
}

static const AccelBody sleep_body = {ACCEL_CORO("sleep"), sleep_start, sleep_go_on,
                                     sleep_caught};

static PyObject *
sleep_call(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames)
{
    if (kwnames != NULL || nargs < 1 || nargs > 2) {
        return NULL;
    }
    return accel_coro_new(self, &sleep_body, args, nargs);
}

const AccelKind accel_sleep = {"sleep", sleep_call, &sleep_callback};
