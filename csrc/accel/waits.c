/* waits.c - asyncio.wait_for(), from Python 3.12 on.
 *
 * The way asyncio goes is `async with timeouts.timeout(timeout): return await fut`. Here
 * the coroutine is its own time-out. What its expiry makes of an exception differs from
 * version to version and is left to asyncio's Timeout (the helper).
 */
#include "accel/accel.h"

#include "base/args.h"
#include "base/call.h"

#include <math.h>

enum { WAIT_FOR, WAIT_TIMEOUT };                 /* AccelCoro.args */
enum { WAIT_TASK, WAIT_TIMER, WAIT_CANCELLING }; /* AccelCoro.held */
enum { WAIT_ENTERED, WAIT_EXPIRING };            /* AccelCoro.step */

/* The timer's callback, called with the coroutine: Timeout._on_timeout(). */
static PyObject *
wait_timed_out(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    AccelCoro *self = (AccelCoro *)args[0];
    assert(nargs == 1);
    (void)nargs;
    LockHold hold;
    lock_enter(&self->coro.loop->lock, &hold);
    PyObject *task = Py_XNewRef(self->held[WAIT_TASK]);
    PyObject *cancelled =
        task != NULL ? call_method0(task, self->coro.loop->state->str_cancel) : NULL;
    if (cancelled != NULL) {
        self->step = WAIT_EXPIRING;
    }
    lock_exit(&hold);
    Py_XDECREF(task);
    if (cancelled == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        Py_RETURN_NONE; /* the wait is over: nobody is to be cancelled */
    }
    Py_DECREF(cancelled);
    Py_RETURN_NONE;
}

static PyMethodDef wait_callback = {
    "_on_timeout",
    (PyCFunction)(void (*)(void))wait_timed_out,
    METH_FASTCALL,
    NULL,
};

/* Whether `await fut` is known to wait, or to raise what the interpreter raises. 1, 0,
 * -1. */
static int
wait_can_await(PyloopState *state, PyObject *fut)
{
    if (!PyCoro_CheckExact(fut)) {
        PyAsyncMethods *methods = Py_TYPE(fut)->tp_as_async;
        return methods != NULL && methods->am_await != NULL;
    }
    PyObject *awaiting = PyObject_GetAttr(fut, state->str_cr_await);
    Py_XDECREF(awaiting);
    return awaiting == NULL ? -1 : awaiting == Py_None;
}

/* The seconds of an ordinary timeout, INFINITY for None; NAN: asyncio knows. */
static double
wait_seconds(PyObject *timeout)
{
    if (timeout == Py_None) {
        return INFINITY;
    }
    double seconds = accel_seconds(timeout);
    return seconds > 0 && seconds < INFINITY ? seconds : NAN;
}

/* Holds the running task and how often it is being cancelled. 1, 0 without one, -1. */
static int
wait_enter(AccelCoro *self)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *task = accel_current_task(self->coro.loop);
    if (task == NULL) {
        return -1;
    }
    if (task == Py_None) {
        Py_DECREF(task);
        return 0;
    }
    self->held[WAIT_TASK] = task;
    self->held[WAIT_CANCELLING] = call_method0(task, state->str_cancelling);
    return self->held[WAIT_CANCELLING] != NULL ? 1 : -1;
}

/* Starts the timer. 1, 0 if the time is over already (asyncio knows), -1. */
static int
wait_start_timer(AccelCoro *self, double seconds)
{
    LoopObject *loop = self->coro.loop;
    double deadline = loop_clock() + seconds;
    if (deadline <= loop_clock()) {
        return 0;
    }
    PyObject *when = PyFloat_FromDouble(deadline);
    if (when == NULL) {
        return -1;
    }
    PyObject *args[] = {when, self->function->callback, (PyObject *)self};
    self->held[WAIT_TIMER] = timers_call_at((PyObject *)loop, args, 3, NULL);
    Py_DECREF(when);
    return self->held[WAIT_TIMER] != NULL ? 1 : -1;
}

static int
wait_stop_timer(AccelCoro *self)
{
    PyObject *timer = self->held[WAIT_TIMER];
    if (timer == NULL) {
        return 0;
    }
    self->held[WAIT_TIMER] = NULL;
    int rc = accel_finally(timer, self->coro.loop->state->str_cancel);
    Py_DECREF(timer);
    return rc;
}

static CoroStatus
wait_start(AccelCoro *self, PyObject **Py_UNUSED(result))
{
    LoopObject *loop = self->coro.loop;
    PyObject *fut = self->args[WAIT_FOR];
    double seconds = wait_seconds(self->args[WAIT_TIMEOUT]);
    int known =
        !isnan(seconds) && !(loop_overrides(loop) & (OVERRIDE_TIME | OVERRIDE_CALL_AT));
    if (known) {
        known = wait_can_await(loop->state, fut);
    }
    if (known > 0) {
        known = wait_enter(self);
    }
    if (known > 0 && seconds < INFINITY) {
        known = wait_start_timer(self, seconds);
    }
    if (known <= 0) {
        return known < 0 ? CORO_ERROR : accel_delegate(self);
    }
    CoroStatus status = coro_await(&self->coro, fut);
    if (status == CORO_ERROR) {
        (void)wait_stop_timer(self);
    }
    return status;
}

static CoroStatus
wait_go_on(AccelCoro *self, PyObject *value, PyObject **result)
{
    if (wait_stop_timer(self) < 0) {
        return CORO_ERROR;
    }
    if (self->step == WAIT_EXPIRING &&
        accel_finally(self->held[WAIT_TASK], self->coro.loop->state->str_uncancel) <
            0) {
        return CORO_ERROR;
    }
    *result = Py_NewRef(value);
    return CORO_RETURN;
}

/* Raises what asyncio's Timeout makes of the exception that is set. */
static CoroStatus
wait_expire(AccelCoro *self)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *args[] = {NULL, self->held[WAIT_TASK], self->held[WAIT_CANCELLING],
                        raised};
    PyObject *outer = PyErr_GetHandledException();
    PyErr_SetHandledException(raised);
    PyObject *done = call_vector(self->function->helper, args + 1, 3);
    PyErr_SetHandledException(outer);
    Py_XDECREF(outer);
    if (done != NULL) {
        Py_DECREF(done);
        PyErr_SetRaisedException(raised);
    }
    else {
        Py_DECREF(raised);
    }
    return CORO_ERROR;
}

static CoroStatus
wait_caught(AccelCoro *self, PyObject **Py_UNUSED(result))
{
    if (wait_stop_timer(self) < 0 || self->step != WAIT_EXPIRING) {
        return CORO_ERROR;
    }
    return wait_expire(self);
}

static const AccelBody wait_body = {ACCEL_CORO("wait_for"), wait_start, wait_go_on,
                                    wait_caught};

static PyObject *
wait_call(AccelFunction *self, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    static const char *const names[] = {"fut", "timeout"};
    static const ArgsSpec spec = {"wait_for", names, 2, 2, 2};
    PyObject *values[2];
    if (kwnames == NULL) {
        return nargs == 2 ? accel_coro_new(self, &wait_body, args, nargs) : NULL;
    }
    if (args_parse(&spec, args, nargs, kwnames, values) < 0) {
        PyErr_Clear(); /* asyncio's function words it */
        return NULL;
    }
    return accel_coro_new(self, &wait_body, values, 2);
}

const AccelKind accel_wait_for = {"wait_for", wait_call, &wait_callback};
