/* attributes.c - what asyncio's objects keep in their instance dicts.
 *
 * An object of asyncio's own class, with nothing in its dict but what the class puts there,
 * has all its methods from the class: none is replaced in the instance.
 */
#include "accel/accel.h"

#include "base/call.h"

PyObject *
accel_dict(PyloopState *state, PyObject *object, Py_ssize_t count, PyObject **loop)
{
    PyObject *dict = PyObject_GenericGetDict(object, NULL);
    *loop = NULL;
    if (dict == NULL) {
        return NULL;
    }
    if (PyDict_GET_SIZE(dict) != count) {
        *loop = accel_item_at(dict, count, state->str__loop);
        if (*loop == NULL || PyDict_GET_SIZE(dict) != count + 1) {
            Py_CLEAR(*loop);
            Py_CLEAR(dict);
        }
    }
    return dict;
}

CoroStatus
accel_wait_in(AccelCoro *self, PyObject *object, PyObject *bound_to, PyObject *waiters,
              PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    if (bound_to != (PyObject *)self->coro.loop) {
        PyObject *loop = call_method0(object, state->str__get_loop);
        if (loop == NULL) {
            return CORO_ERROR;
        }
        bool same = loop == (PyObject *)self->coro.loop;
        Py_DECREF(loop);
        if (!same) {
            return accel_delegate(self); /* another one runs here since the start */
        }
    }
    PyObject *future = accel_create_future(self);
    if (future == NULL) {
        return CORO_ERROR;
    }
    Py_XSETREF(self->held[ACCEL_WAITER], future);
    PyObject *added = accel_append(state, waiters, future);
    if (added == NULL) {
        return CORO_ERROR;
    }
    Py_DECREF(added);
    return accel_await_future(self, result);
}

CoroStatus
accel_interrupted(AccelCoro *self)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *args[] = {NULL, self->args[0], self->held[ACCEL_WAITER], raised};
    PyObject *outer = PyErr_GetHandledException();
    PyErr_SetHandledException(raised);
    PyObject *done = call_vector(self->function->helper, args + 1, 3);
    PyErr_SetHandledException(outer);
    Py_XDECREF(outer);
    if (done == NULL) {
        Py_DECREF(raised);
        return CORO_ERROR;
    }
    Py_DECREF(done);
    PyErr_SetRaisedException(raised);
    return CORO_ERROR;
}

/* Whether a waiter was not done and is woken: 1, 0, -1. */
static int
accel_wake(PyloopState *state, PyObject *waiter)
{
    PyTypeObject *type = (PyTypeObject *)state->FutureClass;
    PyObject *done = accel_call0(type, state->future_done, waiter, state->str_done);
    Py_XDECREF(done);
    if (done != Py_False) {
        return done != NULL ? 0 : -1;
    }
    done = accel_call1(type, state->future_set_result, waiter, state->str_set_result,
                       Py_None);
    Py_XDECREF(done);
    return done != NULL ? 1 : -1;
}

int
accel_wake_next(PyloopState *state, PyObject *waiters)
{
    for (Py_ssize_t left; (left = PyObject_Size(waiters)) != 0;) {
        PyObject *waiter = left > 0 ? accel_popleft(state, waiters) : NULL;
        int woken = waiter != NULL ? accel_wake(state, waiter) : -1;
        Py_XDECREF(waiter);
        if (woken != 0) {
            return woken < 0 ? -1 : 0;
        }
    }
    return 0;
}
