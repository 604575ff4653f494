/* coros.c - the coroutines of accelerated functions: what all of their bodies share. */
#include "accel/accel.h"

#include "base/call.h"

/* Borrowed from whoever runs it; None, or NULL with an exception. */
static inline PyObject *
accel_running(PyloopState *state)
{
    PyObject *function = state->get_running_loop;
    /* A function without arguments in C, unless asyncio has none. */
    PyObject *running =
        PyCFunction_CheckExact(function) &&
                PyCFunction_GET_FLAGS(function) == METH_NOARGS
            ? PyCFunction_GET_FUNCTION(function)(PyCFunction_GET_SELF(function), NULL)
            : PyObject_CallNoArgs(function);
    Py_XDECREF(running); /* it runs: somebody else has it */
    return running;
}

LoopObject *
accel_running_loop(PyloopState *state)
{
    PyObject *running = accel_running(state);
    bool plain = running != NULL && PyObject_TypeCheck(running, state->LoopType) &&
                 !((LoopObject *)running)->debug;
    return plain ? (LoopObject *)running : NULL;
}

int
accel_runs(LoopObject *loop)
{
    PyObject *running = accel_running(loop->state);
    return running == NULL ? -1 : running == (PyObject *)loop && !loop->debug;
}

PyObject *
accel_current_task(LoopObject *loop)
{
    return call_one_arg(loop->state->current_task, (PyObject *)loop);
}

PyObject *
accel_create_future(AccelCoro *self)
{
    LoopObject *loop = self->coro.loop;
    int runs = self->starts ? 1 : accel_runs(loop);
    if (runs < 0) {
        return NULL;
    }
    return runs ? loop_create_future_running(loop) : loop_create_future(loop);
}

PyObject *
accel_coro_new(AccelFunction *function, const AccelBody *body, PyObject *const *args,
               Py_ssize_t nargs)
{
    assert(nargs <= ACCEL_ARGS);
    LoopObject *loop = accel_running_loop(function->state);
    if (loop == NULL) {
        return NULL;
    }
    AccelCoro *self =
        (AccelCoro *)coro_new(function->state->AccelCoroType, &body->coro, loop);
    if (self == NULL) {
        return NULL;
    }
    self->function = (AccelFunction *)Py_NewRef((PyObject *)function);
    for (Py_ssize_t i = 0; i < nargs; i++) {
        self->args[i] = Py_NewRef(args[i]);
    }
    return (PyObject *)self;
}

CoroStatus
accel_delegate(AccelCoro *self)
{
    size_t nargs = 0;
    PyObject *values[1 + ACCEL_ARGS] = {NULL};
    while (nargs < ACCEL_ARGS && self->args[nargs] != NULL) {
        values[1 + nargs] = self->args[nargs];
        nargs++;
    }
    PyObject *coroutine = call_vector(self->function->original, values + 1, nargs);
    if (coroutine == NULL) {
        return CORO_ERROR;
    }
    self->delegated = true;
    CoroStatus status = coro_await(&self->coro, coroutine);
    Py_DECREF(coroutine);
    return status;
}

CoroStatus
accel_await_future(AccelCoro *self, PyObject **result)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *future = self->held[ACCEL_WAITER];
    PyObject *blocking = state->future_blocking;
    if (!Py_IS_TYPE(future, (PyTypeObject *)state->FutureClass) ||
        !Py_IS_TYPE(blocking, &PyGetSetDescr_Type)) {
        return coro_await(&self->coro, future);
    }
    /* What its iterator would do, which is an object more for each await. */
    if (accel_set(blocking, future, state->str__asyncio_future_blocking, Py_True) < 0) {
        return CORO_ERROR;
    }
    self->waits = true;
    self->waited = false;
    *result = Py_NewRef(future);
    return CORO_YIELD;
}

/* The result of the future that was yielded, as its iterator returns or raises it. */
static PyObject *
accel_awaited(AccelCoro *self)
{
    PyloopState *state = self->coro.loop->state;
    PyObject *future = self->held[ACCEL_WAITER];
    PyTypeObject *type = (PyTypeObject *)state->FutureClass;
    PyObject *result =
        accel_call0(type, state->future_result, future, state->str_result);
    if (result != NULL) {
        return result;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *done = accel_call0(type, state->future_done, future, state->str_done);
    Py_XDECREF(done);
    if (done == Py_True) {
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    Py_DECREF(exc);
    if (done != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
    }
    return NULL;
}

static inline const AccelBody *
accel_body(AccelCoro *self)
{
    return (const AccelBody *)self->coro.kind;
}

CoroStatus
accel_resume(CoroObject *coro, PyObject *value, PyObject **result)
{
    AccelCoro *self = (AccelCoro *)coro;
    if (self->started) {
        if (self->delegated) {
            *result = Py_NewRef(value);
            return CORO_RETURN;
        }
        if (!self->waits) {
            return accel_body(self)->go_on(self, value, result);
        }
        self->waits = false;
        value = accel_awaited(self);
        self->waited = value == Py_None || value == Py_True;
        CoroStatus status = value != NULL ? accel_body(self)->go_on(self, value, result)
                                          : accel_body(self)->caught(self, result);
        Py_XDECREF(value);
        return status;
    }
    self->started = true;
    int runs = accel_runs(coro->loop);
    if (runs <= 0) {
        return runs < 0 ? CORO_ERROR : accel_delegate(self);
    }
    self->starts = true;
    CoroStatus status = accel_body(self)->start(self, result);
    self->starts = false;
    return status;
}

CoroStatus
accel_caught(CoroObject *coro, PyObject **result)
{
    AccelCoro *self = (AccelCoro *)coro;
    self->waits = false;
    return self->delegated ? CORO_ERROR : accel_body(self)->caught(self, result);
}

void
accel_release(CoroObject *coro)
{
    AccelCoro *self = (AccelCoro *)coro;
    for (size_t i = 0; i < ACCEL_ARGS; i++) {
        Py_CLEAR(self->args[i]);
    }
    if (self->waited) {
        PyObject *future = self->held[ACCEL_WAITER];
        self->held[ACCEL_WAITER] = NULL;
        loop_spend_future(coro->loop, future);
    }
    for (size_t i = 0; i < ACCEL_HELD; i++) {
        Py_CLEAR(self->held[i]);
    }
    Py_CLEAR(self->function);
}

int
accel_traverse(CoroObject *coro, visitproc visit, void *arg)
{
    AccelCoro *self = (AccelCoro *)coro;
    for (size_t i = 0; i < ACCEL_ARGS; i++) {
        Py_VISIT(self->args[i]);
    }
    for (size_t i = 0; i < ACCEL_HELD; i++) {
        Py_VISIT(self->held[i]);
    }
    Py_VISIT(self->function);
    return 0;
}

int
accel_finally(PyObject *object, PyObject *name)
{
    PyObject *raised = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    PyObject *done = call_method0(object, name);
    if (done == NULL) {
        if (raised != NULL) {
            PyObject *exc = PyErr_GetRaisedException();
            PyException_SetContext(exc, raised);
            PyErr_SetRaisedException(exc);
        }
        return -1;
    }
    Py_DECREF(done);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return 0;
}

PyTypeObject *
accelcoro_type_create(PyObject *module)
{
    return coro_type_create(module, "pyloop._core.AccelCoro", sizeof(AccelCoro),
                            "A coroutine of an accelerated function of asyncio's.");
}
